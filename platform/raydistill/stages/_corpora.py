"""Where a corpus reference leads: a binarize stage or a folder that one wrote; several are read as one."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from raydistill.config.named import TaskSpec
from raydistill.config.sections import CorpusRef
from raydistill.data.corpus import MANIFEST, Corpus
from raydistill.data.input_splits import PARTS, TRAIN, VALIDATION, is_unlabelled
from raydistill.data.mixture import CorpusPart, chosen_rows, classes_of, has_classes
from raydistill.data.storage import Folder
from raydistill.stages._base import CorpusFacts, Inputs, TokenizerFacts, folder_of
from raydistill.store_paths import local_path
from raydistill.user_error import UserError

_VERIFIED_BYTES = 2**30
"""Corpora up to this size are read through before they are used, in a second or two."""


def whole(corpora: Sequence[CorpusRef]) -> list[CorpusRef]:
    """The same corpora with each of their rows once."""
    all_once = {"weight": 1.0, "few_shot": None, "label_subset": None}
    plain = [reference.model_copy(update=all_once) for reference in corpora]
    return list({reference.corpus: reference for reference in plain}.values())


def references(corpora: Sequence[CorpusRef]) -> dict[str, str]:
    """Dotted key to the name of each corpus, as a stage lists its inputs."""
    if len(corpora) == 1:
        return {"corpus": corpora[0].corpus}
    return {f"corpus.{position}": reference.corpus for position, reference in enumerate(corpora)}


def train_parts(
    corpora: Sequence[CorpusRef], outputs: Mapping[str, Path], *, seed: int | None = None
) -> list[CorpusPart]:
    """The weighted ``train`` folders, once stages have run; ``seed`` draws few-shot rows, None leaves all rows.

    Raises ValueError for a corpus that was changed.
    """
    return [
        CorpusPart(
            _checked(reference.corpus, outputs, TRAIN),
            reference.weight,
            few_shot=None if seed is None else reference.few_shot,
            label_subset=tuple(reference.label_subset or ()),
            seed=0 if seed is None or reference.few_shot is None else seed,
            name=reference.corpus,
        )
        for reference in corpora
    ]


def validation_parts(corpora: Sequence[CorpusRef], outputs: Mapping[str, Path]) -> list[CorpusPart]:
    """The ``validation`` folders, once stages have run; every row counts once, whatever training makes of it.

    Those of other classes than a ``label_subset`` are left out. Raises ValueError for a corpus that was changed.
    """
    return [
        CorpusPart(
            _checked(reference.corpus, outputs, VALIDATION),
            label_subset=tuple(reference.label_subset or ()),
            name=reference.corpus,
        )
        for reference in corpora
    ]


def folder(reference: str, outputs: Mapping[str, Path], part: str) -> str:
    """Folder of the ``train`` or ``validation`` part of a corpus reference, once stages have run."""
    return str(outputs.get(reference, local_path(reference)) / part)


def _checked(reference: str, outputs: Mapping[str, Path], part: str) -> str:
    """The folder of a part whose files are there and whole; what a large one holds is compared as it is read."""
    corpus = Corpus.open(folder(reference, outputs, part))
    if corpus.num_bytes <= _VERIFIED_BYTES:
        corpus.verify()
    return corpus.uri


def read_by(task: TaskSpec, corpora: Sequence[CorpusRef], inputs: Inputs) -> CorpusFacts:
    """What is known of a stage's corpora, with the outputs that its task asks models for as labels.

    Raises ValueError when the task does not read them.
    """
    corpus = facts_of(corpora, inputs)
    if corpus.task not in (task.name, *task.task.ENCODINGS):
        raise UserError(f"task is {task.name!r}, but the corpus is encoded for {corpus.task!r}")
    return replace(corpus, labels=task.outputs(corpus.labels))


def facts_of(corpora: Sequence[CorpusRef], inputs: Inputs) -> CorpusFacts:
    """What is known of the referenced corpora together; raises ValueError when one is missing or does not fit."""
    found = [_of_subset(reference, inputs) for reference in corpora]
    first = found[0]
    for reference, other in zip(corpora[1:], found[1:], strict=True):
        for what in ("task", "tokenizer_hash", "vocab_size", "labels", "unlabelled"):
            mine, its = getattr(first, what), getattr(other, what)
            if mine is not None and its is not None and mine != its:
                raise UserError(
                    f"corpus {reference.corpus!r} has {what} {its}, {corpora[0].corpus!r} has {mine}; "
                    "binarize both alike"
                )
    few = [
        _few_rows(reference, one, folder_of(reference.corpus, inputs))
        for reference, one in zip(corpora, found, strict=True)
    ]
    weights = [reference.weight for reference in corpora]
    return CorpusFacts(
        first.task,
        first.vocab_size,
        max(one.max_length for one in found),
        first.tokenizer_hash,
        rows=_weighted([rows for rows, _ in few], weights),
        tokens=_weighted([tokens for _, tokens in few], weights),
        labels=first.labels,
        columns=first.columns,
        has_train=all(one.has_train for one in found),
        unlabelled=first.unlabelled,
        validation_rows=_weighted([one.validation_rows for one in found], [1.0] * len(found)),
        teacher_tokenizers=_further(corpora, found),
    )


def _further(corpora: Sequence[CorpusRef], found: Sequence[CorpusFacts]) -> tuple[TokenizerFacts, ...]:
    """The teacher tokenizers of all corpora together; raises ValueError for a corpus that has others."""
    first = found[0].teacher_tokenizers
    for reference, other in zip(corpora, found, strict=True):
        its = other.teacher_tokenizers
        known = zip(first, its, strict=False)
        if len(its) != len(first) or any(
            a.tokenizer_hash != b.tokenizer_hash for a, b in known if a.tokenizer_hash and b.tokenizer_hash
        ):
            raise UserError(
                f"corpus {reference.corpus!r} has different teacher tokenizers from {corpora[0].corpus!r}; "
                "binarize both with the same teacher_tokenizers, in the same order"
            )
    longest = [
        max(one.max_length for one in same) for same in zip(*(one.teacher_tokenizers for one in found), strict=True)
    ]
    return tuple(replace(one, max_length=length) for one, length in zip(first, longest, strict=True))


def _of_subset(reference: CorpusRef, inputs: Inputs) -> CorpusFacts:
    """What there is of the classes that a reference names; rows are counted in a corpus that is there already.

    Raises ValueError for a class that the corpus lacks, and for a corpus without a class for each row.
    """
    corpus, root = _facts_of_one(reference.corpus, inputs), folder_of(reference.corpus, inputs)
    subset = tuple(reference.label_subset or ())
    if not subset:
        return corpus
    if not has_classes(corpus.labels, corpus.columns):
        raise UserError(
            f"label_subset is {', '.join(subset)}, but corpus {reference.corpus!r} has no class for each row; "
            "leave it out"
        )
    labels = classes_of(corpus.labels, subset, corpus=reference.corpus)
    rows, tokens = (None, None) if root is None else _counted(root / TRAIN, subset)
    validation_rows, _ = (None, None) if root is None else _counted(root / VALIDATION, subset)
    return replace(corpus, labels=labels, rows=rows, tokens=tokens, validation_rows=validation_rows)


def _counted(place: Path, subset: tuple[str, ...]) -> tuple[int | None, int | None]:
    """Rows of some classes in a part of a corpus and their tokens, None for a part that is not there."""
    if not _is_there(place):
        return None, None
    corpus = Corpus.open(str(place))
    chosen = chosen_rows(CorpusPart(str(place), label_subset=subset), corpus)
    assert chosen is not None
    rows = tokens = 0
    for shard in range(len(corpus.shard_offsets) - 1):
        lengths = corpus.lengths.of_shard(shard)[chosen(shard)]
        rows, tokens = rows + len(lengths), tokens + int(lengths.sum())
    return rows, tokens


def _few_rows(reference: CorpusRef, corpus: CorpusFacts, root: Path | None) -> tuple[int | None, int | None]:
    """Rows and about how many tokens there are to train on, of a corpus at ``root``, None before it is made.

    Raises ValueError for few of a corpus without classes, and for more of one class than there are.
    """
    if reference.few_shot is None:
        return corpus.rows, corpus.tokens
    if not has_classes(corpus.labels, corpus.columns):
        raise UserError(
            f"few_shot is {reference.few_shot}, but corpus {reference.corpus!r} has no class for each row; leave it out"
        )
    if root is not None and corpus.has_train:
        # Which of them are drawn does not matter here.
        part = CorpusPart(
            str(root / TRAIN), few_shot=reference.few_shot, label_subset=tuple(reference.label_subset or ())
        )
        chosen_rows(part, Corpus.open(part.uri))
    rows = reference.few_shot * len(corpus.labels)
    tokens = None if not corpus.rows or corpus.tokens is None else round(corpus.tokens * rows / corpus.rows)
    return rows, tokens


def _weighted(numbers: Sequence[int | None], weights: Sequence[float]) -> int | None:
    if any(number is None for number in numbers):
        return None
    return sum(round((number or 0) * weight) for number, weight in zip(numbers, weights, strict=True))


def _facts_of_one(reference: str, inputs: Inputs) -> CorpusFacts:
    root = folder_of(reference, inputs)
    if root is None:
        facts = inputs[reference].facts
        if not isinstance(facts, CorpusFacts):
            raise UserError(f"corpus is {reference!r}, which makes no corpus; name a binarize stage")
        return facts
    if not any(_is_there(root / part) for part in (TRAIN, VALIDATION)):
        raise UserError(f"corpus is {reference!r}, neither an earlier stage nor a folder of a binarize stage")
    return of_folder(root)


def of_folder(root: Path) -> CorpusFacts:
    """The facts of a corpus that exists."""
    has_train = _is_there(root / TRAIN)
    corpus = Corpus.open(str(root / (TRAIN if has_train else VALIDATION)))
    manifest = corpus.manifest
    return CorpusFacts(
        str(manifest.encoding["name"]),
        manifest.tokenizer.vocab_size,
        manifest.tokenizer.max_length,
        manifest.tokenizer.hash,
        rows=manifest.rows if has_train else None,
        tokens=manifest.tokens if has_train else None,
        labels=tuple(manifest.encoding.get("labels") or ()),
        validation_rows=_rows_of(root / VALIDATION),
        columns=corpus.columns,
        has_train=has_train,
        unlabelled=tuple(part for part in PARTS if _is_unlabelled(root / part)),
        teacher_tokenizers=tuple(
            TokenizerFacts(one.vocab_size, one.max_length, one.hash) for one in manifest.teacher_tokenizers
        ),
    )


def without_labels(corpora: Sequence[CorpusRef], corpus: CorpusFacts, part: str = "") -> str:
    """Which rows lack labels, and how they get them."""
    names = ", ".join(repr(reference.corpus) for reference in corpora)
    where = part or " and ".join(corpus.unlabelled)
    return f"rows of corpus {names} have none in {where}; binarize with labelled: all"


def _is_there(part: Path) -> bool:
    return Folder(part).exists(MANIFEST)


def _is_unlabelled(part: Path) -> bool:
    return _is_there(part) and is_unlabelled(Corpus.open(str(part)).manifest.encoding)


def _rows_of(part: Path) -> int | None:
    return Corpus.open(str(part)).manifest.rows if _is_there(part) else None
