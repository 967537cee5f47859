"""Models whose weights wait in a file: mapped while they run on the CPU, copied to another device for that time."""

import os
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

_ATTRIBUTE = "raydistill_waiting_weights"


class _WaitingWeights:
    """The file of a model's weights, and how many blocks of code use them at this time."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.device = device
        self.users = 0
        handle, name = tempfile.mkstemp(suffix=".safetensors")
        try:
            # A tied weight has one name here.
            weights = {name: weight.detach().contiguous() for name, weight in model.named_parameters()}
            save_file(weights, name)
            os.close(handle)
            handle = os.open(name, os.O_RDONLY)
        finally:
            # Without a name it is gone with the process, however that ends.
            Path(name).unlink()
        self.path = f"/proc/self/fd/{handle}"
        weakref.finalize(self, os.close, handle)


def put_away(model: nn.Module, *, device: torch.device) -> nn.Module:
    """Write a model's weights to a file among the temporary ones (``TMPDIR``) and let go of them; returns the model.

    Inside ``weights_present`` they are on ``device``, where what else the model has lies always.
    """
    waiting = _WaitingWeights(model, device)
    _let_go(model)
    setattr(model.to(device), _ATTRIBUTE, waiting)
    return model


@contextmanager
def weights_present(model: nn.Module) -> Iterator[None]:
    """Inside, a model that was put away has its weights, read anew; any other has them anyhow.

    On the CPU they are mapped: what of them is in memory belongs to the system's cache of files, which gives it up when
    memory runs short. For another device they are copied there, one after the other.
    """
    waiting: Any = getattr(model, _ATTRIBUTE, None)
    if waiting is None:
        yield
        return
    waiting.users += 1
    try:
        if waiting.users == 1:
            with safe_open(waiting.path, framework="pt") as file:
                for name, parameter in model.named_parameters():
                    parameter.data = file.get_tensor(name).to(waiting.device)
        yield
    finally:
        waiting.users -= 1
        if waiting.users == 0:
            _let_go(model)


def _let_go(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data = parameter.data.new_empty(0)
