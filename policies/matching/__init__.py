"""Similarity proposes: from candidates to resume attempts."""
