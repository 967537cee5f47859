"""Where a model reference leads, and whether the model there fits a task and a corpus.

A reference names an earlier stage, a folder, a package's archive, a registered model or one of a hub.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from raydistill import names
from raydistill.config.named import TaskSpec
from raydistill.config.sections import ModelRef
from raydistill.data.corpus import tokenizer_hash
from raydistill.data.published.archives import extract_folder
from raydistill.data.storages import storage_at
from raydistill.deploy.exported import is_exported
from raydistill.models import checks
from raydistill.models.classes import class_order, known_labels, output_names
from raydistill.models.gguf import gguf_at, kept_checkpoint
from raydistill.models.load import CLASSIFIERS, check_family, load_config, load_tokenizer, stored_head
from raydistill.models.padding import check_padding_side
from raydistill.registry.reference import is_registered
from raydistill.stages._base import INITIAL, CorpusFacts, Inputs, ModelFacts, planned, stage_of, suffix_of
from raydistill.stages._made_checkpoints import content_of as content_of
from raydistill.stages._made_checkpoints import naming_blocks, times_of, whole_model, with_blocks
from raydistill.store_paths import cache_folder, is_in_store, local_path
from raydistill.user_error import UserError, placed

BEFORE = INITIAL.removeprefix("@")
"""Folder, in a training's output, of the student before training."""
_TEMPORARY = 16
"""What the name of a folder has more while it is filled."""
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
_CHECKPOINT_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]


def describe(reference: ModelRef) -> str:
    """A reference as one word for logs and tags."""
    return reference.checkpoint or f"{reference.package}:{reference.path}"


@dataclass(frozen=True)
class Model:
    """A model that a reference leads to: one that is there, or that an earlier stage will make."""

    config: Any
    """Its transformers configuration."""
    folder: Path | None = None
    """Where it is; None before it is made."""
    planned_tokenizer: str | None = None
    exported: bool = False
    """Whether another runtime than torch runs it."""

    @property
    def tokenizer_hash(self) -> str | None:
        """Of its tokenizer; None where that is not made yet, or the folder has none."""
        return self.planned_tokenizer if self.folder is None else hash_of_folder(self.folder)


@dataclass(frozen=True)
class Fitted:
    """What a stage reads of a model that fits its task and corpus."""

    model: Model
    encoding: int
    """Which of the corpus's encodings it reads, 0 for its own."""
    names: tuple[str | None, ...]
    """What its outputs stand for as its reference says it, () where it says nothing."""
    labels: tuple[str, ...]
    """The classes that it knows, in the corpus's order; all where its task has none."""

    @property
    def config(self) -> Any:
        """Its transformers configuration."""
        return self.model.config

    @property
    def folder(self) -> Path:
        """Where it is, once the stage runs that reads it."""
        assert self.model.folder is not None, "a stage runs after those that make what it reads"
        return self.model.folder

    def for_workers(self, storage: Path | None) -> str:
        """Where workers find it, given the job's storage."""
        return str(for_workers(self.folder, storage))


def model_of(key: str, reference: ModelRef, inputs: Inputs, *, for_tokenizer: bool = False) -> Model:
    """The model that ``reference`` under ``key`` leads to; raises ValueError for one that leads nowhere.

    ``for_tokenizer`` asks nothing of a model that is there: a tokenizer may lie beside any, or alone.
    """
    try:
        name = reference.checkpoint
        made = None if name is None or is_registered(name) else inputs.get(stage_of(name))
        if name is None or made is None or made.folder is not None:
            folder = resolve(reference, inputs)
            return Model(None if for_tokenizer else load_config(folder), folder, exported=is_exported(folder))
        facts = planned(ModelFacts, stage_of(name), inputs)
        if facts is None or suffix_of(name) not in facts.configs:
            raise UserError(f"checkpoint is {name!r}, which makes no model; name a training stage")
        made_config = facts.configs[suffix_of(name)]
        config = made_config if reference.blocks is None else naming_blocks(made_config, reference.blocks)
        return Model(config, planned_tokenizer=facts.tokenizer_hash, exported=facts.exported_from is not None)
    except UserError as error:
        raise error.at(key) from None


def fitted(
    key: str,
    reference: ModelRef,
    inputs: Inputs,
    *,
    task: TaskSpec,
    corpus: CorpusFacts,
    may_know_a_part: bool = False,
    may_be_exported: bool = False,
) -> Fitted:
    """The model that ``reference`` under ``key`` leads to, in the encoding of the corpus that it reads.

    Raises ValueError for one that does not fit the task and the corpus, as ``check_model`` and ``check_size`` say it.
    """
    model = model_of(key, reference, inputs)
    encoding = encoding_of(key, model.tokenizer_hash, corpus.hashes, can_be_added=task.task.TEACHER_TOKENIZERS)
    read = corpus.as_encoded(encoding)
    check_model(
        key,
        reference,
        model,
        head=task.head,
        corpus=read,
        may_know_a_part=may_know_a_part,
        may_be_exported=may_be_exported,
    )
    check_size(key, model.config, read)
    has_parts = may_know_a_part and task.head in CLASSIFIERS
    labels = known_by(key, reference, model.config, corpus.labels) if has_parts else corpus.labels
    return Fitted(model, encoding, names_of(reference, model.config), labels)


def check_model(
    key: str,
    reference: ModelRef,
    model: Model,
    *,
    head: str,
    corpus: CorpusFacts,
    may_know_a_part: bool = False,
    may_be_exported: bool = False,
) -> None:
    """Refuse a model that lacks the head, or has other classes than the corpus or another tokenizer.

    Where it may know a part of the classes, one that has some that the corpus lacks. Also one whose tokenizer pads
    where transformers reads it otherwise, and an export, unless there may be one.
    """
    check_family(model.config, head=head, of=key)
    if model.exported:
        _check_export(key, model, head, may_be=may_be_exported)
    elif model.folder is not None:
        with placed(key):
            missing = [] if reference.head == "new" else checks.missing_head(model.folder, head=head)
        if missing:
            raise UserError(
                f"{key} has no {head} head ({missing[0]} is not in the checkpoint); "
                f"choose one that has it, or write {key}.head: new to start one"
            )
        with placed(key):
            _check_weights(model.folder, head, reference.head == "new", times_of(model.folder))
    if head in CLASSIFIERS and reference.head != "new":
        part = known_by(key, reference, model.config, corpus.labels) if may_know_a_part else corpus.labels
        with placed(key):
            class_order(model.config, part, names=names_of(reference, model.config))
    if model.folder is None:
        return
    # The corpus's ids must mean to the model what its own tokenizer says; equal sizes do not show that.
    encoding_of(key, model.tokenizer_hash, corpus.hashes[:1], can_be_added=False)
    side = None if reference.head == "new" else padding_side_of_folder(model.folder)
    if side is not None:
        check_padding_side(key, model.config, side, head=head)


def _check_export(key: str, model: Model, head: str, *, may_be: bool) -> None:
    if not may_be:
        raise UserError(
            f"{key} is an export to another runtime, which has neither hidden states nor gradients; name the model "
            "that it was made from"
        )
    # The configuration of one that is not made yet may name no head.
    own = head if model.folder is None else stored_head(model.config)
    if own != head:
        raise UserError(f"{key} is the export of a {own} model, but the task needs a {head} head; export another model")


@lru_cache(maxsize=64)
def _check_weights(folder: Path, head: str, new: bool, changed: tuple[tuple[int, int], ...]) -> None:
    """``checks.check_weights``, once for many stages that name the folder."""
    checks.check_weights(folder, head=head, allow_new_head=new)


def check_size(key: str, model: Any, corpus: CorpusFacts) -> None:
    """Raise ValueError for a model under ``key`` with fewer token ids or positions than the corpus has."""
    if model.vocab_size < corpus.vocab_size:
        raise UserError(
            f"{key} has {model.vocab_size} token ids, but the corpus has {corpus.vocab_size}; "
            "binarize with that model's tokenizer"
        )
    positions = checks.max_length(model)
    if positions < corpus.max_length:
        raise UserError(
            f"{key} has {positions} positions, but the corpus has rows of up to {corpus.max_length} tokens; "
            f"binarize with encoding.max_length={positions}"
        )


def names_of(reference: ModelRef, model: Any) -> tuple[str | None, ...]:
    """What a model's outputs stand for as its reference says it, () where it says nothing."""
    return output_names(model, reference.labels)


def known_by(key: str, reference: ModelRef, model: Any, labels: Sequence[str]) -> tuple[str, ...]:
    """Those of the classes that a model under ``key`` knows, in their order.

    ``model`` is its configuration. Raises ValueError for one that knows none of them, or others.
    """
    with placed(key):
        return known_labels(model, labels, names=names_of(reference, model))


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
        remedy += ", or name the model under teacher_tokenizers of the binarize stage"
    raise UserError(f"{key} has a different tokenizer from the corpus; {remedy}")


def hash_of_folder(folder: Path) -> str | None:
    """The hash of the tokenizer in a checkpoint folder, None where there is none."""
    found = _tokenizer_in(folder)
    return None if found is None else found.hash


def padding_side_of_folder(folder: Path) -> str | None:
    """Where the tokenizer in a checkpoint folder pads, ``left`` or ``right``, None where there is none."""
    found = _tokenizer_in(folder)
    return None if found is None else found.padding_side


class _Tokenizer(NamedTuple):
    """What is asked of the tokenizer in a folder."""

    hash: str
    padding_side: str


def _tokenizer_in(folder: Path) -> _Tokenizer | None:
    files = [file for file in (folder / name for name in _TOKENIZER_FILES) if file.is_file()]
    if folder / _TOKENIZER_FILES[0] not in files:
        return None
    return _tokenizer_of(folder, tuple(file.stat().st_mtime_ns for file in files))


@lru_cache(maxsize=64)
def _tokenizer_of(folder: Path, changed: tuple[int, ...]) -> _Tokenizer:
    """What a folder's tokenizer does, found out once for many stages that name it; ``changed`` are the files' times."""
    tokenizer = load_tokenizer(folder)
    return _Tokenizer(tokenizer_hash(tokenizer), tokenizer.padding_side)


def model_folder(reference: str, output: Path) -> Path:
    """The checkpoint that a reference to a stage means, given the folder that it left; fetched where it is not here."""
    return _whole(reference, storage_at(output / (suffix_of(reference).removeprefix("@") or "student")).fetch())


def resolve(reference: ModelRef, inputs: Inputs) -> Path:
    """The local folder that holds the checkpoint, fetched first where it is not here.

    ``inputs`` has the folders of earlier stages and of registered models. An adapter is merged with its base, and what
    a GGUF file holds is written once to the cache folder. Raises ValueError when the reference is no earlier stage, no
    folder or GGUF file, and neither a registered model nor to be had from the hub.
    """
    place = _place(reference, inputs)
    packed = gguf_at(place)
    folder = place if packed is None else kept_checkpoint(packed, cache_folder() / "models" / "gguf")
    whole = _whole(describe(reference), folder)
    return whole if reference.blocks is None else with_blocks(whole, reference.blocks)


def _whole(reference: str, folder: Path) -> Path:
    """The folder of a plain model: that of an adapter's sum with its base, or the one that is given."""
    # What the platform wrote is a path, which may stand for a place in an object store.
    return whole_model(
        reference,
        folder,
        lambda name: (
            storage_at(Path(name)).fetch() if Path(name).is_absolute() else _place(ModelRef(checkpoint=name), {})
        ),
    )


def _place(reference: ModelRef, inputs: Inputs) -> Path:
    package = reference.package_ref
    if package is not None:
        name = names.short(Path(package.path).name, names.SHORT, room=_TEMPORARY)
        folder = cache_folder() / "models" / package.sha256[:16] / name
        extract_folder(package, folder)
        return folder
    assert reference.checkpoint is not None
    if is_in_store(reference.checkpoint):
        return _from_store(reference.checkpoint)
    if is_registered(reference.checkpoint):
        return _registered(reference.checkpoint, inputs)
    made = inputs.get(stage_of(reference.checkpoint))
    if made is not None and made.folder is not None:
        return model_folder(reference.checkpoint, made.folder)
    if Path(reference.checkpoint).is_dir() or gguf_at(Path(reference.checkpoint)) is not None:
        return Path(reference.checkpoint)
    return _from_hub(reference.checkpoint, reference.revision)


def for_workers(folder: Path, storage: Path | None) -> Path:
    """Where workers on other machines find a checkpoint: its own folder, or a copy in a storage that it is not in."""
    if storage is None:
        return folder
    return storage_at(storage / "models").share(folder, lambda: content_of(folder)[:16])


def _registered(reference: str, inputs: Inputs) -> Path:
    found = inputs.get(reference)
    if found is None or found.folder is None:
        raise UserError(f"checkpoint is {reference!r}, but no job names the registry; name a folder")
    return found.folder


def _from_store(uri: str) -> Path:
    folder = storage_at(local_path(uri)).fetch()
    if not (folder / "config.json").is_file():
        raise UserError(f"checkpoint is {uri!r}, where no config.json lies; name a folder with one")
    return folder


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_CHECKPOINT_FILES))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"checkpoint is {name!r}, which is neither an earlier stage nor a folder, and was not found on the Hugging "
            f"Face Hub ({reason})"
        ) from None
