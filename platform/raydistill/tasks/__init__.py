"""Tasks: what an example means; one file a task, its name the file's."""
