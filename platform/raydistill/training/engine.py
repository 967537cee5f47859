"""The only importer of DeepSpeed: it wraps a whole ``Distiller``, steps it, saves and restores it."""

import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from raydistill.batch import Batch
from raydistill.methods._base import Distiller
from raydistill.training.agreement import agree
from raydistill.training.master_state import MasterState
from raydistill.training.state_files import read_state, write_state

_ENGINE_HOLDS = -1
"""Pseudo module id by which the engine keeps a gathered weight from being released by module hooks."""


def prepare_environment(*, use_gpu: bool) -> None:
    """Import DeepSpeed with the settings that it reads only then; called first in each worker."""
    if not use_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    with _without("mlflow"):
        # Its tuner, which nothing here calls, would import MLflow, which takes longer than all the rest.
        import deepspeed.ops

    # On CPUs DeepSpeed would compile a reduction for inference, which training never calls. It takes a minute and a
    # compiler, and a process killed in it leaves a lock on which every later one waits for ever.
    deepspeed.ops.__compatible_ops__ = {}
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)


@contextmanager
def _without(package: str) -> Iterator[None]:
    """Let imports in the block find that a package is not installed, unless it is imported already."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]


def shard(model: nn.Module, config: Mapping[str, Any], *, dtype: torch.dtype, device: torch.device) -> None:
    """Share a whole model's weights out over the ranks, in place, as ``dtype``; its buffers are on ``device`` after.

    All ranks call it with the same model, of which rank 0's weights count, and a ``config`` of ZeRO stage 3. Beside
    its share a rank holds one whole weight at a time of a model whose weights are mapped from files.
    """
    import deepspeed

    is_first = dist.get_rank() == 0
    for parameter in model.parameters():
        # Memory of its own: what is received into mapped memory would stay until the last weight of the file is gone.
        whole = torch.empty(parameter.shape, dtype=dtype)
        if is_first:
            whole.copy_(parameter.detach())
        parameter.data = whole
        deepspeed.zero.Init(module=nn.ParameterList([parameter]), config_dict_or_path=dict(config))
    for buffer in model.buffers():
        buffer.data = buffer.data.to(device)


def shard_teacher(
    teacher: nn.Module, config: Mapping[str, Any], *, dtype: torch.dtype, device: torch.device
) -> nn.Module:
    """``shard`` with the hooks that gather a teacher's weights block by block while it runs; returns the teacher."""
    import deepspeed

    shard(teacher, config, dtype=dtype, device=device)
    engine = deepspeed.initialize(model=teacher, config=dict(config))[0]
    # A tuple, so that the module does not take the engine, which holds the module, for a child.
    object.__setattr__(teacher, "raydistill_engine", (engine,))
    return teacher


Score = Callable[[nn.Module, Batch], dict[str, Tensor]]
"""Sums that tell how well a student does on a batch, see ``TaskBase.score``."""


class _Scored(nn.Module):
    """What the engine wraps: the distiller's loss, and a score of its student when one is asked for.

    The score runs inside this forward because a sharded student's weights are gathered by its hooks.
    """

    def __init__(self, distiller: Distiller) -> None:
        super().__init__()
        self.distiller = distiller

    def forward(
        self, batch: Batch, denominators: dict[str, Tensor], score: Score | None
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        loss, terms = self.distiller(batch, denominators)
        return loss, terms, {} if score is None else score(self.distiller.student, batch)


class Engine:
    """A ``Distiller`` with its optimizer under DeepSpeed.

    Losses are sums divided by global counts, so gradients of micro-batches and ranks must add up; DeepSpeed
    averages them over both, which ``backward`` undoes.
    ``exact`` has weights of the student, by the identity of their parameter, that half precision rounds: the optimizer
    starts from them, and ``student_state`` has those that do not train as they were.
    """

    def __init__(
        self,
        distiller: Distiller,
        config: Mapping[str, Any],
        optimizer: torch.optim.Optimizer,
        *,
        exact: Mapping[int, Tensor] | None = None,
    ) -> None:
        import deepspeed

        deepspeed.init_distributed(dist_backend=dist.get_backend(), verbose=False)
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        self.distiller = distiller
        self.num_micro_batches = int(config["gradient_accumulation_steps"])
        self._engine: Any = deepspeed.initialize(model=_Scored(distiller), optimizer=optimizer, config=dict(config))[0]
        self.device: torch.device = self._engine.device
        zero_stage = config["zero_optimization"]["stage"]
        self._masters = MasterState(distiller, self._engine.optimizer, zero_stage=zero_stage)
        _look_once(self._engine.optimizer)
        # At stage 0 in half precision DeepSpeed has stepped it with gradients of 0, which Adam counts when it corrects
        # its moments' bias: its first real steps would be too short.
        self._masters.forget_steps()
        self._frozen = self._start_from(exact or {})
        self._is_alone = zero_stage == 0 and dist.get_world_size() == 1
        if self._is_alone:
            # There is nothing to add up, yet DeepSpeed would copy all gradients to one tensor and back.
            self._engine.enable_backward_allreduce = False
        self._read_directly = [
            parameter
            for teacher in distiller.teachers
            for parameter in _vocabulary_projection(teacher)
            if hasattr(parameter, "ds_id")
        ]

    def _start_from(self, exact: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Let the optimizer step these weights; returns those that do not train, which are empty but at rank 0."""
        frozen = {}
        for identity, weight in exact.items():
            if identity in self._masters.names:
                self._masters.put(self._masters.names[identity], None, weight)
            else:
                frozen[identity] = weight if dist.get_rank() == 0 else weight.new_empty(0)
        return frozen

    def step(
        self,
        batches: Sequence[Batch],
        denominators: Sequence[dict[str, Tensor]],
        *,
        learning_rate: float,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> dict[str, Tensor]:
        """One optimizer step over this rank's micro-batches; returns this rank's sums of the terms and ``loss``.

        ``meanwhile`` is called when a device has all passes before it, and DeepSpeed has not yet waited for their end.
        """
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate * group.get("rate_scale", 1.0)
        self._engine.train()
        undo_averages = dist.get_world_size() * self.num_micro_batches
        totals: dict[str, Tensor] = {}
        for number, (batch, counts) in enumerate(zip(batches, denominators, strict=True), start=1):
            loss, terms, _ = self._forward(batch, counts)
            self._engine.backward(loss * undo_averages)
            if self._is_alone:
                _fill_gradients(self.distiller)
            if number == len(batches):
                meanwhile()
            self._engine.step()
            _add(totals, {"loss": loss.detach(), **terms})
        return totals

    @torch.no_grad()
    def evaluate(
        self,
        batches: Sequence[Batch],
        denominators: Sequence[dict[str, Tensor]],
        score: Score,
        tell: Callable[[int], None] = lambda done: None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """This rank's sums without dropout: of the terms and ``loss``, and of the student's scores.

        Every rank must bring equally many batches. ``tell`` hears how many of them are done.
        """
        self._engine.eval()
        totals: dict[str, Tensor] = {}
        scores: dict[str, Tensor] = {}
        for number, (batch, counts) in enumerate(zip(batches, denominators, strict=True), start=1):
            loss, terms, sums = self._forward(batch, counts, score)
            _add(totals, {"loss": loss, **terms})
            _add(scores, sums)
            tell(number)
        return totals, scores

    def _forward(
        self, batch: Batch, denominators: dict[str, Tensor], score: Score | None = None
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        with self._gathered_projections():
            loss, terms, scores = self._engine(batch, denominators, score)
        return loss, terms, scores

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

    def save(self, folder: Path, state: Mapping[str, Any]) -> list[str]:
        """Write weights, optimizer and plain ``state`` into a folder; returns the files that this rank wrote.

        All ranks call it. Raises OSError or SafetensorError, after the last collective.
        """
        return write_state(self._masters, self._buffers(), folder, state)

    def load(self, folder: Path) -> dict[str, Any]:
        """Restore what ``save`` wrote with any number of ranks at any ZeRO stage; returns its state.

        All ranks call it. Raises StorageError when files cannot be read or are of another training.
        """
        state = agree(
            lambda: read_state(self._masters, self._buffers(), folder),
            subject=f"checkpoint {folder}",
            remedy="remove it to continue from the one before",
        )
        self._masters.refresh()
        return state

    def _buffers(self) -> dict[str, Tensor]:
        """What the distiller keeps besides parameters."""
        kept = self.distiller.state_dict().keys()
        return {name: buffer for name, buffer in self.distiller.named_buffers() if name in kept}

    def student_state(self) -> dict[str, Tensor] | None:
        """The student's whole state in float32 on the CPU at rank 0, None elsewhere; all ranks call it."""
        import deepspeed

        student = self.distiller.student
        state: dict[str, Tensor] = {}
        is_first = dist.get_rank() == 0
        # Tied weights stand under each of their names, so that the state can be loaded strictly.
        tensors: dict[str, Tensor] = dict(student.named_parameters(remove_duplicate=False))
        tensors |= dict(student.named_buffers(remove_duplicate=False))
        for name in student.state_dict():
            tensor = tensors[name]
            if id(tensor) in self._masters.names:
                # What the optimizer steps, not the rounded copy that a half-precision model computes with.
                whole = self._masters.gather(self._masters.names[id(tensor)], None)
                if is_first:
                    state[name] = whole.to("cpu", copy=True)
                continue
            if id(tensor) in self._frozen:
                if is_first:
                    state[name] = self._frozen[id(tensor)].to("cpu", torch.float32, copy=True)
                continue
            with deepspeed.zero.GatheredParameters([tensor], enabled=hasattr(tensor, "ds_id")):
                if is_first:
                    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
                    state[name] = tensor.detach().to("cpu", dtype, copy=True)
        return state if is_first else None

    def close(self) -> None:
        """Free the engine's hooks and buffers."""
        self._engine.destroy()


def _vocabulary_projection(model: Any) -> list[Any]:
    """Parameters that are read outside of the module that holds them; a classifier has none."""
    projection = model.get_output_embeddings()
    return [] if projection is None else list(projection.parameters())


def _look_once(optimizer: Any) -> None:
    """Let DeepSpeed wait once for a device that is to say whether all gradients are finite.

    At stage 0 in half precision it would ask for one tensor after another, and wait each time. The answer is the same.
    """
    from deepspeed.runtime.utils import has_inf_or_nan

    def any_overflow(parameters: Iterable[nn.Parameter]) -> bool:
        found = [has_inf_or_nan(parameter.grad) for parameter in parameters if parameter.grad is not None]
        return bool(found) and bool(torch.stack(found).any())

    checker = getattr(optimizer, "overflow_checker", None)
    if checker is not None:
        checker.has_overflow_serial = any_overflow


def _fill_gradients(module: nn.Module) -> None:
    """Give parameters that no term reaches a gradient of 0, as they have with several ranks."""
    for parameter in module.parameters():
        if parameter.requires_grad and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def _add(totals: dict[str, Tensor], terms: Mapping[str, Tensor]) -> None:
    for name, value in terms.items():
        totals[name] = totals[name] + value.double() if name in totals else value.double()
