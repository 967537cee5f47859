"""raydistill: knowledge distillation of transformer language models on Ray."""

__version__ = "0.1.0"
