"""Methods: the loss between a student and its teachers; one file a method, its name the file's."""
