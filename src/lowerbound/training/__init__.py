"""A recipe into a run, stage by stage."""
