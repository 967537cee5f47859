"""Exported models: what onnxruntime or OpenVINO runs, from a folder with its graph, configuration and tokenizer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raydistill.batch import Batch, padded_rows
from raydistill.environment import missing_package
from raydistill.layout import Layout
from raydistill.models.predictions import LogitsModel, spread_spans
from raydistill.user_error import UserError, said

ONNX, OPENVINO = "model.onnx", "openvino_model.xml"
"""Names of the files with the graph."""
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
"""Inputs that a graph may have, (B, T) int64 each."""
Arrays = list[NDArray[Any]]
_PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino", "nncf")}
_WEIGHTS = {ONNX: ("*.onnx", "*.onnx.data"), OPENVINO: ("*.xml", "*.bin")}


def is_exported(folder: str | Path) -> bool:
    """Whether a folder holds an export."""
    return _graph_in(folder) is not None


def export_files(folder: str | Path) -> list[Path]:
    """The files of an export's graph and weights."""
    graph = _graph_in(folder)
    return sorted(file for pattern in _WEIGHTS[graph] for file in Path(folder).glob(pattern)) if graph else []


def size_mb(folder: str | Path) -> float:
    """10^6 bytes of an export's graph and weights."""
    return sum(file.stat().st_size for file in export_files(folder)) / 1e6


def missing_packages(to: str) -> str:
    """What to install before a model can be written in a format, empty where nothing is missing."""
    extras = ["export", *(["openvino"] if to.startswith("openvino") else [])]
    needed = [*_PACKAGES["onnx"], *(_PACKAGES["openvino"] if "openvino" in extras else ())]
    missing = [name for name in needed if find_spec(name) is None]
    return f"{', '.join(missing)}; pip install 'raydistill[{','.join(extras)}]'" if missing else ""


def _graph_in(folder: str | Path) -> str | None:
    return next((name for name in _WEIGHTS if (Path(folder) / name).is_file()), None)


class ExportedModel(LogitsModel):
    """The graph in a folder, of a model with a named head, ready to run on as many threads as torch has.

    ``order``: for each class that is asked for the output that stands for it, by default all in the graph's order.
    Raises UserError for a graph that cannot be opened, and where its runtime is not installed.
    """

    def __init__(self, folder: str | Path, *, head: str, order: Sequence[int] = ()) -> None:
        super().__init__()
        graph = _graph_in(folder)
        if graph is None:
            raise UserError(f"{str(folder)!r} has neither {ONNX} nor {OPENVINO}; export a model first")
        self._head = head
        self._order = list(order)
        self._run, self._inputs = (_onnx if graph == ONNX else _openvino)(Path(folder) / graph)
        unknown = [name for name in self._inputs if name not in INPUTS]
        if unknown:
            raise UserError(f"{graph} in {str(folder)!r} has an input {unknown[0]!r}; known are {', '.join(INPUTS)}")

    def logits(self, batch: Batch) -> Tensor:
        """Logits of rows (B, C), of labelled tokens (M, C) or (M, V), or of answers (2B, T)."""
        values = inputs_of(batch)
        outputs = [torch.from_numpy(one) for one in self._run({name: values[name] for name in self._inputs})]
        if self._head == "question_answering":
            layout = Layout.of(batch["attention_mask"], batch["token_index"])
            of_tokens = torch.stack([one.flatten() for one in outputs[:2]], dim=-1)
            return spread_spans(of_tokens.index_select(0, batch["token_index"]), layout)
        found = outputs[0]
        if self._head != "sequence_classification":
            found = found.flatten(0, 1).index_select(0, batch["label_index"])
        return found[:, self._order] if self._order else found


def inputs_of(batch: Batch) -> dict[str, NDArray[Any]]:
    """What a graph may read of the padded rows of a batch."""
    mask = batch["attention_mask"]
    types = padded_rows(batch).get("token_types")
    found = {
        "input_ids": batch["input_ids"],
        "attention_mask": mask.long(),
        "token_type_ids": torch.zeros_like(batch["input_ids"]) if types is None else types.view(mask.shape),
    }
    return {name: value.cpu().numpy() for name, value in found.items()}


Run = Callable[[Mapping[str, NDArray[Any]]], Arrays]


@contextmanager
def _installed(what: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(missing_package(error, what)) from None


def _onnx(path: Path) -> tuple[Run, list[str]]:
    with _installed("an ONNX model"):
        import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=onnxruntime.get_available_providers())
    except Exception as error:  # its errors have no class of their own
        raise UserError(f"{str(path)!r} cannot be opened ({said(error)}); export the model again") from None
    return lambda values: list(session.run(None, dict(values))), [one.name for one in session.get_inputs()]


def _openvino(path: Path) -> tuple[Run, list[str]]:
    with _installed("an OpenVINO model"):
        import openvino
    try:
        threads = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY"}
        model = openvino.Core().compile_model(str(path), "CPU", threads)
    except RuntimeError as error:
        raise UserError(f"{str(path)!r} cannot be opened ({said(error)}); export the model again") from None
    request = model.create_infer_request()

    def run(values: Mapping[str, NDArray[Any]]) -> Arrays:
        found = request.infer(dict(values))
        return [np.array(found[output]) for output in model.outputs]

    return run, [one.get_any_name() for one in model.inputs]
