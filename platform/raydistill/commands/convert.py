"""``raydistill convert``: a checkpoint whose weights are pickled, or a GGUF file, becomes one that jobs read."""

from pathlib import Path
from typing import Annotated

import typer

from raydistill.commands.reporting import DebugOption, JsonOption, emit, reported


def convert(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A checkpoint with a pytorch_model.bin, or a .gguf file.")
    ],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The folder to write; it must not exist.")],
    labels: Annotated[
        str | None, typer.Option("--labels", metavar="A,B,...", help="Names of a classifier's outputs, in their order.")
    ] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Write a checkpoint with pickled weights, or a GGUF file, anew as safetensors, which jobs read.

    Nothing in a pickle is run, and a pickle that holds more than tensors is refused. Classifiers that StarK's authors
    published become those of transformers. --labels names the classes if config.json says LABEL_0 and so on. The
    weights of a GGUF file become float32, as exact as their quantization left them.

    \b
    Example:
      raydistill convert bert-base-rte rte-teacher --labels not_entailment,entailment
      raydistill convert SmolLM2-135M-Instruct.Q4_1.gguf smollm2
    """
    with reported(debug=debug):
        from raydistill.models.conversion import to_safetensors
        from raydistill.models.gguf import gguf_at, gguf_to_safetensors

        names = None if labels is None else [name.strip() for name in labels.split(",")]
        packed = gguf_at(folder)
        if packed is None:
            count = to_safetensors(folder, new, labels=names)
        else:
            count = gguf_to_safetensors(packed, new, labels=names)
        lines = [f"wrote {count} tensors to {new}; use it in a job as checkpoint: {new}"]
        emit({"folder": str(new), "tensors": count, "labels": names}, json_text=as_json, lines=lines)
