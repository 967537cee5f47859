"""Blocks of a model as ``torch.compile`` makes them: what lies between matrix products and attention runs as one."""

import os
import shutil
import sys
from importlib.util import find_spec
from typing import Any

from torch import nn

from raydistill.models.blocks import blocks_of, family_of
from raydistill.models.blocks._attention import keep_apart
from raydistill.models.blocks._base import Blocks


def refusal(config: Any, head: str) -> str | None:
    """Why the blocks of a model with this configuration cannot be compiled, in a few words; None if they can."""
    family = family_of(config, head)
    if not family.IN_PARTS:
        return f"a {config.model_type} runs whole, on padded rows"
    if family.run_block is not Blocks.run_block:
        return f"the blocks of a {config.model_type} run in pieces around their own attention"
    return None


def missing_compiler(*, use_gpu: bool) -> str | None:
    """What ``torch.compile`` needs and this machine does not have; None if it is all there."""
    if use_gpu and find_spec("triton") is None:
        return "the package triton"
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    return None if shutil.which(compiler) else f"the compiler {compiler}"


def compile_blocks(model: nn.Module, *, backend: str = "inductor") -> None:
    """Let each block of a model be compiled when it first runs, for rows of any length.

    Its values differ by rounding alone. Attention is called from what was compiled, so that its kernels stay those
    that are chosen without it.
    """
    keep_apart()
    for layer in blocks_of(model).layers:
        layer.compile(backend=backend, dynamic=True)
