"""From rows of a source to micro-batches in a planned order."""
