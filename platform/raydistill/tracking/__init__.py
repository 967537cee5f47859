"""Runs, metrics and the model registry; the only importers of MLflow."""
