"""Lossless coding: what a model says of images as a file, and back."""
