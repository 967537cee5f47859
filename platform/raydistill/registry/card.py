"""A student's model card in Markdown, from its tags and its configuration; what is not known is left out."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from raydistill import names
from raydistill.registry import student
from raydistill.registry.student import STUDENT, FiguresRow

_HEADS = {
    "ForSequenceClassification": ("AutoModelForSequenceClassification", "text-classification", "a text classifier"),
    "ForTokenClassification": ("AutoModelForTokenClassification", "token-classification", "a token classifier"),
    "ForQuestionAnswering": ("AutoModelForQuestionAnswering", "question-answering", "a question-answering model"),
    "ForMaskedLM": ("AutoModelForMaskedLM", "fill-mask", "a masked language model"),
    "ForCausalLM": ("AutoModelForCausalLM", "text-generation", "a causal language model"),
    "LMHeadModel": ("AutoModelForCausalLM", "text-generation", "a causal language model"),
}
"""By the end of an architecture's name: the class that loads it, the hub's name of the task, and what it is."""
_SIZES = (("num_hidden_layers", "blocks"), ("hidden_size", "wide"), ("vocab_size", "tokens in its vocabulary"))
# Names that GPT-2 and DistilBERT have for the same.
_OTHER_NAMES = {"num_hidden_layers": ("n_layers", "n_layer"), "hidden_size": ("dim", "n_embd")}
_MOST_CLASSES = 50
_COSTS = {
    "size_mb": "size on disk (MB)",
    "latency_ms": "latency of one row (ms)",
    "latency_spread_ms": "spread of that latency (ms)",
    "batch_latency_ms": "latency per row in full batches (ms)",
    "batch_latency_spread_ms": "spread of that latency in batches (ms)",
}
"""Figures that are no metrics of quality, with their units."""


def model_card(name: str, tags: Mapping[str, str], folder: Path, *, rows: Sequence[FiguresRow] = ()) -> str:
    """The card of the checkpoint in ``folder``, registered as ``name`` with ``tags``.

    ``rows``: figures for tags that have none.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    rows = student.rows_of(tags) or rows
    architecture = str((config.get("architectures") or [config.get("model_type", "unknown")])[0])
    auto, task, kind = next(
        (head for end, head in _HEADS.items() if architecture.endswith(end)), (None, None, "a model")
    )
    note = names.markdown(tags.get(student.NOTE_TAG, ""))
    sections = [
        f"---\n{_metadata(name, tags, task, rows).to_yaml()}\n---",
        f"# {names.markdown(name)}",
        _description(config, architecture, kind),
        _section("How it was made", _origin(tags)),
        _section("Validation figures", [figures_table(rows), note] if rows else []),
        _section("Size", _size_lines(tags)),
        _section("Exports", _exports(name, rows)),
        _section("License", [names.markdown(tags.get(student.LICENSE_TAG, ""))]),
        _section("Use", _usage(auto, name)),
    ]
    return "\n\n".join(part for part in sections if part) + "\n"


def figures_table(rows: Sequence[FiguresRow]) -> str:
    """A Markdown table: a line per figure, a column per model."""
    heads = [f"{row.title}, mean of {row.runs} runs" if row.runs > 1 else row.title for row in rows]
    cells = [[_COSTS.get(name, name), *values] for name, *values in student.figure_cells(rows)]
    lines = [["", *heads], ["---", *["---:"] * len(rows)], *cells]
    return "\n".join(f"| {' | '.join(map(names.markdown, line))} |" for line in lines)


def _metadata(name: str, tags: Mapping[str, str], task: str | None, rows: Sequence[FiguresRow]) -> ModelCardData:
    """What a model hub reads: the identifier of a license goes in as it is, a license in other words by its name."""
    license = tags.get(student.LICENSE_TAG, "")
    is_identifier = re.fullmatch(r"[A-Za-z0-9.-]+", license) is not None
    figures = next((row.figures for row in rows if row.role == STUDENT), {})
    results = [
        EvalResult(task or "other", "validation", "validation rows", metric, value)
        for metric, value in figures.items()
        if metric not in _COSTS
    ]
    return ModelCardData(
        library_name="transformers",
        pipeline_tag=task,
        tags=["distillation"],
        license=license.lower() if is_identifier else "other" if license else None,
        license_name=None if is_identifier else license or None,
        model_name=name,
        eval_results=results or None,
    )


def _description(config: Mapping[str, Any], architecture: str, kind: str) -> str:
    sizes = [(_value(config, name), unit) for name, unit in _SIZES]
    known = [f"{value:,} {unit}" for value, unit in sizes if isinstance(value, int)]
    text = f"{kind.capitalize()} ({names.code(architecture)})" + (f": {', '.join(known)}." if known else ".")
    labels = [str(label) for label in (config.get("id2label") or {}).values()]
    if "Classification" in architecture and 0 < len(labels) <= _MOST_CLASSES:
        text += f" Its classes: {', '.join(map(names.markdown, labels))}."
    return text


def _value(config: Mapping[str, Any], name: str) -> Any:
    return next((config[key] for key in (name, *_OTHER_NAMES.get(name, ())) if key in config), None)


def _origin(tags: Mapping[str, str]) -> list[str]:
    options = ", ".join(f"{key}: {json.dumps(value)}" for key, value in student.method_options(tags).items())
    known = [
        ("Method", "method", f" ({options})" if options else ""),
        ("Teachers" if ", " in tags.get("teacher", "") else "Teacher", "teacher", _hashed(tags, "teacher_hash")),
        ("Corpus", "corpus", _hashed(tags, "corpus_hash")),
        ("Run", "run", ""),
        ("Job", "job", ""),
        ("Campaign", "campaign", ""),
    ]
    lines = [names.markdown(f"* {title}: {tags[key]}{more}") for title, key, more in known if tags.get(key)]
    if "corpus" not in tags and tags.get("corpus_hash"):
        lines.append(names.markdown(f"* Corpus: content {tags['corpus_hash']}"))
    if tags.get("layer_plan"):
        lines.append(
            f"* Blocks: it was trained to run the blocks {tags['layer_plan']} of shared weights (* means that query "
            "and key are exchanged). Here every block is written out, with equal logits, so it is larger than it was "
            "in training."
        )
    if tags.get("kept_units"):
        small = [tags.get(key, "") for key in ("pruned_parameters", "pruned_bytes")]
        sizes = f" of {int(small[0]):,} parameters and {int(small[1]):,} bytes" if all(small) else ""
        lines.append(
            f"* Heads and neurons: it was pruned to {tags['kept_units']}, block by block. Here it is in its original "
            "shape with zeros in place of what was removed, with equal logits, so it is not smaller. The small "
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


def _exports(name: str, rows: Sequence[FiguresRow]) -> list[str]:
    """How the exports that are kept with a student are had; their figures stand beside its own."""
    formats = [row.name for row in rows if row.role == student.EXPORT]
    if not formats:
        return []
    reference = f"{name}:{formats[0]}"
    pull = names.code(f"raydistill models pull {shlex.quote(reference)} FOLDER")
    run = names.code(f"raydistill predict {shlex.quote(f'models:/{name}@ALIAS:{formats[0]}')} FILE -o OUT")
    kept = ", ".join(names.code(one) for one in formats)
    return [f"Kept with it: {kept}. {pull} copies one out, {run} answers with it; ALIAS is one that the version has."]


def _usage(auto: str | None, name: str) -> list[str]:
    command = names.code(f"raydistill models pull {shlex.quote(name)} FOLDER")
    fetch = f"{command} makes a folder that transformers can read by itself"
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
