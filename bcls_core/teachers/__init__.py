"""Frozen encoders whose embeddings become labels."""
