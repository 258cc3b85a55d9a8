"""One file, or one folder of its name, for each verb; none imports another."""
