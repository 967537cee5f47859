"""Models whose linear layers hold a byte a weight, by the library ``bitsandbytes``, on GPUs.

Source: Dettmers et al. 2022, "LLM.int8(): 8-bit matrix multiplication for transformers at scale". It was not
measured on a GPU.
"""

from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from raydistill.models.kept_units import kept_of
from raydistill.user_error import UserError


def check(key: str, config: Any, *, use_gpu: bool) -> None:
    """Raise UserError for a model of this configuration that cannot be held so here; ``key`` is what asks for it."""
    if not use_gpu:
        raise UserError(f"{key} is 'int8', which needs GPUs; set scaling.use_gpu, or leave it out")
    if find_spec("bitsandbytes") is None:
        raise UserError(f"{key} is 'int8', which needs the library bitsandbytes; pip install bitsandbytes")
    if kept_of(config) is not None:
        raise UserError(
            f"{key} is 'int8', but the model is pruned, and pruned models are read differently; leave it out"
        )


def quantized_on(device: torch.device) -> dict[str, Any]:
    """What ``from_pretrained`` of transformers is told besides."""
    from transformers import BitsAndBytesConfig

    return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True), "device_map": {"": device}}


def num_quantized(model: Any) -> int:
    """Weights that take a byte each: of linear layers but the last one, which transformers leaves as it is."""
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    output = model.get_output_embeddings() or linear[-1]
    return sum(module.weight.numel() for module in linear if module is not output)
