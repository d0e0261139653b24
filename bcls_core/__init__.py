"""Graded supervision for image-text retrieval: the library, free of Ray and MLflow."""

__version__ = "0.1.0"
