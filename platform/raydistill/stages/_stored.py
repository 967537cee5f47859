"""Teacher outputs that a capture stage stored: whether they are what a training reads, and where they lie."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydistill.data.corpus import Corpus
from raydistill.data.mixture import CorpusPart
from raydistill.data.stored_outputs import JOINED, StoredOutputs, StoredSet
from raydistill.data.teacher_outputs import MANIFEST, OutputSet
from raydistill.stages import _checkpoints
from raydistill.stages._base import CorpusForecast, Forecast, OutputsForecast
from raydistill.tracking.registry import content_hash

LIVE = "live"
"""Value of ``teacher_outputs`` under which teachers run while the student learns."""

_VERIFIED_BYTES = 2**30
"""Sets up to this size are read through before they are used, in a second or two."""


@dataclass(frozen=True)
class Reading:
    """What a training reads of stored outputs."""

    kinds: tuple[str, ...]
    layers: tuple[tuple[int, ...], ...]
    """Of each teacher."""


def distils(method: Any) -> bool:
    """Whether a method reads teachers while it trains; for another, a teacher is only what the student starts from."""
    return bool(method.module.Method.requirements(method.config).max_teachers != 0)


def needed_by_task(task: Any) -> tuple[str, ...]:
    """Kinds of stored outputs that a task makes labels of."""
    return tuple(getattr(task.module.Task, "NEEDS_STORED", ()))


def is_stored(config: Any) -> bool:
    """Whether a training reads stored outputs."""
    return bool(config.teacher_outputs != LIVE)


def kinds_of(config: Any) -> tuple[str, ...]:
    """Kinds of stored outputs that method and task of a training read."""
    method = config.method
    read = method.module.Method.requirements(method.config).stored if distils(method) else ()
    return tuple(dict.fromkeys([*read, *needed_by_task(config.task)]))


def layers_of(config: Any, student: Any, teachers: Sequence[Any]) -> tuple[tuple[int, ...], ...]:
    """Numbers k of the hidden states hs[k] that the method reads of each teacher, given the models' configurations."""
    method = config.method
    found = [method.module.Method.stored_layers(method.config, student, teacher) for teacher in teachers]
    return tuple(tuple(layers) for layers in found) if distils(method) else ()


def check(
    config: Any, corpus: CorpusForecast, student: Any, teachers: Sequence[Any], earlier: Mapping[str, Forecast]
) -> None:
    """Refuse what a training cannot read stored, or must.

    ``corpus`` has the names of the corpus's own classes. Raises ValueError with one line.
    """
    method, task = config.method.name, config.task
    if not is_stored(config):
        if needed_by_task(task):
            raise ValueError(
                f"teacher_outputs is 'live', but task {task.name} reads stored {', '.join(needed_by_task(task))}; "
                "name a capture stage"
            )
        return
    key = f"teacher_outputs is {config.teacher_outputs!r}"
    kinds = kinds_of(config)
    if distils(config.method) and not config.method.module.Method.requirements(config.method.config).stored:
        raise ValueError(f"{key}, but method {method} has to run its teachers; write teacher_outputs: live")
    if not kinds:
        raise ValueError(f"{key}, but neither method {method} nor task {task.name} reads teachers; leave it out")
    found = _forecast(config.teacher_outputs, earlier)
    _check_kinds(key, kinds, found, method)
    missing = sorted({k for layers in layers_of(config, student, teachers) for k in layers} - set(found.layers))
    if "cls_states" in kinds and missing:
        raise ValueError(
            f"{key}, which has CLS states of layers {_listed(found.layers)}; method {method} reads layer {missing[0]}; "
            "add it to layers of the capture"
        )
    labels = task.module.Task.outputs(task.config, corpus.labels) if distils(config.method) else corpus.labels
    if "logits" in kinds and tuple(labels) != tuple(found.labels):
        raise ValueError(
            f"{key}, which has the classes {_listed(found.labels)}; the training has {_listed(labels)}; "
            "capture outputs for the same task and corpus"
        )
    _check_names(config, key, found)


def _check_kinds(key: str, kinds: Sequence[str], found: OutputsForecast, method: str) -> None:
    for kind in kinds:
        if kind not in JOINED:
            raise ValueError(f"{key}, but {kind}, which method {method} reads, cannot be joined to batches yet")
        if kind not in found.kinds:
            raise ValueError(f"{key}, which has {_listed(found.kinds)}; {kind} is read too, add it to its outputs")


def _check_names(config: Any, key: str, found: OutputsForecast) -> None:
    """Compare names where the capture is a stage of the same job; what they lead to is compared by hash as it runs."""
    if not found.teachers:
        return
    for number, reference in enumerate(config.teachers if distils(config.method) else ()):
        name = _checkpoints.describe(reference)
        if name not in found.teachers:
            raise ValueError(
                f"{key}, which has outputs of {_listed(found.teachers)}; teachers.{number} is {name}; "
                "name the same teacher in both"
            )
        _check_same_names(key, number, reference.labels, found.names[found.teachers.index(name)])
    for reference in config.corpus:
        if reference.corpus not in found.corpora:
            raise ValueError(
                f"{key}, which ran on {_listed(found.corpora)}; corpus is {reference.corpus}; capture it too"
            )


def _check_same_names(key: str, number: int, wanted: Sequence[str | None], stored: Sequence[str | None]) -> None:
    """Refuse outputs that were taken for other classes than they are now."""
    if tuple(wanted) != tuple(stored):
        raise ValueError(
            f"{key}, where the teacher's outputs are labelled {_listed(stored)}; teachers.{number}.labels is "
            f"{_listed(wanted)}; name them alike"
        )


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values)) or "none"


def _forecast(reference: str, earlier: Mapping[str, Forecast]) -> OutputsForecast:
    if reference in earlier:
        outputs = earlier[reference].outputs
        if outputs is None:
            raise ValueError(f"teacher_outputs is {reference!r}, which stores no outputs; name a capture stage")
        return outputs
    headers = [one.header for one in sets_below(Path(reference))]
    if not headers:
        raise ValueError(
            f"teacher_outputs is {reference!r}, neither live nor an earlier stage nor a folder of a capture stage"
        )
    first = headers[0]
    return OutputsForecast((), (), first.kinds, first.layers, first.labels)


def sets_below(folder: Path) -> Iterator[OutputSet]:
    """The sets in a capture stage's folder, teacher after teacher."""
    found = list(folder.glob(f"teacher_*/corpus_*/*/{MANIFEST}"))
    for path in sorted(found, key=lambda path: (int(path.parts[-4].removeprefix("teacher_")), path)):
        yield OutputSet.open(str(path.parent))


def stored_outputs(
    reference: str,
    reading: Reading,
    *,
    corpora: Mapping[str, Sequence[CorpusPart]],
    teachers: Sequence[tuple[Path, Sequence[str]]],
    outputs: Mapping[str, Path],
) -> dict[str, StoredOutputs]:
    """For each named list of corpora the sets of each teacher, once stages have run; those of all when none is given.

    Teachers, each with what its outputs are said to be, and corpora are told by their content, whatever their names.
    Raises ValueError with both values where a set is of another one.
    """
    found = list(sets_below(outputs.get(reference, Path(reference))))
    hashes = [content_hash(folder) for folder, _ in teachers]
    for number, wanted in enumerate(hashes):
        stored = dict.fromkeys(one.header.teacher_hash for one in found)
        if wanted not in stored:
            raise ValueError(
                f"teacher_outputs {reference!r} are of a teacher with hash {_listed(list(stored))}, teachers.{number} "
                f"has {wanted}; capture outputs of it"
            )
        names = next(one.header.names for one in found if one.header.teacher_hash == wanted)
        _check_same_names(f"teacher_outputs is {reference!r}", number, teachers[number][1], names)
    hashes = hashes or list(dict.fromkeys(one.header.teacher_hash for one in found))
    by_content = {(one.header.teacher_hash, one.header.corpus_hash): one for one in found}
    return {
        name: StoredOutputs(
            tuple(tuple(_set_of(reference, by_content, teacher, part) for part in parts) for teacher in hashes),
            reading.kinds,
            reading.layers,
        )
        for name, parts in corpora.items()
    }


def _set_of(
    reference: str, by_content: Mapping[tuple[str, str], OutputSet], teacher: str, part: CorpusPart
) -> StoredSet:
    wanted = Corpus.open(part.uri).hash
    found = by_content.get((teacher, wanted))
    if found is None:
        stored = [corpus for of_teacher, corpus in by_content if of_teacher == teacher]
        raise ValueError(
            f"teacher_outputs {reference!r} are of corpora with hash {_listed(stored)}, {part.uri!r} has {wanted}; "
            "capture outputs of it"
        )
    if found.num_bytes <= _VERIFIED_BYTES:
        found.verify()
    return StoredSet(found.uri, found.hash)
