"""What a training reads of stored outputs of teachers, whether a capture has it, and where it lies."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raydistill.data.corpus import MANIFEST as CORPUS_MANIFEST
from raydistill.data.corpus import Corpus
from raydistill.data.input_splits import TRAIN, VALIDATION
from raydistill.data.mixture import CorpusPart
from raydistill.data.storage import Folder
from raydistill.data.storages import storage_at
from raydistill.data.stored_outputs import StoredOutputs, StoredSet
from raydistill.data.teacher_outputs import MANIFEST, Header, OutputSet
from raydistill.stages import _corpora, _models, _teacher_plan
from raydistill.stages._base import CorpusFacts, Inputs, OutputsFacts, folder_of
from raydistill.stages._models import Fitted
from raydistill.tasks._instructions import LOSS_SPANS
from raydistill.user_error import UserError

if TYPE_CHECKING:
    from raydistill.stages.train import Config

VERIFIED_BYTES = 2**30
"""Sets up to this size are read through before they are used, in a second or two."""

_TEACHER = "teacher_"
"""How the names of the folders of a capture's teachers begin."""
_Names = tuple[str | None, ...]


@dataclass(frozen=True)
class Reading:
    """What a training reads of stored outputs."""

    kinds: tuple[str, ...] = ()
    layers: tuple[tuple[int, ...], ...] = ()
    """Of each teacher, numbers k of the hidden states hs[k]."""
    labels: tuple[tuple[str, ...], ...] = ()
    """Of each teacher, the classes that its logits have to be of; () where any will do."""
    teacher_of: Mapping[str, int] = field(default_factory=dict)
    """The number of the teacher of each corpus, where a corpus has its own."""

    @classmethod
    def of(cls, config: "Config", labels: tuple[str, ...], student: Any, teachers: Sequence[Fitted]) -> "Reading":
        """What method and task read, given the corpus's own classes, the student's configuration and the teachers.

        A task that reads logits of the first teacher itself takes those of the corpus.
        """
        kinds, method = _teacher_plan.kinds_of(config), config.method
        if not kinds:
            return cls()
        of_logits = tuple(one.labels for one in teachers) if method.distils else (labels,)
        return cls(
            kinds,
            tuple(method.stored_layers(student, one.config) for one in teachers) if method.distils else (),
            of_logits if "logits" in kinds else (),
            method.requirements.teacher_of,
        )


def check(config: "Config", reading: Reading, teachers: Sequence[Fitted], inputs: Inputs) -> None:
    """Refuse a named capture that has not what a training reads; raises ValueError with one line."""
    method, task = config.method, config.task
    key = f"teacher_outputs is {config.teacher_outputs!r}"
    if method.distils and not _teacher_plan.kinds_of_method(config):
        raise UserError(f"{key}, but method {method.name} has to run its teachers; write teacher_outputs: live")
    if not reading.kinds:
        raise UserError(f"{key}, but neither method {method.name} nor task {task.name} reads teachers; leave it out")
    folder = folder_of(config.teacher_outputs, inputs)
    found = _planned_facts(config.teacher_outputs, inputs) if folder is None else _facts_of(key, folder)
    _check_kinds(key, reading.kinds, found)
    if "top_k" in reading.kinds:
        _check_top_k(config, key, found, _corpora.facts_of(config.corpus, inputs))
    missing = sorted({k for layers in reading.layers for k in layers} - set(found.layers))
    if "cls_states" in reading.kinds and missing:
        raise UserError(
            f"{key}, which has CLS states of layers {_listed(found.layers)}; method {method.name} reads layer "
            f"{missing[0]}; add it to layers of the capture"
        )
    _check_names(config, key, found, [teacher.names for teacher in teachers])
    for number, labels in enumerate(reading.labels):
        _check_labels(key, number, labels, _stored_labels(config, number, found))
    if folder is not None:
        _check_folder(config, list(sets_below(folder)), teachers, inputs)


def _check_top_k(config: "Config", key: str, found: OutputsFacts, corpus: CorpusFacts) -> None:
    """Refuse likeliest ids at other places, or at another temperature, than those that the method compares."""
    positions = "masked" if config.task.head == "masked_lm" else "completion" if LOSS_SPANS in corpus.columns else "all"
    config.method.check_top_k(positions=positions, temperature=found.temperature)
    wanted, stored = (bool(one.get("train_on_prompt")) for one in (config.task.dump(), found.task))
    if positions == "completion" and wanted != stored:
        raise UserError(
            f"{key}, captured with task.train_on_prompt: {str(stored).lower()}, but the training has "
            f"{str(wanted).lower()}; make both equal"
        )


def _stored_labels(config: "Config", number: int, found: OutputsFacts) -> Sequence[tuple[str, ...]]:
    """The classes of a teacher's stored logits, or, where teachers are not named, of all that there are."""
    if not config.method.distils:
        return found.labels[:1]
    if not found.teachers:
        return found.labels
    name = _models.describe(config.teachers[number])
    return [labels for teacher, labels in zip(found.teachers, found.labels, strict=True) if teacher == name]


def _check_labels(key: str, number: int, wanted: Sequence[str], stored: Sequence[tuple[str, ...]]) -> None:
    """Refuse logits of other classes, or of a part of them where a method needs all."""
    if tuple(wanted) not in stored:
        raise UserError(
            f"{key}, whose logits of teachers.{number} are of different label sets: they have the classes "
            f"{' or '.join(map(_listed, dict.fromkeys(stored)))}; the training has {_listed(wanted)}; capture outputs "
            "for the same task and corpus, of a teacher of these classes"
        )


def _check_kinds(key: str, kinds: Sequence[str], found: OutputsFacts) -> None:
    for kind in kinds:
        if kind not in found.kinds:
            raise UserError(f"{key}, which has {_listed(found.kinds)}; {kind} is read too, add it to its outputs")


def _check_names(config: "Config", key: str, found: OutputsFacts, names: Sequence[_Names]) -> None:
    """Compare names where the capture is a stage of the same job; what they lead to is compared by hash as it runs."""
    if not found.teachers:
        return
    for number, reference in enumerate(config.teachers if config.method.distils else ()):
        name = _models.describe(reference)
        if name not in found.teachers:
            raise UserError(
                f"{key}, which has outputs of {_listed(found.teachers)}; teachers.{number} is {name}; "
                "name the same teacher in both"
            )
        stored = [names for teacher, names in zip(found.teachers, found.names, strict=True) if teacher == name]
        _check_same_names(key, number, names[number], stored)
    for part in config.corpus:
        if part.corpus not in found.corpora:
            raise UserError(f"{key}, which ran on {_listed(found.corpora)}; corpus is {part.corpus}; capture it too")


def _check_same_names(key: str, number: int, wanted: _Names, stored: Sequence[_Names]) -> None:
    """Refuse outputs that were taken for other classes than they are now."""
    if wanted not in stored:
        raise UserError(
            f"{key}, where the teacher's outputs are labeled {' or '.join(map(_listed, dict.fromkeys(stored)))}; "
            f"teachers.{number}.labels is {_listed(wanted)}; name them alike"
        )


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values)) or "none"


def _planned_facts(reference: str, inputs: Inputs) -> OutputsFacts:
    facts = inputs[reference].facts
    if not isinstance(facts, OutputsFacts):
        raise UserError(f"teacher_outputs is {reference!r}, which stores no outputs; name a capture stage")
    return facts


def _facts_of(key: str, folder: Path) -> OutputsFacts:
    headers = [one.header for one in sets_below(folder)]
    if not headers:
        raise UserError(
            f"{key}, which is none of {', '.join(_teacher_plan.KEYWORDS)}, not an earlier stage and not the folder of "
            "a capture stage"
        )
    first = headers[0]
    labels = tuple(dict.fromkeys(one.labels for one in headers))
    temperature = first.options.get("temperature", 1.0)
    return OutputsFacts((), (), first.kinds, first.layers, labels, temperature=temperature, task=first.task)


def sets_below(folder: Path) -> Iterator[OutputSet]:
    """The sets in a capture stage's folder, teacher after teacher."""
    teachers = [one for one in storage_at(folder).subfolders() if one.name.startswith(_TEACHER)]
    for teacher in sorted(teachers, key=lambda one: int(one.name.removeprefix(_TEACHER))):
        for corpus in storage_at(teacher).subfolders():
            parts = [part for part in storage_at(corpus).subfolders() if Folder(part).exists(MANIFEST)]
            yield from (_readable(OutputSet.open(str(part))) for part in parts)


def _readable(found: OutputSet) -> OutputSet:
    """The set; raises UserError for one of a masked model that lacks the ids that the teacher read."""
    columns = found.header.columns
    if "top_k_places" in columns and "top_k_inputs" not in columns:
        raise UserError(
            f"teacher outputs {found.uri!r} do not have the ids that the teacher read at masked places; "
            "capture them again"
        )
    return found


def stored_outputs(
    reference: str,
    found: Sequence[OutputSet],
    reading: Reading,
    *,
    corpora: Mapping[str, Sequence[CorpusPart]],
    teachers: Sequence[Fitted],
) -> dict[str, StoredOutputs]:
    """For each named list of corpora the sets of each teacher, once stages have run; those of all when none is given.

    Teachers and corpora are told by their content, whatever their names.
    Raises ValueError with both values where a set is of another one; ``reference`` says whose they are.
    """
    of_teachers = _sets_of_teachers(reference, found, teachers)
    if "top_k" in reading.kinds:
        _check_alike(reference, [one.header for sets in of_teachers for one in sets], reading.teacher_of)
    labels = tuple(sets[0].header.labels for sets in of_teachers)
    for number, wanted in enumerate(reading.labels):
        _check_labels(f"teacher_outputs is {reference!r}", number, wanted, labels[number : number + 1])
    return {
        name: StoredOutputs(
            _sets_of_parts(reference, of_teachers, parts, reading.teacher_of),
            reading.kinds,
            reading.layers,
            labels,
        )
        for name, parts in corpora.items()
    }


def _sets_of_parts(
    reference: str,
    of_teachers: Sequence[Sequence[OutputSet]],
    parts: Sequence[CorpusPart],
    teacher_of: Mapping[str, int],
) -> tuple[tuple[StoredSet, ...], ...]:
    """For each teacher the set of each part; a single one of each part's own teacher where a corpus has its own."""
    if teacher_of:
        return (tuple(_set_of(reference, of_teachers[teacher_of[part.name]], part) for part in parts),)
    return tuple(tuple(_set_of(reference, sets, part) for part in parts) for sets in of_teachers)


def _check_alike(reference: str, headers: Sequence[Header], teacher_of: Mapping[str, int]) -> None:
    """Refuse likeliest ids of several teachers that saw other masks, or that differ in number where rows are joined."""
    key = f"teacher_outputs is {reference!r}"
    masks = dict.fromkeys(one.options["mask_seed"] for one in headers if "top_k_places" in one.columns)
    if len(masks) > 1:
        raise UserError(
            f"{key}, whose teachers saw masks of the seeds {_listed(list(masks))}; capture with one mask_seed"
        )
    sizes = dict.fromkeys(one.columns["top_k_ids"].size for one in headers)
    if teacher_of and len(sizes) > 1:
        raise UserError(f"{key}, whose teachers kept {_listed(list(sizes))} ids per token; capture with one top_k")


def _sets_of_teachers(reference: str, found: Sequence[OutputSet], teachers: Sequence[Fitted]) -> list[list[OutputSet]]:
    """The sets of each teacher, of each that there is when none is given.

    A checkpoint stands for several teachers where its outputs are called differently.
    """
    if not teachers:
        hashes = dict.fromkeys(one.header.teacher_hash for one in found)
        return [[one for one in found if one.header.teacher_hash == wanted] for wanted in hashes]
    of_teachers = []
    for number, teacher in enumerate(teachers):
        wanted = _models.content_of(teacher.folder)
        _check_teacher(reference, found, number, wanted)
        sets = [one for one in found if one.header.teacher_hash == wanted]
        _check_same_names(
            f"teacher_outputs is {reference!r}", number, teacher.names, [one.header.names for one in sets]
        )
        of_teachers.append([one for one in sets if one.header.names == teacher.names])
    return of_teachers


def _check_folder(config: "Config", found: Sequence[OutputSet], teachers: Sequence[Fitted], inputs: Inputs) -> None:
    """Compare teachers and corpora that are there with what a folder of outputs is of."""
    folders = [one.model.folder for one in teachers] if config.method.distils else []
    hashes = [None if folder is None else _models.content_of(folder) for folder in folders]
    for number, wanted in enumerate(hashes):
        if wanted is not None:
            _check_teacher(config.teacher_outputs, found, number, wanted)
    teacher_of = config.method.requirements.teacher_of
    for reference in config.corpus:
        asked = [hashes[teacher_of[reference.corpus]]] if teacher_of else hashes
        known = [wanted for wanted in asked if wanted is not None] or [found[0].header.teacher_hash]
        root = folder_of(reference.corpus, inputs)
        for uri in () if root is None else (str(root / TRAIN), str(root / VALIDATION)):
            for teacher in known if Folder(uri).exists(CORPUS_MANIFEST) else ():
                _find(config.teacher_outputs, [one for one in found if one.header.teacher_hash == teacher], uri)


def _check_teacher(reference: str, found: Sequence[OutputSet], number: int, wanted: str) -> None:
    stored = dict.fromkeys(one.header.teacher_hash for one in found)
    if wanted not in stored:
        raise UserError(
            f"teacher_outputs {reference!r} are of a teacher with hash {_listed(list(stored))}, teachers.{number} "
            f"has {wanted}; capture outputs of it"
        )


def _find(reference: str, found: Sequence[OutputSet], uri: str) -> OutputSet:
    """The one of a teacher's sets that is of the corpus at ``uri``; raises ValueError where there is none."""
    wanted = Corpus.open(uri).hash
    by_corpus = {one.header.corpus_hash: one for one in found}
    if wanted not in by_corpus:
        raise UserError(
            f"teacher_outputs {reference!r} are of corpora with hash {_listed(list(by_corpus))}, {uri!r} has {wanted}; "
            "capture outputs of it"
        )
    return by_corpus[wanted]


def _set_of(reference: str, found: Sequence[OutputSet], part: CorpusPart) -> StoredSet:
    one = _find(reference, found, part.uri)
    if one.num_bytes <= VERIFIED_BYTES:
        one.verify()
    return StoredSet(one.uri, one.hash)
