"""Turn a source's texts into an encoded corpus with a held-out part."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from raydistill.config.named import EncodingField, SourceField, parser
from raydistill.config.sections import ModelRef, ScalingConfig
from raydistill.data.binarize import binarize
from raydistill.data.corpus import tokenizer_hash
from raydistill.models.load import load_tokenizer
from raydistill.stages import _base, _checkpoints


class Config(_base.StageConfig):
    """Which texts, encoded by which tokenizer and how."""

    source: SourceField
    """Where the texts lie: the name of a source and its options."""
    encoding: EncodingField = parser("raydistill.tasks", attribute="EncodeConfig")("mlm")
    """What an example is: the name of a task and its encoding options."""
    tokenizer: ModelRef
    """A checkpoint whose tokenizer encodes."""
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """Share of the source's texts kept out of training, for evaluation."""
    rows_per_shard: Annotated[int, Field(ge=1)] = 10_000
    """Most rows of one Parquet shard."""


class Stage(_base.Stage):
    """Writes ``train`` and ``held_out``, two corpora of the same encoding."""

    config_type = Config
    config: Config

    def references(self) -> dict[str, str]:
        return {"tokenizer": self.config.tokenizer.checkpoint or ""}

    def identity(self, scaling: ScalingConfig) -> dict[str, Any]:
        source = self.config.source
        listed = source.module.items(source.config) if source.module.is_listed_early(source.config) else []
        return {**super().identity(scaling), "items": {item.key: item.fingerprint for item in listed}}

    def check(self, scaling: ScalingConfig, earlier: Mapping[str, _base.Forecast]) -> _base.Forecast:
        model, folder = _checkpoints.model_config(self.config.tokenizer, earlier)
        vocab_size, limit, digest = model.vocab_size, model.max_position_embeddings, None
        if folder is not None:
            tokenizer = load_tokenizer(folder)
            self.config.encoding.module.check_tokenizer(tokenizer)
            digest = tokenizer_hash(tokenizer)
            vocab_size, limit = len(tokenizer), min(limit, tokenizer.model_max_length)
        max_length = self.config.encoding.config.max_length or limit
        if max_length > limit:
            raise ValueError(f"encoding.max_length is {max_length}; the tokenizer's model takes at most {limit}")
        corpus = _base.CorpusForecast(self.config.encoding.name, vocab_size, max_length, digest)
        line = f"{self.config.source.name} texts, {vocab_size} ids, at most {max_length} tokens a row"
        return _base.Forecast(lines=[line], corpus=corpus)

    def run(self, context: _base.StageContext) -> dict[str, Any]:
        return binarize(
            source=self.config.source,
            encoding=self.config.encoding,
            tokenizer_folder=str(_checkpoints.resolve(self.config.tokenizer, context.outputs)),
            output=str(context.output),
            held_out=self.config.held_out,
            rows_per_shard=self.config.rows_per_shard,
            seed=context.seed,
        )
