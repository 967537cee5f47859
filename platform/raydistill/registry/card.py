"""A Markdown card of a student, from its tags and its configuration; what is not known is left out."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raydistill.registry import student
from raydistill.registry.student import FiguresRow

_AUTO = {
    "ForSequenceClassification": ("AutoModelForSequenceClassification", "a classifier of texts"),
    "ForTokenClassification": ("AutoModelForTokenClassification", "a classifier of words"),
    "ForQuestionAnswering": ("AutoModelForQuestionAnswering", "a model that finds answers in texts"),
    "ForMaskedLM": ("AutoModelForMaskedLM", "a masked language model"),
    "ForCausalLM": ("AutoModelForCausalLM", "a causal language model"),
    "LMHeadModel": ("AutoModelForCausalLM", "a causal language model"),
}
_SIZES = (("num_hidden_layers", "blocks"), ("hidden_size", "wide"), ("vocab_size", "tokens in its vocabulary"))
# Names that GPT-2 and DistilBERT have for the same.
_OTHER_NAMES = {"num_hidden_layers": ("n_layers", "n_layer"), "hidden_size": ("dim", "n_embd")}
_MOST_CLASSES = 50
_UNITS = {"size_mb": "size on disk (MB)", "latency_ms": "latency of one row (ms)"}
_UNITS["batch_latency_ms"] = "latency of a row of full batches (ms)"


def model_card(name: str, tags: Mapping[str, str], folder: Path, *, rows: Sequence[FiguresRow] = ()) -> str:
    """The card of the checkpoint in ``folder``, registered as ``name`` with ``tags``.

    ``rows``: figures for tags that have none.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    rows = student.rows_of(tags) or rows
    sections = [
        _front_matter(tags),
        f"# {name}",
        _what(config),
        _section("How it was made", _made(tags)),
        _section("Held-out figures", [figures_table(rows), tags.get(student.NOTE_TAG, "")] if rows else []),
        _section("Size", _size_lines(tags)),
        _section("Licence", [tags.get(student.LICENCE_TAG, "")]),
        _section("Use", _usage(config, name)),
    ]
    return "\n\n".join(part for part in sections if part) + "\n"


def figures_table(rows: Sequence[FiguresRow]) -> str:
    """A Markdown table: a line a figure, a column a model."""
    names = list(dict.fromkeys(figure for row in rows for figure in row.figures))
    head = [_titled(row) for row in rows]
    cells = [[_UNITS.get(name, name), *(number(row.figures.get(name)) for row in rows)] for name in names]
    lines = [["", *head], ["---", *["---:"] * len(head)], *cells]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def number(value: float | None) -> str:
    """A figure for a reader: whole numbers in groups of three digits, others with four decimals."""
    if value is None:
        return ""
    return f"{int(value):,}" if float(value).is_integer() else f"{value:,.4f}"


def _titled(row: FiguresRow) -> str:
    title = row.role if row.name == row.role else f"{row.role} ({row.name})"
    return f"{title}, mean of {row.runs} runs" if row.runs > 1 else title


def _front_matter(tags: Mapping[str, str]) -> str:
    """What a model hub reads: an identifier of a licence goes in as it is, other words as a name."""
    licence = tags.get(student.LICENCE_TAG, "")
    lines = ["library_name: transformers", "tags: [distillation]"]
    if re.fullmatch(r"[A-Za-z0-9.-]+", licence):
        lines.append(f"license: {licence.lower()}")
    elif licence:
        lines += ["license: other", f"license_name: {json.dumps(licence)}"]
    return "\n".join(["---", *lines, "---"])


def _what(config: Mapping[str, Any]) -> str:
    architecture = _architecture(config)
    kind = next((text for end, (_, text) in _AUTO.items() if architecture.endswith(end)), "a model")
    sizes = [(_value(config, name), unit) for name, unit in _SIZES]
    known = [f"{value:,} {unit}" for value, unit in sizes if isinstance(value, int)]
    text = f"{kind.capitalize()} (`{architecture}`)" + (f": {', '.join(known)}." if known else ".")
    labels = [str(label) for label in (config.get("id2label") or {}).values()]
    if "Classification" in architecture and 0 < len(labels) <= _MOST_CLASSES:
        text += f" Its classes: {', '.join(labels)}."
    return text


def _value(config: Mapping[str, Any], name: str) -> Any:
    return next((config[key] for key in (name, *_OTHER_NAMES.get(name, ())) if key in config), None)


def _architecture(config: Mapping[str, Any]) -> str:
    return str((config.get("architectures") or [config.get("model_type", "unknown")])[0])


def _made(tags: Mapping[str, str]) -> list[str]:
    options = ", ".join(f"{key}: {json.dumps(value)}" for key, value in student.method_options(tags).items())
    told = [
        ("Method", "method", f" ({options})" if options else ""),
        ("Teachers" if ", " in tags.get("teacher", "") else "Teacher", "teacher", _hashed(tags, "teacher_hash")),
        ("Corpus", "corpus", _hashed(tags, "corpus_hash")),
        ("Run", "run", ""),
        ("Job", "job", ""),
        ("Campaign", "campaign", ""),
    ]
    lines = [f"* {title}: {tags[key]}{more}" for title, key, more in told if tags.get(key)]
    if "corpus" not in tags and tags.get("corpus_hash"):
        lines.append(f"* Corpus: content {tags['corpus_hash']}")
    if tags.get("layer_plan"):
        lines.append(
            f"* Blocks: it was trained to run the blocks {tags['layer_plan']} of shared weights (* query and key "
            "exchanged); here every block is written out, with equal logits, so it is larger than it was in training."
        )
    if tags.get("kept_units"):
        small = [tags.get(key, "") for key in ("pruned_parameters", "pruned_bytes")]
        sizes = f" of {int(small[0]):,} parameters and {int(small[1]):,} bytes" if all(small) else ""
        lines.append(
            f"* Heads and neurons: it was pruned to {tags['kept_units']}, block by block; here it is in its original "
            f"shape with zeros in place of what was removed, with equal logits, so it is not smaller. The small "
            f"model{sizes} is in the run's folder, which raydistill reads."
        )
    return ["\n".join(lines)] if lines else []


def _hashed(tags: Mapping[str, str], key: str) -> str:
    found = tags.get(key, "none")
    return "" if found == "none" else f", content {found}"


def _size_lines(tags: Mapping[str, str]) -> list[str]:
    parameters, weights = student.size(tags, student.PARAMETERS_TAG), student.size(tags, student.BYTES_TAG)
    known = [f"{parameters:,} parameters"] if parameters is not None else []
    known += [f"{weights:,} bytes of weights on disk"] if weights is not None else []
    return [f"{', '.join(known)}."] if known else []


def _usage(config: Mapping[str, Any], name: str) -> list[str]:
    architecture = _architecture(config)
    auto = next((auto for end, (auto, _) in _AUTO.items() if architecture.endswith(end)), None)
    fetch = f"`raydistill models pull {name} FOLDER` makes a folder that transformers alone can read"
    if auto is None:
        return [f"{fetch}."]
    code = [
        f"from transformers import {auto}, AutoTokenizer",
        "",
        f'model = {auto}.from_pretrained("FOLDER")',
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
    ]
    return [f"{fetch}:", "\n".join(["```python", *code, "```"])]


def _section(title: str, paragraphs: Sequence[str]) -> str:
    known = [text for text in paragraphs if text]
    return "\n\n".join([f"## {title}", *known]) if known else ""
