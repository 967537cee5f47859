"""Methods as Python objects, for training loops that are not raydistill's own."""
