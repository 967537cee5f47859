"""``raydistill export``: a model for another runtime."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from raydistill.commands.predict import ModelArgument, StorageOption, UriOption, column_pairs
from raydistill.commands.reporting import DebugOption, JsonOption, emit, reported
from raydistill.user_error import UserError


def export(
    model: ModelArgument,
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The folder to write; it must not exist.")],
    to: Annotated[
        str, typer.Option("--to", metavar="FORMAT", help="onnx, onnx-int8, onnx-int8-static or openvino-int8.")
    ] = "onnx-int8",
    calibrate: Annotated[
        list[str] | None, typer.Option("--calibrate", metavar="FILE", help="Files with calibration rows.")
    ] = None,
    rows: Annotated[int, typer.Option("--rows", min=1, help="How many of their rows are read.")] = 256,
    columns: Annotated[
        list[str] | None,
        typer.Option("--column", metavar="ROLE=NAME", help="What the model reads, such as text, and its column."),
    ] = None,
    storage: StorageOption = None,
    uri: UriOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Write a model for another runtime: ONNX in float32 or int8, or OpenVINO in int8.

    The logits of the float32 graph are compared with the model's own first. The stage export of a job does the same,
    with a gate and with rows of a corpus, and evaluate compares both models.

    \b
    Example:
      raydistill export models:/sentiment-student@champion student-int8
      raydistill export runs/demo/distill-2604a229 student-static --to onnx-int8-static --calibrate texts.csv
    """
    with reported(debug=debug):
        from raydistill.atomic import atomic_folder
        from raydistill.deploy.exported import size_mb
        from raydistill.deploy.exporting import check_format, export_model
        from raydistill.prediction.calibration import calibration_batches
        from raydistill.prediction.models import model_folder

        check_format(to, has_rows=bool(calibrate))
        if new.exists():
            raise UserError(f"{new} exists; give another folder or remove it")
        if not new.parent.is_dir():
            raise UserError(f"{new} is in a folder that does not exist; make {new.parent} first")
        with tempfile.TemporaryDirectory() as temporary:
            folder = model_folder(model, storage, uri, Path(temporary))
            batches = calibration_batches(folder, calibrate or [], column_pairs(columns or []), most_rows=rows)
            with atomic_folder(new) as made:
                export_model(folder, made, to, rows=batches)
        size = size_mb(new)
        lines = [f"wrote {to} of {size:.1f} MB to {new}; next: raydistill predict {new} FILE -o OUT"]
        emit({"folder": str(new), "format": to, "size_mb": size}, json_text=as_json, lines=lines)
