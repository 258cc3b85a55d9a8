"""The run folder, all of it."""
