"""The text of a job that makes a smaller student from a file of one's own and a teacher."""

import json
import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from raydistill.config.errors import error_lines
from raydistill.config.named import SourceSpec
from raydistill.config.yaml_text import dump, parse_mapping
from raydistill.data.examples import examples_of
from raydistill.job.load import load_job
from raydistill.models.blocks import family_of
from raydistill.models.load import load_config
from raydistill.user_error import UserError

_READ_EXAMPLES = 20_000
"""Examples of each piece of the file in which classes are looked for."""
_MOST_CLASSES = 200
_PARQUET = (".parquet", ".pq")
_PLAIN = re.compile(r"[A-Za-z_./][\w./-]*")
"""Words that need no quotes inside brackets either, unless YAML reads them as something else."""


def job_text(name: str, *, data: str, text: str, label: str, teacher: str, layers: str, fine_tune: bool) -> str:
    """A commented job of at most 40 lines that loads.

    ``label`` is empty for a language model. ``layers``: a number of blocks, or those of the teacher, as in 0,4,8.
    With ``fine_tune`` the teacher learns the labels first. Raises UserError for a file, a column or a checkpoint that
    does not fit.
    """
    written = _written(name, _source(data, text, label), teacher, _layers(layers, teacher), fine_tune=fine_tune)
    load_job(parse_mapping(written, source=f"{name}.yaml"))
    return written


def _written(name: str, source: dict[str, Any], teacher: str, layers: Sequence[int], *, fine_tune: bool) -> str:
    if "label" in source:
        classes = _classes(source)
        task = {"name": "classification", **({} if classes is None else {"labels": classes}), "max_length": 128}
    else:
        task, fine_tune = {"name": _task_of_language(teacher), "max_length": 128}, False
    base, taught = _flow(teacher), "teacher" if fine_tune else _flow(teacher)
    of_teacher = f"""
  teacher:
    kind: train
    corpus: corpus
    task: {task["name"]}
    method: finetune               # learns the labels, without a teacher of its own
    student: {{init: checkpoint, checkpoint: {{checkpoint: {base}, head: new}}}}
    training: {{num_epochs: 3}}
"""
    return f"""\
# Makes a student of {len(layers)} blocks. What a key means: raydistill explain student.method.temperature {name}.yaml
name: {name}
storage: runs                      # all outputs; a second run skips what is finished
seed: 1

stages:
  corpus:
    kind: binarize
    source: {_flow(source)}
    encoding: {_flow(task)}
    tokenizer: {base}
    validation: 0.1                # this share of the rows is held out
{of_teacher if fine_tune else ""}
  student:
    kind: train
    corpus: corpus
    task: {task["name"]}
    method: {{name: kd, temperature: 2, alpha: 0.5}}
    teachers: [{taught}]
    student: {{init: layers, layers: {_flow([*layers])}}}  # it starts with these blocks of the teacher
    training: {{num_epochs: 3}}

  evaluate:
    kind: evaluate
    corpus: corpus
    task: {task["name"]}
    models: {{teacher: {taught}, student: student}}

  # raydistill models list shows it, with its figures
  register: {{kind: register, model: student, name: {name}, evaluation: evaluate}}
"""


def _source(data: str, text: str, label: str) -> dict[str, Any]:
    """The source's section; raises UserError for a file or a column that is not there."""
    is_table = data.lower().endswith(_PARQUET)
    section = {"name": "parquet" if is_table else "delimited", "path": data, "text": text}
    return {**section, "label": label} if label else section


def _classes(source: dict[str, Any]) -> list[str] | None:
    """The classes in a source's first examples, None where its labels are scores."""
    try:
        spec = SourceSpec.parse(source)
    except ValidationError as error:
        raise UserError(error_lines(error, source=source["path"])) from None
    labels = [
        example["label"]
        for item in spec.items()
        for example in islice(examples_of(spec, item), _READ_EXAMPLES)
        if "label" in example
    ]
    found = sorted({*map(str, labels)})
    if len(found) > _MOST_CLASSES and all(_is_number(label) for label in found):
        return None
    if not 2 <= len(found) <= _MOST_CLASSES:
        raise UserError(
            f"label is {source['label']!r}, a column with {len(found)} different labels; a column of classes has 2 to "
            f"{_MOST_CLASSES}"
        )
    return found


def _is_number(label: str) -> bool:
    try:
        float(label)
    except ValueError:
        return False
    return True


def _layers(given: str, teacher: str) -> list[int]:
    """The teacher's blocks that a student starts with: those that are listed, or so many at even distances."""
    try:
        numbers = [int(one) for one in given.split(",")]
    except ValueError:
        raise UserError(f"layers is {given!r}; give a number of blocks, or blocks as in 0,4,8") from None
    if len(numbers) > 1 or "," in given:
        return numbers
    if not Path(teacher).is_dir():
        raise UserError(
            f"layers is {given}, but {teacher!r} is not a folder whose blocks can be counted; list them: 0,4,8"
        )
    depth, wanted = load_config(teacher).num_hidden_layers, numbers[0]
    if not 1 <= wanted <= depth:
        raise UserError(f"layers is {wanted}; the teacher has {depth} blocks")
    return [number * depth // wanted for number in range(wanted)]


def _task_of_language(teacher: str) -> str:
    if not Path(teacher).is_dir():
        raise UserError(
            "--label is missing; without labels the teacher has to be a folder, which says what it predicts"
        )
    return {"masked_lm": "mlm", "causal_lm": "clm"}[family_of(load_config(teacher)).HEAD]


def _flow(value: Any) -> str:
    """A value on one line of YAML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str) and _PLAIN.fullmatch(value) and dump({"is": value}) == f"is: {value}\n":
        return value
    return json.dumps(value, ensure_ascii=False)
