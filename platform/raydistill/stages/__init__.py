"""Stages of a job; one file a stage, its name the file's."""
