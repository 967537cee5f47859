"""What the outputs of checkpoints are, said once for a job instead of at every stage that reads one of them."""

from collections.abc import Mapping
from typing import Any

from raydistill.config.sections import Labels, ModelRef, Section

_TOKENIZERS = ("tokenizer", "teacher_tokenizers")
"""Keys of checkpoints of which no output is read."""


def with_labels(config: Any, labels: Mapping[str, Labels]) -> Any:
    """A stage's configuration, or a part of it, whose references to these checkpoints say what their outputs are.

    One that says it itself, or starts a new head, stays as it is.
    """
    if isinstance(config, ModelRef):
        said = labels.get(config.checkpoint or "")
        keeps = said is None or config.labels or config.head == "new"
        return config if keeps else config.model_copy(update={"labels": said})
    if isinstance(config, Section):
        parts = {key: getattr(config, key) for key in type(config).model_fields if key not in _TOKENIZERS}
        return config.model_copy(update=with_labels(parts, labels))
    if isinstance(config, list):
        return [with_labels(part, labels) for part in config]
    if isinstance(config, dict):
        return {key: with_labels(part, labels) for key, part in config.items()}
    return config
