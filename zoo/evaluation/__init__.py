"""A checkpoint -> its numbers."""
