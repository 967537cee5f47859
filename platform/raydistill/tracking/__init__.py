"""What jobs write to MLflow: runs, metrics and versions of students."""
