"""Teacher outputs that a capture stage stored: whether they are what a training reads, and where they lie."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydistill.data import mirror
from raydistill.data.binarize import HELD_OUT, TRAIN
from raydistill.data.corpus import MANIFEST as CORPUS_MANIFEST
from raydistill.data.corpus import Corpus
from raydistill.data.mixture import CorpusPart
from raydistill.data.storage import Folder
from raydistill.data.stored_outputs import JOINED, StoredOutputs, StoredSet
from raydistill.data.teacher_outputs import MANIFEST, OutputSet
from raydistill.models.classes import Names
from raydistill.stages import _checkpoints, _classes, _corpora
from raydistill.stages._base import CorpusForecast, Forecast, OutputsForecast
from raydistill.store_paths import local_path

AUTO = "auto"
"""Value of ``teacher_outputs`` under which a training chooses one of the other two."""
LIVE = "live"
"""Value under which teachers run while the student learns."""
STORED = "stored"
"""Value under which a training stores itself what it reads, unless that is there."""
KEYWORDS = (AUTO, LIVE, STORED)
"""Values that name no capture."""

_TEACHER = "teacher_"
"""How the names of the folders of a capture's teachers begin."""
VERIFIED_BYTES = 2**30
"""Sets up to this size are read through before they are used, in a second or two."""


@dataclass(frozen=True)
class Reading:
    """What a training reads of stored outputs."""

    kinds: tuple[str, ...]
    layers: tuple[tuple[int, ...], ...]
    """Of each teacher."""
    labels: tuple[tuple[str, ...], ...] = ()
    """Of each teacher, the classes that its logits have to be of; () where any will do."""


def kinds_of(config: Any) -> tuple[str, ...]:
    """Kinds of stored outputs that method and task of a training read."""
    method = config.method
    read = method.requirements.stored if method.distils else ()
    return tuple(dict.fromkeys([*read, *config.task.task.NEEDS_STORED]))


def layers_of(config: Any, student: Any, teachers: Sequence[Any]) -> tuple[tuple[int, ...], ...]:
    """Numbers k of the hidden states hs[k] that the method reads of each teacher, given the models' configurations."""
    return tuple(config.method.stored_layers(student, one) for one in teachers) if config.method.distils else ()


def labels_of(config: Any, labels: Sequence[str], teachers: Sequence[Any]) -> tuple[tuple[str, ...], ...]:
    """Of each teacher the classes that its stored logits have to be of, none where no logits are read.

    ``labels`` are the corpus's own classes, ``teachers`` configurations. A task that reads logits of the first teacher
    itself takes those of the corpus.
    """
    if "logits" not in kinds_of(config):
        return ()
    if not config.method.distils:
        return (tuple(labels),)
    outputs = config.task.outputs(labels)
    return tuple(_classes.teacher_labels(config, teachers, outputs))


def _stored_labels(config: Any, number: int, found: OutputsForecast) -> Sequence[tuple[str, ...]]:
    """The classes of a teacher's stored logits, or, where teachers are not named, of all that there are."""
    if not config.method.distils:
        return found.labels[:1]
    if not found.teachers:
        return found.labels
    name = _checkpoints.describe(config.teachers[number])
    return [labels for teacher, labels in zip(found.teachers, found.labels, strict=True) if teacher == name]


def _check_labels(key: str, number: int, wanted: Sequence[str], stored: Sequence[tuple[str, ...]]) -> None:
    """Refuse logits of other classes, or of a part of them where a method needs all."""
    if tuple(wanted) not in stored:
        raise ValueError(
            f"{key}, whose logits of teachers.{number} are of different label sets: they have the classes "
            f"{' or '.join(map(_listed, dict.fromkeys(stored)))}; the training has {_listed(wanted)}; capture outputs "
            "for the same task and corpus, of a teacher of these classes"
        )


def check(
    config: Any, corpus: CorpusForecast, student: Any, teachers: Sequence[Any], earlier: Mapping[str, Forecast]
) -> None:
    """Refuse a named capture that has not what a training reads.

    ``corpus`` has the names of the corpus's own classes. Raises ValueError with one line.
    """
    method, task = config.method.name, config.task
    key = f"teacher_outputs is {config.teacher_outputs!r}"
    kinds = kinds_of(config)
    if config.method.distils and not config.method.requirements.stored:
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
    _check_names(config, key, found, list(map(_classes.names_of, config.teachers, teachers)))
    for number, labels in enumerate(labels_of(config, corpus.labels, teachers)):
        _check_labels(key, number, labels, _stored_labels(config, number, found))
    if config.teacher_outputs not in earlier:
        _check_folder(config, earlier)


def _check_kinds(key: str, kinds: Sequence[str], found: OutputsForecast, method: str) -> None:
    for kind in kinds:
        if kind not in JOINED:
            raise ValueError(f"{key}, but {kind}, which method {method} reads, cannot be joined to batches yet")
        if kind not in found.kinds:
            raise ValueError(f"{key}, which has {_listed(found.kinds)}; {kind} is read too, add it to its outputs")


def _check_names(config: Any, key: str, found: OutputsForecast, names: Sequence[Names]) -> None:
    """Compare names where the capture is a stage of the same job; what they lead to is compared by hash as it runs."""
    if not found.teachers:
        return
    for number, reference in enumerate(config.teachers if config.method.distils else ()):
        name = _checkpoints.describe(reference)
        if name not in found.teachers:
            raise ValueError(
                f"{key}, which has outputs of {_listed(found.teachers)}; teachers.{number} is {name}; "
                "name the same teacher in both"
            )
        stored = [names for teacher, names in zip(found.teachers, found.names, strict=True) if teacher == name]
        _check_same_names(key, number, names[number], stored)
    for reference in config.corpus:
        if reference.corpus not in found.corpora:
            raise ValueError(
                f"{key}, which ran on {_listed(found.corpora)}; corpus is {reference.corpus}; capture it too"
            )


def _check_same_names(key: str, number: int, wanted: Names, stored: Sequence[Names]) -> None:
    """Refuse outputs that were taken for other classes than they are now."""
    if tuple(wanted) not in stored:
        raise ValueError(
            f"{key}, where the teacher's outputs are labelled {' or '.join(map(_listed, dict.fromkeys(stored)))}; "
            f"teachers.{number}.labels is {_listed(wanted)}; name them alike"
        )


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values)) or "none"


def _forecast(reference: str, earlier: Mapping[str, Forecast]) -> OutputsForecast:
    if reference in earlier:
        outputs = earlier[reference].outputs
        if outputs is None:
            raise ValueError(f"teacher_outputs is {reference!r}, which stores no outputs; name a capture stage")
        return outputs
    headers = [one.header for one in sets_below(local_path(reference))]
    if not headers:
        raise ValueError(
            f"teacher_outputs is {reference!r}, none of {', '.join(KEYWORDS)}, no earlier stage and no folder of a "
            "capture stage"
        )
    first = headers[0]
    return OutputsForecast((), (), first.kinds, first.layers, tuple(dict.fromkeys(one.labels for one in headers)))


def sets_below(folder: Path) -> Iterator[OutputSet]:
    """The sets in a capture stage's folder, teacher after teacher."""
    teachers = [one for one in mirror.subfolders(folder) if one.name.startswith(_TEACHER)]
    for teacher in sorted(teachers, key=lambda one: int(one.name.removeprefix(_TEACHER))):
        for corpus in mirror.subfolders(teacher):
            parts = [part for part in mirror.subfolders(corpus) if Folder(part).exists(MANIFEST)]
            yield from (OutputSet.open(str(part)) for part in parts)


def stored_outputs(
    reference: str,
    found: Sequence[OutputSet],
    reading: Reading,
    *,
    corpora: Mapping[str, Sequence[CorpusPart]],
    teachers: Sequence[tuple[Path, Names]],
) -> dict[str, StoredOutputs]:
    """For each named list of corpora the sets of each teacher, once stages have run; those of all when none is given.

    Teachers, each with what its outputs are said to be, and corpora are told by their content, whatever their names.
    Raises ValueError with both values where a set is of another one; ``reference`` says whose they are.
    """
    of_teachers = _sets_of_teachers(reference, found, teachers)
    labels = tuple(sets[0].header.labels for sets in of_teachers)
    for number, wanted in enumerate(reading.labels):
        _check_labels(f"teacher_outputs is {reference!r}", number, wanted, labels[number : number + 1])
    return {
        name: StoredOutputs(
            tuple(tuple(_set_of(reference, sets, part) for part in parts) for sets in of_teachers),
            reading.kinds,
            reading.layers,
            labels,
        )
        for name, parts in corpora.items()
    }


def _sets_of_teachers(
    reference: str, found: Sequence[OutputSet], teachers: Sequence[tuple[Path, Names]]
) -> list[list[OutputSet]]:
    """The sets of each teacher, of each that there is when none is given.

    A checkpoint stands for several teachers where its outputs are called differently.
    """
    if not teachers:
        hashes = dict.fromkeys(one.header.teacher_hash for one in found)
        return [[one for one in found if one.header.teacher_hash == wanted] for wanted in hashes]
    of_teachers = []
    for number, (folder, names) in enumerate(teachers):
        wanted = _checkpoints.content_of(folder)
        _check_teacher(reference, found, number, wanted)
        sets = [one for one in found if one.header.teacher_hash == wanted]
        _check_same_names(f"teacher_outputs is {reference!r}", number, names, [one.header.names for one in sets])
        of_teachers.append([one for one in sets if one.header.names == tuple(names)])
    return of_teachers


def _check_folder(config: Any, earlier: Mapping[str, Forecast]) -> None:
    """Compare what is already there: teachers and corpora that are folders, with what a folder of outputs is of."""
    found = list(sets_below(local_path(config.teacher_outputs)))
    folders = [
        _checkpoints.model_config(reference, earlier)[1]
        for reference in (config.teachers if config.method.distils else ())
    ]
    hashes = [None if folder is None else _checkpoints.content_of(folder) for folder in folders]
    for number, wanted in enumerate(hashes):
        if wanted is not None:
            _check_teacher(config.teacher_outputs, found, number, wanted)
    teachers = [wanted for wanted in hashes if wanted is not None] or [found[0].header.teacher_hash]
    for reference in config.corpus:
        for part in (TRAIN, HELD_OUT) if reference.corpus not in earlier else ():
            uri = _corpora.folder(reference.corpus, {}, part)
            for teacher in teachers if Folder(uri).exists(CORPUS_MANIFEST) else ():
                of_teacher = [one for one in found if one.header.teacher_hash == teacher]
                _find(config.teacher_outputs, of_teacher, uri)


def _check_teacher(reference: str, found: Sequence[OutputSet], number: int, wanted: str) -> None:
    stored = dict.fromkeys(one.header.teacher_hash for one in found)
    if wanted not in stored:
        raise ValueError(
            f"teacher_outputs {reference!r} are of a teacher with hash {_listed(list(stored))}, teachers.{number} "
            f"has {wanted}; capture outputs of it"
        )


def _find(reference: str, found: Sequence[OutputSet], uri: str) -> OutputSet:
    """The one of a teacher's sets that is of the corpus at ``uri``; raises ValueError where there is none."""
    wanted = Corpus.open(uri).hash
    by_corpus = {one.header.corpus_hash: one for one in found}
    if wanted not in by_corpus:
        raise ValueError(
            f"teacher_outputs {reference!r} are of corpora with hash {_listed(list(by_corpus))}, {uri!r} has {wanted}; "
            "capture outputs of it"
        )
    return by_corpus[wanted]


def _set_of(reference: str, found: Sequence[OutputSet], part: CorpusPart) -> StoredSet:
    one = _find(reference, found, part.uri)
    if one.num_bytes <= VERIFIED_BYTES:
        one.verify()
    return StoredSet(one.uri, one.hash)
