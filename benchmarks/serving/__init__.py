"""Serving systems side by side: the same requests, the same app, another way to batch."""
