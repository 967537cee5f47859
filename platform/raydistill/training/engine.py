"""The only importer of DeepSpeed: it wraps a whole ``Distiller``, steps it, saves and restores it."""

import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from raydistill.batch import Batch
from raydistill.methods._base import Distiller
from raydistill.optim.parameter_groups import parameter_groups

_ENGINE_HOLDS = -1
"""Pseudo module id by which the engine keeps a gathered weight from being released by module hooks."""


def prepare_environment(*, use_gpu: bool) -> None:
    """Settings that DeepSpeed reads when it is imported; called first in each worker."""
    if not use_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    # DeepSpeed compiles a small extension with ninja, which lies beside the interpreter of a virtual environment.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)


@contextmanager
def sharded_loading(config: Mapping[str, Any] | None) -> Iterator[None]:
    """Inside, ``from_pretrained`` shards what it loads over the ranks, if ``config`` is one of ZeRO stage 3."""
    from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

    # transformers keeps a weak reference: the object must live as long as models are loaded.
    alive = HfDeepSpeedConfig(dict(config)) if config is not None else None
    try:
        yield
    finally:
        del alive
        unset_hf_deepspeed_config()


def shard_teacher(teacher: nn.Module, config: Mapping[str, Any]) -> nn.Module:
    """Install the hooks that gather a sharded teacher's weights block by block while it runs."""
    import deepspeed

    engine = deepspeed.initialize(model=teacher, config=dict(config))[0]
    # A tuple, so that the module does not take the engine, which holds the module, for a child.
    object.__setattr__(teacher, "raydistill_engine", (engine,))
    return teacher


def held_numel(model: nn.Module) -> int:
    """Elements of a model's parameters that this rank holds while nothing runs."""
    return sum(
        parameter.ds_tensor.numel() if hasattr(parameter, "ds_tensor") else parameter.numel()
        for parameter in model.parameters()
    )


class Engine:
    """A ``Distiller`` with its optimizer under DeepSpeed.

    Losses are sums divided by global counts, so gradients of micro-batches and ranks must add up; DeepSpeed
    averages them over both, which ``backward`` undoes.
    """

    def __init__(
        self,
        distiller: Distiller,
        config: Mapping[str, Any],
        *,
        betas: tuple[float, float],
        epsilon: float,
        weight_decay: float,
    ) -> None:
        import deepspeed

        deepspeed.init_distributed(dist_backend=dist.get_backend(), verbose=False)
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        self.distiller = distiller
        self.num_micro_batches = int(config["gradient_accumulation_steps"])
        groups = parameter_groups(distiller, weight_decay=weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=epsilon)
        self._engine: Any = deepspeed.initialize(model=distiller, optimizer=optimizer, config=dict(config))[0]
        self.device: torch.device = self._engine.device
        self._read_directly = [
            parameter
            for teacher in distiller.teachers
            for parameter in teacher.get_output_embeddings().parameters()  # type: ignore[operator]
            if hasattr(parameter, "ds_id")
        ]

    def step(
        self, batches: Sequence[Batch], denominators: Sequence[dict[str, Tensor]], *, learning_rate: float
    ) -> dict[str, Tensor]:
        """One optimizer step over this rank's micro-batches; returns this rank's sums of the terms and ``loss``."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.train()
        undo_averages = dist.get_world_size() * self.num_micro_batches
        totals: dict[str, Tensor] = {}
        for batch, counts in zip(batches, denominators, strict=True):
            loss, terms = self._forward(batch, counts)
            self._engine.backward(loss * undo_averages)
            self._engine.step()
            _add(totals, {"loss": loss.detach(), **terms})
        return totals

    @torch.no_grad()
    def evaluate(self, batches: Sequence[Batch], denominators: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """This rank's sums of the terms and ``loss`` without dropout; every rank must bring equally many batches."""
        self._engine.eval()
        totals: dict[str, Tensor] = {}
        for batch, counts in zip(batches, denominators, strict=True):
            loss, terms = self._forward(batch, counts)
            _add(totals, {"loss": loss, **terms})
        return totals

    def _forward(self, batch: Batch, denominators: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        with self._gathered_projections():
            loss, terms = self._engine(batch, denominators)
        return loss, terms

    @contextmanager
    def _gathered_projections(self) -> Iterator[None]:
        """A sharded teacher's vocabulary projection, whole while the distiller runs.

        Its weight is read directly, outside the calls whose hooks would gather it, and it is often tied to the
        embeddings, whose own hook would release it again.
        """
        for parameter in self._read_directly:
            parameter.all_gather()
            parameter.ds_active_sub_modules.add(_ENGINE_HOLDS)
        try:
            yield
        finally:
            for parameter in self._read_directly:
                parameter.ds_active_sub_modules.discard(_ENGINE_HOLDS)
                parameter.partition()

    def save(self, folder: Path, state: dict[str, Any]) -> None:
        """Write this rank's share of weights and optimizer, and ``state``; all ranks call it."""
        self._engine.save_checkpoint(str(folder), tag="state", client_state=state, exclude_frozen_parameters=False)

    def load(self, folder: Path) -> dict[str, Any]:
        """Restore what ``save`` wrote with as many ranks; returns its state. Raises ValueError if it is incomplete."""
        path, state = self._engine.load_checkpoint(str(folder), tag="state")
        if path is None:
            raise ValueError(f"checkpoint {str(folder)!r} is incomplete; remove it to continue from the one before")
        return dict(state)

    def student_state(self) -> dict[str, Tensor] | None:
        """The student's whole state on the CPU at rank 0, None elsewhere; all ranks call it."""
        import deepspeed

        student = self.distiller.student
        state: dict[str, Tensor] = {}
        is_first = dist.get_rank() == 0
        # Tied weights stand under each of their names, so that the state can be loaded strictly.
        tensors: dict[str, Tensor] = dict(student.named_parameters(remove_duplicate=False))
        tensors |= dict(student.named_buffers(remove_duplicate=False))
        for name in student.state_dict():
            tensor = tensors[name]
            with deepspeed.zero.GatheredParameters([tensor], enabled=hasattr(tensor, "ds_id")):
                if is_first:
                    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
                    state[name] = tensor.detach().to("cpu", dtype, copy=True)
        return state if is_first else None

    def close(self) -> None:
        """Free the engine's hooks and buffers."""
        self._engine.destroy()


def _add(totals: dict[str, Tensor], terms: Mapping[str, Tensor]) -> None:
    for name, value in terms.items():
        totals[name] = totals[name] + value.double() if name in totals else value.double()
