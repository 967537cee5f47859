"""Which of a corpus's encodings a model reads: the one that its own tokenizer made."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from raydistill.data.corpus import Corpus, tokenizer_hash
from raydistill.data.mixture import Mixture
from raydistill.models.load import load_tokenizer
from raydistill.stages import _checkpoints
from raydistill.stages._base import CorpusForecast, Forecast, stage_of


def known_hash(key: str, reference: Any, earlier: Mapping[str, Forecast]) -> str | None:
    """The hash of a model's tokenizer, None where that is not made yet or the folder has none.

    Raises ValueError, naming the model's ``key``, for a reference that leads nowhere.
    """
    name = reference.checkpoint
    if name is not None and stage_of(name) in earlier:
        return earlier[stage_of(name)].tokenizer_hash
    try:
        return hash_of_folder(_checkpoints.resolve(reference, {}))
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def hash_of_folder(folder: Path) -> str | None:
    """The hash of the tokenizer in a checkpoint folder, None where there is none."""
    file = folder / "tokenizer.json"
    return _hash_of(folder, file.stat().st_mtime_ns) if file.is_file() else None


@lru_cache(maxsize=64)
def _hash_of(folder: Path, changed: int) -> str:
    """What a folder's tokenizer does, found out once for many stages that name it; ``changed`` is the file's time."""
    return tokenizer_hash(load_tokenizer(folder))


def encoding_of(key: str, digest: str | None, hashes: Sequence[str | None], *, can_be_added: bool = True) -> int:
    """The number of the encoding, of those whose tokenizers have ``hashes``, that a tokenizer's hash stands for.

    A hash that is not known, None, is taken for one that fits. Raises ValueError, naming the model's ``key``, when none
    does; ``can_be_added`` tells whether the corpus could have the encoding.
    """
    if digest in hashes:
        return hashes.index(digest)
    if digest is None:
        return 0
    if None in hashes:
        return hashes.index(None)
    remedy = "binarize with that model's tokenizer"
    if can_be_added:
        remedy += ", or name the model under further_tokenizers of the binarize stage"
    raise ValueError(f"{key} has another tokenizer than the corpus; {remedy}")


def of_model(
    key: str, reference: Any, corpus: CorpusForecast, earlier: Mapping[str, Forecast], *, can_be_added: bool
) -> int:
    """The encoding that the model of a reference reads, before any stage runs.

    Raises ValueError for a model that reads none of the corpus's.
    """
    return encoding_of(key, known_hash(key, reference, earlier), corpus.hashes, can_be_added=can_be_added)


def of_teachers(config: Any, corpus: CorpusForecast, earlier: Mapping[str, Forecast]) -> list[int]:
    """The encoding that each teacher of a training reads.

    Raises ValueError for one that reads none, or another than the method or the student that starts from it takes.
    """
    method, start = config.method, config.student
    needs = method.requirements
    can_be_added = needs.own_encodings and config.task.task.FURTHER_TOKENIZERS
    found = []
    for number, reference in enumerate(config.teachers):
        key = f"teachers.{number}"
        encoding = of_model(key, reference, corpus, earlier, can_be_added=can_be_added)
        if encoding and not needs.own_encodings:
            raise ValueError(
                f"{key} has another tokenizer than the student, and method {method.name} aligns token by token; "
                "choose a teacher with the student's tokenizer, or another method"
            )
        found.append(encoding)
    if found and found[0] and start.checkpoint is None:
        raise ValueError(
            f"student.init is {start.init!r}, which starts from teacher 0, but that has another tokenizer than the "
            "corpus; name a model with the corpus's tokenizer under student.checkpoint"
        )
    return found


def of_folder(key: str, folder: Path, corpus: Corpus | Mixture) -> int:
    """The encoding that a model in a folder reads, once stages have run; 0 where the corpus has no other.

    Raises ValueError, naming the model's ``key``, for one that reads none of several.
    """
    hashes = [one.hash for one in corpus.tokenizers]
    return 0 if len(hashes) == 1 else encoding_of(key, hash_of_folder(folder), hashes)
