"""Annotations, images and samples."""
