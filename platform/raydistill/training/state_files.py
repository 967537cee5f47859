"""Tensors of a checkpoint: safetensors files written by all ranks, and ``state.json``, which says where each one is.

The files do not depend on how the weights were spread: any number of workers and any ZeRO stage reads them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from raydistill.training.master_state import MasterState
from raydistill.user_error import UserError

STATE = "state.json"

_WEIGHT = "weight"
_BUFFER = "buffer"
_FORMAT = 1
_FILE_BYTES = 256 * 2**20
"""Tensors wait in memory until a file has so many bytes."""


def write_state(
    masters: MasterState, buffers: Mapping[str, Tensor], folder: Path, state: Mapping[str, Any]
) -> list[str]:
    """Write weights, optimizer state and ``state`` into an existing folder; returns the files that this rank wrote.

    All ranks call it: one parameter is gathered at a time, and kept by one rank. Raises OSError or SafetensorError,
    after the last collective.
    """
    rank, num_ranks = dist.get_rank(), dist.get_world_size()
    writer = _Writer(folder, f"tensors-{rank:05d}")
    keys, steps = masters.keys(), masters.steps()
    for index, name in enumerate(masters.shapes):
        for key in (None, *keys):
            whole = masters.gather(name, key)
            if index % num_ranks == rank:
                writer.add(f"{key or _WEIGHT}/{name}", whole)
    if rank == 0:
        for name, buffer in buffers.items():
            writer.add(f"{_BUFFER}/{name}", buffer)
    writer.flush()
    places: list[dict[str, str]] = [{} for _ in range(num_ranks)]
    dist.all_gather_object(places, writer.places)
    if rank == 0:
        description = {
            "format": _FORMAT,
            "state": dict(state),
            "optimizer": {"keys": keys, "steps": steps, "loss_scale": masters.loss_scale()},
            "parameters": masters.shapes,
            "buffers": {name: tuple(buffer.shape) for name, buffer in buffers.items()},
            "tensors": {name: file for part in places for name, file in part.items()},
        }
        writer.write_text(STATE, json.dumps(description))
    if writer.failure is not None:
        raise writer.failure
    return writer.files


def read_state(masters: MasterState, buffers: Mapping[str, Tensor], folder: Path) -> dict[str, Any]:
    """Restore this rank's shares from what ``write_state`` wrote; returns its ``state``.

    Runs no collective; ``masters.refresh()`` follows. Raises ValueError when the checkpoint has other parameters.
    """
    description = json.loads((folder / STATE).read_text(encoding="utf-8"))
    if description["format"] != _FORMAT:
        raise UserError(f"its format is {description['format']}, this version reads {_FORMAT}")
    _check_names(description["parameters"], masters.shapes)
    _check_names(description["buffers"], {name: buffer.shape for name, buffer in buffers.items()})
    reader = _Reader(folder, description["tensors"])
    optimizer = description["optimizer"]
    for name in masters.shapes:
        if masters.holds(name):
            for key in (None, *optimizer["keys"]):
                masters.put(name, key, reader.tensor(f"{key or _WEIGHT}/{name}"))
    masters.put_steps(optimizer["steps"])
    masters.put_loss_scale(optimizer["loss_scale"])
    for name, buffer in buffers.items():
        buffer.copy_(reader.tensor(f"{_BUFFER}/{name}"))
    state: dict[str, Any] = description["state"]
    return state


def _check_names(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    missing, unexpected = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing:
        raise UserError(f"it lacks {missing[0]}, which this training has")
    if unexpected:
        raise UserError(f"it has {unexpected[0]}, which this training lacks")
    for name, shape in found.items():
        if tuple(shape) != tuple(expected[name]):
            raise UserError(f"its {name} has shape {tuple(shape)}, this training's has {tuple(expected[name])}")


class _Writer:
    """Collects tensors and writes them to numbered files.

    Keeps the first failure for the end and writes nothing after it, so that a rank whose disk is full still takes its
    part in the collectives of the others.
    """

    def __init__(self, folder: Path, prefix: str) -> None:
        self.places: dict[str, str] = {}
        self.files: list[str] = []
        self.failure: Exception | None = None
        self._folder, self._prefix = folder, prefix
        self._waiting: dict[str, Tensor] = {}
        self._num_bytes = 0

    def add(self, name: str, tensor: Tensor) -> None:
        copied = tensor.detach().to("cpu", copy=True).contiguous()
        self._waiting[name] = copied
        self._num_bytes += copied.nbytes
        if self._num_bytes >= _FILE_BYTES:
            self.flush()

    def flush(self) -> None:
        waiting, self._waiting, self._num_bytes = self._waiting, {}, 0
        if not waiting or self.failure is not None:
            return
        file = f"{self._prefix}-{len(self.files):03d}.safetensors"
        self.places |= dict.fromkeys(waiting, file)
        self._write(file, lambda path: save_file(waiting, path))

    def write_text(self, file: str, text: str) -> None:
        if self.failure is None:
            self._write(file, lambda path: path.write_text(text, encoding="utf-8"))

    def _write(self, file: str, write: Any) -> None:
        self.files.append(file)
        try:
            write(self._folder / file)
        except (OSError, SafetensorError) as error:
            self.failure = error


class _Reader:
    """Reads single tensors; keeps the file open that was read last."""

    def __init__(self, folder: Path, places: Mapping[str, str]) -> None:
        self._folder, self._places = folder, places
        self._files: dict[str, Any] = {}

    def tensor(self, name: str) -> Tensor:
        file = self._places[name]
        if file not in self._files:
            self._files = {file: safe_open(self._folder / file, framework="pt")}
        found: Tensor = self._files[file].get_tensor(name)
        return found
