"""Turns trained weights into model bundles."""
