"""What ``raydistill ls models`` tells: which models run, with which heads, and what a method can have of each."""

from typing import Any, NamedTuple

from raydistill import discovery
from raydistill.models.blocks import NEEDS, packed_families
from raydistill.models.heads import HEADS, has_head

_METHODS = "raydistill.methods"
_SHORT = {
    "causal_lm": "clm",
    "masked_lm": "mlm",
    "sequence_classification": "sequences",
    "token_classification": "tokens",
    "question_answering": "answers",
}
_OPTIONS = {"causal": {"mapping": "middle_6"}}
"""Options without which a method has no configuration."""
_OTHERS = "any other of transformers"


class ModelLine(NamedTuple):
    """A kind of models."""

    name: str
    heads: str
    """Its heads, in short."""
    lacks: str
    """What methods cannot have of it."""
    methods: str
    """Methods, with their options as they are by default, that can train it."""


def model_lines() -> list[ModelLine]:
    """A line for each model type that runs packed, and one for all others."""
    needs = _needs()
    found = []
    for name, family in sorted(packed_families().items()):
        heads = [head for head in HEADS if head in (family.HEAD, *family.OUTPUTS) and has_head(name, head)]
        has = family.has(None)
        usable = [method for method, (heads_of, needed) in needs.items() if needed <= has and heads_of & {*heads}]
        lacks = [need for need in NEEDS if need not in has]
        found.append(ModelLine(name, _shown(heads), ", ".join(lacks) or "-", ", ".join(usable)))
    usable = [method for method, (_, needed) in needs.items() if not needed & {"units", "attention"}]
    unsure = "units, attention; all_states, sites without a list of blocks; pooled of encoder-decoders"
    return [*found, ModelLine(_OTHERS, "those that it has there", unsure, ", ".join(usable))]


def table(lines: list[ModelLine]) -> list[str]:
    """Lines of text with a heading."""
    rows = [ModelLine("model", "heads", "lacks", "methods"), *lines]
    widths = [max(len(row[column]) for row in rows[:-1]) for column in range(3)]
    padded = [
        "  ".join([*(text.ljust(width) for text, width in zip(row[:3], widths, strict=True)), row.methods])
        for row in rows
    ]
    told = [f"{name}: {meaning}" for name, meaning in NEEDS.items()]
    return [*padded, "", "Others run whole, on padded rows, which is slower. What a method needs of a model:", *told]


def markdown(lines: list[ModelLine]) -> str:
    """The table of the documentation: kinds of models of which the same holds in one row."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for line in lines:
        alike.setdefault(line[1:], []).append(line.name)
    rows = [
        ["models", *ModelLine._fields[1:]],
        ["---"] * 4,
        *([", ".join(names), *rest] for rest, names in alike.items()),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _shown(heads: list[str]) -> str:
    return ", ".join(_SHORT[head] for head in heads)


def _needs() -> dict[str, tuple[set[str], set[str]]]:
    """For each method the heads that it trains and what it needs of a model."""
    found = {}
    for name in discovery.names(_METHODS):
        module: Any = discovery.load(_METHODS, name)
        needed = module.Method.requirements(module.Config(**_OPTIONS.get(name, {})))
        heads = {"masked_lm", "causal_lm"} if needed.tasks == ("mlm", "clm") else {*(needed.heads or HEADS)}
        found[name] = heads, {*needed.needs}
    return found
