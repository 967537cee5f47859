"""``raydistill convert``: weights that are pickled, or a GGUF file, become a checkpoint that jobs read."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raydistill.commands.reporting import DebugOption, JsonOption, emit, reported

if TYPE_CHECKING:
    from raydistill.models.published_files import FromFile


def convert(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="A checkpoint with a pytorch_model.bin, or a .pth, .pkl or .gguf file."),
    ],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The folder to write; it must not exist.")],
    labels: Annotated[
        str | None, typer.Option("--labels", metavar="A,B,...", help="Names of a classifier's outputs, in order.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="Configuration of a .pth or .pkl file, or a folder that has it."),
    ] = None,
    layer_plan: Annotated[
        str | None,
        typer.Option("--layer-plan", metavar="NAME", help="Plan of a .pkl file's blocks that run twice, such as sps."),
    ] = None,
    sparsity: Annotated[
        str | None,
        typer.Option("--sparsity", metavar="PERCENT", help="Level of a StarK checkpoint's sparsity_map to cut it to."),
    ] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Rewrite a checkpoint with pickled weights, or a GGUF file, as safetensors, which jobs read.

    Nothing in a pickle is run, and a pickle that holds more than tensors is refused. Classifiers that StarK's authors
    published become those of transformers, and those that their code has cut become pruned models. --labels names the
    classes if config.json says LABEL_0 and so on. With an encoder's file the classifier's file is read too: it lies
    beside it, with cls in place of encoder in its name. The weights of a GGUF file become float32, as exact as their
    quantization left them.

    \b
    Example:
      raydistill convert bert-base-rte rte-teacher --labels not_entailment,entailment
      raydistill convert outputs/rewind/ckpt_30 rte-student --labels not_entailment,entailment
      raydistill convert run-1/BERT.encoder_acc.pkl student --config bert-base-uncased --layer-plan sps
      raydistill convert tf_bert-base-uncased.pth student --config distilbert-base-uncased.json
      raydistill convert SmolLM2-135M-Instruct.Q4_1.gguf smollm2
    """
    with reported(debug=debug):
        names = None if labels is None else [name.strip() for name in labels.split(",")]
        options = {"--config": config, "--layer-plan": layer_plan, "--sparsity": sparsity}
        given = {name: value for name, value in options.items() if value is not None}
        made = _converted(folder, new, names, given)
        lines = [f"wrote {made.num_tensors} tensors to {new}; use it in a job as checkpoint: {new}"]
        if made.lacks:
            lines.append(f"its head lacks {', '.join(made.lacks)}; write head: new beside it, which starts them fresh")
        data = {"folder": str(new), "tensors": made.num_tensors, "labels": names}
        emit(data | ({"lacks": list(made.lacks)} if made.lacks else {}), json_text=as_json, lines=lines)


def _converted(place: Path, new: Path, labels: list[str] | None, given: dict[str, "Path | str"]) -> "FromFile":
    """What a path becomes; raises ValueError for an option that is not of its kind."""
    from raydistill.models.conversion import to_safetensors
    from raydistill.models.gguf import gguf_at, gguf_to_safetensors
    from raydistill.models.published_files import FromFile, file_to_safetensors, weights_file_at

    packed, file = gguf_at(place), weights_file_at(place)
    if packed is not None:
        _refuse(given, (), "a GGUF file")
        return FromFile(gguf_to_safetensors(packed, new, labels=labels), ())
    if file is not None:
        _refuse(given, ("--config", "--layer-plan"), "a file of weights")
        config, plan = given.get("--config"), given.get("--layer-plan")
        return file_to_safetensors(
            file,
            new,
            config=None if config is None else Path(config),
            labels=labels,
            layer_plan=None if plan is None else str(plan),
        )
    _refuse(given, ("--sparsity",), "a checkpoint's folder")
    sparsity = given.get("--sparsity")
    count = to_safetensors(place, new, labels=labels, sparsity=None if sparsity is None else str(sparsity))
    return FromFile(count, ())


def _refuse(given: dict[str, "Path | str"], known: tuple[str, ...], what: str) -> None:
    from raydistill.user_error import UserError

    others = [name for name in given if name not in known]
    if others:
        raise UserError(f"{others[0]} is not an option for {what}; leave it out")
