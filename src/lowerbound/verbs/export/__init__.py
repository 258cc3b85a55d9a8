"""Models for programs that have no lowerbound."""
