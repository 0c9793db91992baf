"""Remembered generations: the Redis catalogue, the state store and the vector index."""
