"""Interchange interventions: where activations are read and written, and at which positions."""
