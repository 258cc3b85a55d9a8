"""Codes changed: what is known of latents, directions learnt, paths."""
