"""Explanation methods, one file per family."""
