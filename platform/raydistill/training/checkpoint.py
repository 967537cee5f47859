"""Checkpoints of a training: written through Ray Train, restored by a restarted worker group or job."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray.train
from ray.train import Checkpoint

from raydistill.models.load import load_model, load_tokenizer, save_model
from raydistill.training.engine import Engine

_REGISTER = "checkpoint_manager_snapshot.json"
"""Ray Train's own list of a run's checkpoints, beside them."""


def remove_unregistered(folder: Path) -> None:
    """Delete checkpoints of a run that Ray Train does not know: a worker died between writing and registering one.

    Ray Train prunes only what it knows, so these would stay for ever. No training may run in ``folder``.
    """
    if not (folder / _REGISTER).is_file():
        return
    register = json.loads((folder / _REGISTER).read_text(encoding="utf-8"))
    known = {result["checkpoint_dir_name"] for result in register["checkpoint_results"]}
    for entry in folder.glob("checkpoint_*"):
        if entry.is_dir() and entry.name not in known:
            shutil.rmtree(entry)


def report_checkpoint(engine: Engine, metrics: Mapping[str, float], state: Mapping[str, Any]) -> None:
    """Write all ranks' shares and hand them to Ray Train, which makes them the latest checkpoint as one.

    All ranks call it at the same step. ``state`` has what continues a run: the step and counters.
    """
    folder = Path(tempfile.mkdtemp(prefix="raydistill-checkpoint-"))
    try:
        engine.save(folder, dict(state))
        ray.train.report(dict(metrics), checkpoint=Checkpoint.from_directory(str(folder)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def restore(engine: Engine) -> dict[str, Any] | None:
    """Restore the latest checkpoint of this run, if there is one; returns the state that was saved with it."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        return engine.load(Path(folder))


def write_student(engine: Engine, source: str, target: Path, *, head: str) -> None:
    """Save the student as a transformers checkpoint with the tokenizer of ``source``; all ranks call it.

    Rank 0 writes under a temporary name and renames, so ``target`` is never half-written.
    """
    state = engine.student_state()
    if state is None:
        return
    model = load_model(source, head=head)
    model.load_state_dict(state)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    save_model(model, load_tokenizer(source), temporary)
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
