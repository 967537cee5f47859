"""Loss terms: tensors and floats in, tensors out."""
