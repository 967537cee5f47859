"""``raydistill predict``: a model's answers beside the rows of files."""

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from raydistill.commands.reporting import DebugOption, JsonOption, emit, reported
from raydistill.user_error import UserError

_EVERY_S = 5.0

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A folder, a stage's output, models:/NAME@ALIAS[:FORMAT], a bucket's folder, or a Hub name.",
    ),
]
StorageOption = Annotated[
    Path | None, typer.Option("--storage", metavar="FOLDER", help="Where models:/ is looked up: a job's storage.")
]
UriOption = Annotated[
    str | None, typer.Option("--tracking-uri", metavar="URI", help="Where models:/ is looked up: an MLflow store.")
]


def predict(
    model: ModelArgument,
    inputs: Annotated[list[str], typer.Argument(metavar="FILE...", help="Files or globs; - is standard input.")],
    output: Annotated[str, typer.Option("--output", "-o", metavar="OUT", help="A new file; - is standard output.")],
    columns: Annotated[
        list[str] | None,
        typer.Option("--column", metavar="ROLE=NAME", help="What the model reads, such as text, and its column."),
    ] = None,
    given: Annotated[
        str | None,
        typer.Option("--format", metavar="FORMAT", help="The files' format: text, csv, tsv, jsonl, parquet."),
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Rows per forward pass.")] = 32,
    max_length: Annotated[
        int | None, typer.Option("--max-length", min=3, help="The maximum number of tokens of a row.")
    ] = None,
    precision: Annotated[str, typer.Option("--precision", help="fp32, bf16 or fp16.")] = "fp32",
    workers: Annotated[
        int, typer.Option("--workers", min=1, help="Processes, on the cluster of RAY_ADDRESS or here.")
    ] = 1,
    prefix: Annotated[str, typer.Option("--prefix", help="Put before the names of new columns.")] = "",
    probabilities: Annotated[bool, typer.Option(help="Write the probability of each class.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT.")] = False,
    storage: StorageOption = None,
    uri: UriOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Write a copy of files with a model's answers beside each row.

    A classifier gives a prediction and probabilities, a regressor a prediction, a tagger one tag per word, a reader an
    answer, and a causal language model the likelihood of a text. Rows keep their order. An interrupted run goes on.

    \b
    Example:
      raydistill predict runs/demo/distill-2604a229 reviews.csv -o answers.csv --column text=review
      raydistill predict models:/sentiment-student@champion 'in/*.parquet' -o out.parquet --workers 4
      raydistill predict models:/sentiment-student@champion:onnx-int8 reviews.csv -o answers.csv
      cat lines.txt | raydistill predict student - --format text -o -
    """
    with reported(debug=debug, resume="the same command again goes on where it stopped"):
        from raydistill.prediction.files import STANDARD, format_of, parts_of
        from raydistill.prediction.models import model_folder

        target = None if output == STANDARD else Path(output)
        parts = parts_of(inputs, given)
        to = "jsonl" if target is None else format_of(output)
        if target is None:
            to = parts[0].format if parts[0].format in ("csv", "tsv") else "jsonl"
        if to == "text":
            raise UserError(f"-o is {output!r}; answers are written as .csv, .tsv, .jsonl or .parquet")
        if target is not None:
            _check_target(target, inputs, force=force)
        with tempfile.TemporaryDirectory() as temporary:
            folder = model_folder(model, storage, uri, Path(temporary))
            summary = _run(
                {
                    "folder": str(folder),
                    "batch_size": batch_size,
                    "max_length": max_length,
                    "precision": precision,
                    "columns": column_pairs(columns or []),
                    "prefix": prefix,
                    "probabilities": probabilities,
                },
                parts,
                target or Path(temporary) / "answers",
                to,
                workers,
            )
            if target is None:
                with (Path(temporary) / "answers").open("rb") as answers:
                    shutil.copyfileobj(answers, sys.stdout.buffer)
                sys.stdout.flush()
        before = f", {summary.resumed_rows:,} of them by an earlier run" if summary.resumed_rows else ""
        line = (
            f"wrote {summary.rows:,} rows to {output}{before}, in {summary.seconds:.1f} s "
            f"({summary.rows_per_second:,.0f} rows a second)"
        )
        if target is None:
            typer.echo(line, err=True)
            return
        data = {
            "output": output,
            "rows": summary.rows,
            "resumed_rows": summary.resumed_rows,
            "seconds": summary.seconds,
        }
        emit({**data, "rows_per_second": summary.rows_per_second}, json_text=as_json, lines=[line])


def _run(options: dict[str, Any], parts: Any, target: Path, to: str, workers: int) -> Any:
    from raydistill.prediction.run import Model, predict_files

    model = Model(**options)
    if workers == 1:
        return predict_files(model, parts, target, to, told=_Teller())
    from raydistill.cluster.joining import connection
    from raydistill.config.sections import ScalingConfig

    with connection([ScalingConfig(num_workers=workers)]):
        return predict_files(model, parts, target, to, workers=workers, told=_Teller())


class _Teller:
    """Says now and then how far it is."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, rows: int, seconds: float) -> None:
        if time.monotonic() - self._last >= _EVERY_S:
            self._last = time.monotonic()
            typer.echo(f"  {rows:,} rows, {rows / max(seconds, 1e-9):,.0f} a second", err=True)


def column_pairs(columns: list[str]) -> tuple[tuple[str, str], ...]:
    """What a model reads and the input's column that has it, of options ROLE=NAME."""
    pairs = [text.partition("=") for text in columns]
    wrong = next(
        (text for text, (role, sign, name) in zip(columns, pairs, strict=True) if not (role and sign and name)), None
    )
    if wrong is not None:
        raise UserError(
            f"--column is {wrong!r}; write what the model reads and the input's column, such as text=review"
        )
    return tuple((role, name) for role, _, name in pairs)


def _check_target(target: Path, inputs: list[str], *, force: bool) -> None:
    if target.exists() and not force:
        raise UserError(f"{target} exists; give another file, or --force to replace it")
    if not target.parent.is_dir():
        raise UserError(f"{target} is in a folder that does not exist; make {target.parent} first")
    if any(Path(text).resolve() == target.resolve() for text in inputs):
        raise UserError(f"{target} is one of the files that are read; give another")
