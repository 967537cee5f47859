"""Metrics: one file each, with ``metric(predictions, labels)``, what it is ``OF`` and its direction."""
