"""Registered students: found, shown, compared, promoted, and fetched as checkpoints of a job."""
