"""Checkpoints of a training: written and restored by all its ranks."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist

from raydistill.atomic import atomic_folder
from raydistill.config.sections import LoraConfig
from raydistill.data.storages import storage_at
from raydistill.models.load import load_model, load_tokenizer, save_model
from raydistill.models.lora import add_adapters, merged, save_adapter
from raydistill.store_paths import shown
from raydistill.training.agreement import StorageError, agree
from raydistill.training.checkpoint_store import Files, checkpoint_path, checkpoints_at
from raydistill.training.engine import Engine

T = TypeVar("T")

REMEDY = "make room there, or make it writable, and start again: the run continues from its latest checkpoint"


def write_checkpoint(engine: Engine, storage: Path, state: Mapping[str, Any]) -> Path:
    """Write a checkpoint of the step in ``state["position"]`` into a run's folder; returns where it lies.

    All ranks call it at the same step; ``state`` is plain data. Raises StorageError on all of them.
    """
    checkpoints = checkpoints_at(storage)
    target = checkpoint_path(storage, int(state["position"]["step"]))
    agree_here = partial(agree, subject=shown(storage), remedy=REMEDY)
    try:
        agree_here(at_first(lambda: checkpoints.begin(target)))
        # By itself: whoever fails before the others gather their tensors would leave them waiting.
        folder = agree_here(lambda: checkpoints.folder_for(target))
        try:
            files = agree_here(lambda: checkpoints.take(target, folder, engine.save(folder, state)))
            every = _of_all_ranks(files)
            agree_here(at_first(lambda: checkpoints.finish(target, every)))
        finally:
            checkpoints.leave(folder)
    except StorageError:
        at_first(lambda: checkpoints.give_up(target))()
        raise
    return target


def _of_all_ranks(files: Files) -> Files:
    parts: list[Files] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(parts, files)
    return {name: part[name] for part in parts for name in part}


def load(engine: Engine, checkpoint: Path) -> dict[str, Any]:
    """Restore a checkpoint, fetched first where it is not here; all ranks call it. Returns its state."""
    place = storage_at(checkpoint)
    state = engine.load(agree(place.fetch, subject=shown(checkpoint), remedy=REMEDY))
    # Others of this machine may still read it.
    dist.barrier()
    place.release()
    return state


def write_student(engine: Engine, source: str, target: Path, *, head: str, lora: LoraConfig | None = None) -> None:
    """Save the student as a transformers checkpoint with the tokenizer of ``source``; all ranks call it.

    Its adapters, where it has ``lora``, are merged, or lie there alone. Rank 0 writes, and ``target`` is never
    half-written. Raises StorageError on all.
    """
    state = engine.student_state()
    named = engine.distiller.student.named_parameters(remove_duplicate=False)
    frozen = {name for name, parameter in named if not parameter.requires_grad}

    def write() -> None:
        assert state is not None
        model = load_model(source, head=head)
        adapted = None if lora is None else add_adapters(model, lora)
        # What is not trained is as it was: in half precision the engine holds it rounded.
        trained = {name: tensor for name, tensor in state.items() if name not in frozen}
        model.load_state_dict({**model.state_dict(), **trained})
        tokenizer = load_tokenizer(source)
        with atomic_folder(target) as made:
            if lora is not None and lora.save == "adapter":
                save_adapter(adapted, lora, base=Path(source), folder=made)
                tokenizer.save_pretrained(made)
            else:
                save_model(model if adapted is None else merged(adapted), tokenizer, made)
        storage_at(target).publish()

    agree(at_first(write), subject=shown(target.parent), remedy=REMEDY)


def at_first(action: Callable[[], T]) -> Callable[[], T | None]:
    """``action`` on rank 0, nothing elsewhere."""
    return action if dist.get_rank() == 0 else lambda: None
