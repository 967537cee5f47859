"""A job: its file, the checks before it starts, and its run."""
