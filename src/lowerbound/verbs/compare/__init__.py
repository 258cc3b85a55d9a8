"""One table over runs of any family."""
