"""Turn a source's texts into an encoded corpus with a held-out part."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, model_validator

from raydistill.config.named import EncodingField, OptionalSourceField, SourceField, parser
from raydistill.config.sections import ModelRef, ScalingConfig, Section
from raydistill.data.binarize import binarize
from raydistill.data.corpus import FORMAT_VERSION, tokenizer_hash
from raydistill.data.units import WeightedSource
from raydistill.models.checks import max_length
from raydistill.models.load import load_tokenizer
from raydistill.stages import _base, _checkpoints


class SourceConfig(Section):
    """One of several sources."""

    source: SourceField
    """Where the texts lie: the name of a source and its options."""
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """1 takes every text once, 0.5 a random half, 2.5 every text twice and a random half a third time."""


class Config(_base.StageConfig):
    """Which texts, encoded by which tokenizer and how."""

    source: OptionalSourceField = None
    """Where the texts lie: the name of a source and its options."""
    sources: list[SourceConfig] = []
    """Several sources with weights, mixed; instead of ``source``."""
    encoding: EncodingField = parser("raydistill.tasks", attribute="EncodeConfig")("mlm")
    """What an example is: the name of a task and its encoding options."""
    tokenizer: ModelRef
    """A checkpoint whose tokenizer encodes."""
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """Share of the source's texts kept out of training, for evaluation."""
    rows_per_shard: Annotated[int, Field(ge=1)] = 10_000
    """Most rows of one Parquet shard."""

    @model_validator(mode="after")
    def _one_origin(self) -> "Config":
        if (self.source is None) == (not self.sources):
            raise ValueError("give exactly one of source and sources")
        return self

    @property
    def weighted_sources(self) -> list[WeightedSource]:
        """The sources with their weights, a single one with weight 1."""
        if self.source is not None:
            return [WeightedSource(self.source)]
        return [WeightedSource(one.source, one.weight) for one in self.sources]


class Stage(_base.Stage):
    """Writes ``train`` and ``held_out``, two corpora of the same encoding."""

    config_type = Config
    config: Config

    def references(self) -> dict[str, str]:
        return {"tokenizer": self.config.tokenizer.checkpoint or ""}

    def identity(self, scaling: ScalingConfig) -> dict[str, Any]:
        listed = {str(number): _listed(one) for number, one in enumerate(self.config.weighted_sources)}
        return {**super().identity(scaling), "items": listed, "format": FORMAT_VERSION}

    def check(self, scaling: ScalingConfig, earlier: Mapping[str, _base.Forecast]) -> _base.Forecast:
        model, folder = _checkpoints.model_config(self.config.tokenizer, earlier)
        vocab_size, limit, digest = model.vocab_size, max_length(model), None
        if folder is not None:
            tokenizer = load_tokenizer(folder)
            self.config.encoding.module.check_tokenizer(tokenizer)
            digest = tokenizer_hash(tokenizer)
            vocab_size, limit = len(tokenizer), min(limit, tokenizer.model_max_length)
        longest = self.config.encoding.config.max_length or limit
        if longest > limit:
            raise ValueError(f"encoding.max_length is {longest}; the tokenizer's model takes at most {limit}")
        labels = tuple(getattr(self.config.encoding.config, "labels", ()))
        corpus = _base.CorpusForecast(self.config.encoding.name, vocab_size, longest, digest, labels=labels)
        names = " and ".join(one.source.name for one in self.config.weighted_sources)
        line = f"{names} texts, {vocab_size} ids, at most {longest} tokens a row"
        return _base.Forecast(lines=[line], corpus=corpus)

    def run(self, context: _base.StageContext) -> dict[str, Any]:
        return binarize(
            sources=self.config.weighted_sources,
            encoding=self.config.encoding,
            tokenizer_folder=str(_checkpoints.resolve(self.config.tokenizer, context.outputs)),
            output=str(context.output),
            held_out=self.config.held_out,
            rows_per_shard=self.config.rows_per_shard,
            seed=context.seed,
            parallel=context.parallel,
        )


def _listed(weighted: WeightedSource) -> dict[str, str]:
    """What identifies each item of a source, as far as that can be told before the job runs."""
    source = weighted.source
    listed = source.module.items(source.config) if source.module.is_listed_early(source.config) else []
    return {item.key: item.fingerprint for item in listed}
