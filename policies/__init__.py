"""Decisions without I/O: what to match, what to evict, what to admit, what to reuse."""
