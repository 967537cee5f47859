"""Turn a source's texts into an encoded corpus with a validation part."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from raydistill.config.named import EncodingSpec, SourceSpec
from raydistill.config.sections import ModelRef, ScalingConfig, Section
from raydistill.data.corpus import FORMAT_VERSION, tokenizer_hash
from raydistill.data.corpus_building import binarize, check_new
from raydistill.data.examples import examples_of, placed_in
from raydistill.data.findings import Finding
from raydistill.data.input_splits import PARTS, WeightedSource, of_part, unlabelled_parts
from raydistill.data.sources._base import DROPPED
from raydistill.data.sources._files import FileSet
from raydistill.data.teacher_tokenizers import further_columns
from raydistill.data.token_counts import counts_file, read_counts_of
from raydistill.models.checks import longest_row, max_length
from raydistill.models.load import load_tokenizer
from raydistill.stages import _base, _models
from raydistill.stages._base import CorpusFacts, Decisions, Inputs, TokenizerFacts
from raydistill.user_error import UserError, placed

_TRIED = 100
"""Examples of each source that the preflight encodes, where rows have labels."""


def _share_or_source(value: Any) -> Any:
    """A share between 0 and 1, or the source that a section names; raises ValueError for what is neither."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not 0 < value < 1:
            raise UserError("give a fraction between 0 and 1, or a source")
        return float(value)
    return SourceSpec.parse(value)


class SourceConfig(Section):
    """One of several sources."""

    source: SourceSpec
    """Where the texts are: the name of a source and its options."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """1 takes every text once, 0.5 takes a random half, and 2.5 takes every text twice and a random half a third
    time."""


class Config(_base.StageConfig):
    """Which texts, encoded by which tokenizer and how."""

    source: SourceSpec | None = None
    """Where the texts are: the name of a source and its options. None if the corpus is only a ``validation`` source."""
    sources: list[SourceConfig] = []
    """Several sources with weights, mixed; instead of ``source``."""
    encoding: EncodingSpec = EncodingSpec.parse("mlm")
    """What an example is: the name of a task and its encoding options."""
    tokenizer: ModelRef
    """A checkpoint whose tokenizer encodes the texts."""
    teacher_tokenizers: list[ModelRef] = []
    """Checkpoints, such as teachers, whose tokenizers also encode each example; for the tasks classification and glue
    only."""
    validation: Annotated[float | SourceSpec, BeforeValidator(_share_or_source)] = 0.02
    """The fraction of the source's texts that is kept out of training, for evaluation; or a source that is held out as
    a whole."""
    rows_per_shard: Annotated[int, Field(ge=1)] = 10_000
    """The maximum number of rows in a Parquet shard."""
    token_counts: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """A file with the number of occurrences of each token id in a larger text. The task mlm masks by these counts
    instead of the corpus's own. It is a NumPy array (``.npy``), such as that of another corpus, or a pickled list, as
    published."""

    @model_validator(mode="after")
    def _one_origin(self) -> "Config":
        given = int(self.source is not None) + bool(self.sources)
        if given > 1 or (given == 0 and not isinstance(self.validation, SourceSpec)):
            raise UserError("give exactly one of source and sources")
        if any(one.source == self.validation for one in self.weighted_sources):
            raise UserError(
                "validation is the source itself; name another split or other files, or a fraction such as 0.1"
            )
        return self

    @model_validator(mode="after")
    def _one_kind(self) -> "Config":
        given = {key: source.has_instructions for key, source in self.named_sources()}
        if not any(given.values()):
            return self
        if not all(given.values()):
            others = [next(key for key, value in given.items() if value is kind) for kind in (True, False)]
            raise UserError(f"{others[0]} has prompts or messages, {others[1]} has not; binarize each by itself")
        if not self.encoding.takes_instructions:
            raise UserError(
                f"encoding is {self.encoding.name!r}, which reads no prompts or messages; write encoding: clm"
            )
        with placed("encoding"):
            self.encoding.with_instructions()
        return self

    @property
    def has_instructions(self) -> bool:
        """Whether the sources have prompts with completions, or messages."""
        return any(source.has_instructions for _, source in self.named_sources())

    @property
    def weighted_sources(self) -> list[WeightedSource]:
        """The sources with their weights, a single one with weight 1."""
        if self.source is not None:
            return [WeightedSource(self.source)]
        return [WeightedSource(one.source, one.weight) for one in self.sources]

    def named_sources(self) -> Iterator[tuple[str, SourceSpec]]:
        """Every source by its key, the one that is held out last."""
        if self.source is not None:
            yield "source", self.source
        for number, one in enumerate(self.sources):
            yield f"sources.{number}", one.source
        if isinstance(self.validation, SourceSpec):
            yield "validation", self.validation


class Stage(_base.Stage):
    """Writes ``train`` and ``validation``, two corpora of the same encoding; without a source only ``validation``."""

    config_type = Config
    config: Config

    def references(self) -> dict[str, str]:
        further = enumerate(self.config.teacher_tokenizers)
        return {
            "tokenizer": self.config.tokenizer.checkpoint or "",
            **{f"teacher_tokenizers.{number}": one.checkpoint or "" for number, one in further},
        }

    def identity(self, scaling: ScalingConfig) -> dict[str, Any]:
        listed = {str(number): _listed(one.source) for number, one in enumerate(self.config.weighted_sources)}
        if isinstance(self.config.validation, SourceSpec):
            listed["validation"] = _listed(self.config.validation)
        found = {**super().identity(scaling), "items": listed, "format": FORMAT_VERSION}
        # Without these the corpus is the one that it was before there were such keys.
        if not self.config.teacher_tokenizers:
            del found["teacher_tokenizers"]
        if found["encoding"].get("labelled") == "all":
            del found["encoding"]["labelled"]
        if self.config.token_counts is not None:
            found["token_counts"] = counts_file(FileSet(self.config.token_counts), value="").fingerprint
        return found

    def plan(self, scaling: ScalingConfig, inputs: Inputs) -> Decisions:
        own, tokenizer = self._tokenizer(self.config.tokenizer, inputs, whose="the tokenizer")
        if tokenizer is not None:
            self._try_labels(tokenizer)
        self._check_counts(own.vocab_size)
        encoding = self._encoding
        further = self._further(own, inputs)
        more = further_columns([one.vocab_size for one in further])
        first = of_part(encoding, 0 if self.config.weighted_sources else 1)
        corpus = CorpusFacts(
            encoding.name,
            own.vocab_size,
            own.max_length,
            own.tokenizer_hash,
            labels=encoding.labels,
            columns={**first.columns, **more},
            unlabelled=unlabelled_parts(encoding),
            has_train=bool(self.config.weighted_sources),
            teacher_tokenizers=further,
        )
        lines = [self._line(own.vocab_size, own.max_length, further)]
        if self.config.encoding.finds_labels:
            lines.append(f"labels found in the data: {', '.join(encoding.labels)}")
        return Decisions(lines, corpus)

    @cached_property
    def _encoding(self) -> EncodingSpec:
        """The encoding of what the sources have, with labels found in all examples where the configuration has none."""
        encoding = self.config.encoding
        if self.config.has_instructions:
            return encoding.with_instructions()
        if not encoding.finds_labels:
            return encoding
        with placed("encoding.labels is auto"):
            return encoding.with_labels_of(self._examples())

    def _examples(self) -> Iterator[Mapping[str, Any]]:
        """The examples of all sources that are not left out."""
        for key, source in self.config.named_sources():
            with placed(key):
                for item in source.items():
                    yield from (example for example in examples_of(source, item) if DROPPED not in example)

    def _check_counts(self, vocab_size: int) -> None:
        """Refuse counts of another vocabulary's ids, and counts by which nothing is drawn."""
        if self.config.token_counts is None:
            return
        if not self.config.encoding.task.READS_TOKEN_COUNTS:
            raise UserError(
                f"token_counts is {self.config.token_counts!r}, but rows of {self.config.encoding.name} get no masks; "
                "leave it out, or encode for mlm"
            )
        read_counts_of(self.config.token_counts, vocab_size=vocab_size)

    def _tokenizer(self, reference: ModelRef, inputs: Inputs, *, whose: str) -> tuple[TokenizerFacts, Any]:
        """What is known of a tokenizer, and itself where it is here; raises ValueError for one that does not suit."""
        model = _models.model_of("", reference, inputs, for_tokenizer=True)
        digest, tokenizer = model.planned_tokenizer, None
        if model.folder is None:
            vocab_size, limit = model.config.vocab_size, max_length(model.config)
        else:
            tokenizer = load_tokenizer(model.folder)
            self.config.encoding.check_tokenizer(tokenizer)
            digest = tokenizer_hash(tokenizer)
            vocab_size, limit = len(tokenizer), min(longest_row(model.folder), tokenizer.model_max_length)
        longest = self.config.encoding.max_length or limit
        if longest > limit:
            raise UserError(f"encoding.max_length is {longest}; {whose}'s model takes at most {limit}")
        return TokenizerFacts(vocab_size, longest, digest), tokenizer

    def _further(self, own: TokenizerFacts, inputs: Inputs) -> tuple[TokenizerFacts, ...]:
        """The teacher tokenizers; raises ValueError, naming the key, where they cannot encode or are there already."""
        encoding = self.config.encoding
        if self.config.teacher_tokenizers and not encoding.task.TEACHER_TOKENIZERS:
            raise UserError(
                f"teacher_tokenizers names {len(self.config.teacher_tokenizers)}, but rows of {encoding.name} have one "
                "encoding; leave them out, or encode for classification or glue"
            )
        found: list[TokenizerFacts] = []
        for number, reference in enumerate(self.config.teacher_tokenizers):
            key = f"teacher_tokenizers.{number}"
            with placed(key):
                one, _ = self._tokenizer(reference, inputs, whose=key)
            if one.tokenizer_hash is not None:
                check_new(number, one.tokenizer_hash, [own.tokenizer_hash, *(other.tokenizer_hash for other in found)])
            found.append(one)
        return tuple(found)

    def _line(self, vocab_size: int, longest: int, further: Sequence[TokenizerFacts]) -> str:
        names = " and ".join(one.source.name for one in self.config.weighted_sources)
        apart = self.config.validation.name if isinstance(self.config.validation, SourceSpec) else ""
        texts = [f"{names} texts" if names else "", f"{apart} texts held out" if apart else ""]
        also = f"; in {' and '.join(str(one.vocab_size) for one in further)} ids too" if further else ""
        unlabelled = unlabelled_parts(self.config.encoding)
        also += f"; no labels in {' and '.join(unlabelled)}" if unlabelled else ""
        return f"{', '.join(filter(None, texts))}, {vocab_size} ids, at most {longest} tokens a row{also}"

    def _try_labels(self, tokenizer: Any) -> None:
        """Encode the first examples of sources that are here, so that unknown labels and wrong columns show early.

        Raises ValueError for them, naming the source's key.
        """
        for key, source in self.config.named_sources():
            encoding = of_part(self._encoding, PARTS.index("validation") if key == "validation" else 0)
            if not encoding.columns or not source.is_listed_early:
                continue
            with placed(key):
                items = source.items()
                if not items:
                    raise UserError("has no rows")
                examples = itertools.islice(examples_of(source, items[0]), _TRIED)
                kept = [example for example in examples if DROPPED not in example]
                cut = partial(encoding.cut, tokenizer=tokenizer)
                with placed_in(items[0], kept, cut):
                    cut(kept)

    def run(self, context: _base.StageContext) -> dict[str, Any]:
        return binarize(
            sources=self.config.weighted_sources,
            encoding=self._encoding,
            tokenizer_folder=str(_models.resolve(self.config.tokenizer, context.inputs)),
            teacher_tokenizers=[str(_models.resolve(one, context.inputs)) for one in self.config.teacher_tokenizers],
            output=str(context.output),
            validation=self.config.validation,
            rows_per_shard=self.config.rows_per_shard,
            seed=context.seed,
            token_counts=self.config.token_counts,
            parallel=context.parallel,
            tell=partial(_tell, context),
        )


def _tell(context: _base.StageContext, findings: Sequence[Finding]) -> None:
    """Print and track what was left out of a corpus, and what of the rest looks wrong."""
    lines = [f"{'warning: ' if one.is_warning else ''}{one.text}" for one in findings]
    for line in lines:
        context.echo(line)
    context.tracker.log_metrics(context.run_key, {one.metric: one.number for one in findings if one.metric}, 0)
    context.tracker.log_text(context.run_key, "".join(f"{line}\n" for line in lines), "findings.txt")


def _listed(source: SourceSpec) -> dict[str, str]:
    """What identifies each item of a source, as far as that can be told before the job runs."""
    return {item.key: item.fingerprint for item in source.items()} if source.is_listed_early else {}
