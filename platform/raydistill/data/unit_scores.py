"""Scores of a model's attention heads and neurons in a folder: what they are of, and the numbers."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.torch import load, save

from raydistill.atomic import atomic_file, write_json
from raydistill.models.importance import EXPRESSIVENESS, FRIENDLINESS, Scores
from raydistill.user_error import UserError

FACTS, TENSORS = "scores.json", "scores.safetensors"
COMBINED = "combined"
"""Name of the scores that units are ranked by; beside it are the sums that they come from."""
_KINDS = (COMBINED, EXPRESSIVENESS, FRIENDLINESS)
_FORMAT = 1


class ScoreFacts(BaseModel):
    """What scores are of and how they were found."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Annotated[int, Field(ge=1, le=_FORMAT)] = _FORMAT
    model: str
    """How the scored model was named."""
    model_folder: str
    """Where it lay."""
    model_hash: str
    """SHA-256 over its checkpoint's files."""
    student: str | None = None
    student_hash: str | None = None
    lam: float
    temperature: float
    corpus_hash: str
    part: str
    rows: int
    task: str
    score_batch_size: int | None = None
    tensors_sha256: str = ""
    """Of the file with the numbers; filled in by ``write_scores``."""


def write_scores(folder: Path, facts: ScoreFacts, scores: Mapping[str, Scores]) -> None:
    """Write scores by their kind, ``COMBINED`` and the sums; the facts last, so that a folder with them is whole."""
    tensors = {f"{kind}.{what}": getattr(scores[kind], what) for kind in scores for what in ("heads", "neurons")}
    content = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    with atomic_file(folder / TENSORS) as temporary:
        temporary.write_bytes(content)
    whole = facts.model_copy(update={"tensors_sha256": hashlib.sha256(content).hexdigest()})
    write_json(folder / FACTS, whole.model_dump(mode="json"), indent=2)


def read_facts(folder: Path) -> ScoreFacts:
    """What the scores in a folder are of; raises ValueError when there are none."""
    path = folder / FACTS
    if not path.is_file():
        raise UserError(f"{str(folder)!r} has no {FACTS}; name an earlier score stage, or the folder of one")
    try:
        return ScoreFacts.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError):
        raise UserError(f"{str(path)!r} is damaged or of a later version; run its score stage again") from None


def read_scores(folder: Path) -> dict[str, Scores]:
    """The scores in a folder by their kind, float64; raises ValueError for a file that is not as it was written."""
    facts, path = read_facts(folder), folder / TENSORS
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != facts.tensors_sha256:
        raise UserError(f"{str(path)!r} is not the file that was written there; run its score stage again")
    tensors: dict[str, torch.Tensor] = load(content)
    return {
        kind: Scores(tensors[f"{kind}.heads"], tensors[f"{kind}.neurons"])
        for kind in _KINDS
        if f"{kind}.heads" in tensors
    }
