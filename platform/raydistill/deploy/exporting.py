"""Checkpoints to the graphs of other runtimes: ONNX in float32 or int8, OpenVINO in int8."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from raydistill.batch import Batch, collate
from raydistill.deploy.exported import INPUTS, ONNX, OPENVINO, ExportedModel, inputs_of, missing_packages
from raydistill.discovery import unknown_choice
from raydistill.models.load import head_in, load_model, load_tokenizer
from raydistill.models.predictions import at_labels, predict
from raydistill.models.restored import restored
from raydistill.models.unrolled import unrolled
from raydistill.tasks._tokenizing import filler_id, role_ids
from raydistill.user_error import UserError, said

FORMATS = {
    "onnx": "ONNX in float32",
    "onnx-int8": "ONNX with int8 weights, activations quantized as they come",
    "onnx-int8-static": "ONNX with int8 weights and activations, whose ranges calibration rows tell",
    "openvino-int8": "OpenVINO with int8 weights and activations, whose ranges calibration rows tell",
}
"""What a model is exported to."""
CALIBRATED = ("onnx-int8-static", "openvino-int8")
"""Formats that need calibration rows."""
_REDUCED_RANGE = True
"""Whether ONNX weights take 7 of their 8 bits: CPUs without VNNI add two products in 16 bits, which would overflow."""
TOLERANCE = 1e-4
"""How far logits of a float32 export may be from the model's own, relative to the largest of them above 1."""
_VOCABULARY = ("masked_lm", "causal_lm")
_OUTPUTS = {"question_answering": ("start_logits", "end_logits")}


def check_format(name: str, *, has_rows: bool) -> None:
    """Raise UserError for a format that there is not, or for one that needs calibration rows without any."""
    if name not in FORMATS:
        raise UserError(unknown_choice("format", name, list(FORMATS)))
    if name in CALIBRATED and not has_rows:
        raise UserError(f"format is {name!r}, which needs calibration rows; name a corpus, or take onnx-int8")
    missing = missing_packages(name)
    if missing:
        raise UserError(f"format is {name!r}, which needs {missing}")


def export_model(folder: str | Path, target: Path, to: str, *, rows: Sequence[Batch] = ()) -> None:
    """Write the model in ``folder`` to ``target``, an empty folder or none, with its configuration and tokenizer.

    ``rows``: batches for calibration, as ``predict`` reads them. A model with a layer plan, or a pruned one, is
    exported as the plain model of equal logits. The float32 graph's logits are compared with the model's own before
    anything else is made of it. Raises UserError where they differ, where the graph cannot be made, and for a package
    that is missing.
    """
    check_format(to, has_rows=bool(rows))
    head = head_in(folder)
    model: Any = unrolled(restored(load_model(folder, head=head))).eval()
    tokenizer = load_tokenizer(folder)
    target.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(target)
    tokenizer.save_pretrained(target)
    plain = target / ONNX
    _write_graph(model, head, tokenizer, plain)
    _check_equal(model, head, tokenizer, target)
    if to == "onnx":
        return
    calibration = [inputs_of(batch) for batch in rows]
    quantized = target / "quantized.onnx"
    if to == "openvino-int8":
        _openvino_int8(plain, target / OPENVINO, calibration)
        plain.unlink()
        return
    if to == "onnx-int8":
        _dynamic_int8(plain, quantized)
    else:
        _static_int8(plain, quantized, calibration)
    quantized.replace(plain)


class _Graph(nn.Module):
    """The part of a model that is exported: ids in, logits out."""

    def __init__(self, model: nn.Module, outputs: Sequence[str]) -> None:
        super().__init__()
        self.model, self._outputs = model, tuple(outputs)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Any:
        """The outputs, (B, C), (B, T, C) or two of (B, T)."""
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        found = self.model(input_ids=input_ids, attention_mask=attention_mask, return_dict=True, **types)
        return tuple(getattr(found, name) for name in self._outputs)


def _write_graph(model: nn.Module, head: str, tokenizer: Any, path: Path) -> None:
    """The float32 graph for rows of any number and length."""
    names = list(INPUTS if _reads_types(model) else INPUTS[:2])
    outputs = list(_OUTPUTS.get(head, ("logits",)))
    values = inputs_of(_sample(model, tokenizer, (9, 6, 4)))
    sizes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with _quiet():
        try:
            torch.onnx.export(
                _Graph(model, outputs).eval(),
                tuple(torch.from_numpy(values[name]) for name in names),
                str(path),
                dynamo=True,
                input_names=names,
                output_names=outputs,
                dynamic_shapes=tuple(sizes for _ in names),
                external_data=False,
                verbose=False,
            )
        except Exception as error:  # torch raises many kinds
            kind = getattr(model.config, "model_type", "model")
            raise UserError(f"a {kind} with a {head} head cannot be exported to ONNX ({said(error)})") from None


def _reads_types(model: nn.Module) -> bool:
    """Whether a model distinguishes the two texts of a pair."""
    return int(getattr(model.config, "type_vocab_size", 0) or 0) > 1


def _sample(model: Any, tokenizer: Any, lengths: Sequence[int]) -> Batch:
    """Rows of ids of the tokenizer, the same at each call; every token is labelled."""
    draws = torch.Generator().manual_seed(0)
    # RoBERTa counts positions without ids of padding, which no text has.
    special = {*tokenizer.all_special_ids, model.config.pad_token_id}
    words = torch.tensor(
        [number for number in range(min(len(tokenizer), model.config.vocab_size)) if number not in special]
    )
    rows = [words[torch.randint(len(words), (length,), generator=draws)].numpy() for length in lengths]
    batch = collate(rows, range(len(rows)), pad_id=filler_id(role_ids(tokenizer)))
    return batch.with_columns(label_index=batch["token_index"])


@torch.no_grad()
def _check_equal(model: Any, head: str, tokenizer: Any, folder: Path) -> None:
    exported = ExportedModel(folder, head=head)
    for lengths in ((9, 6, 4), (17, 3), (5,)):
        batch = _sample(model, tokenizer, lengths)
        if head in _VOCABULARY:
            states, (weight, bias) = at_labels(model, batch)
            expected = states if weight is None else nn.functional.linear(states, weight, bias)
        else:
            expected = predict(model, batch, head=head).logits
        found = exported.logits(batch)
        # Padding of answers is far below all logits, in either.
        is_real = expected > -1e29
        worst = float((found - expected)[is_real].abs().max() / expected[is_real].abs().max().clamp(min=1.0))
        if not worst <= TOLERANCE:
            raise UserError(
                f"the exported graph's logits differ from the model's by {worst:.2g}, more than {TOLERANCE:g}; this "
                f"{model.config.model_type} cannot be exported"
            )


def _dynamic_int8(plain: Path, quantized: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        quantize_dynamic(
            _prepared(plain), quantized, weight_type=QuantType.QInt8, per_channel=True, reduce_range=_REDUCED_RANGE
        )


def _static_int8(plain: Path, quantized: Path, calibration: Sequence[dict[str, NDArray[Any]]]) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    prepared = _prepared(plain)
    names = _input_names(prepared)

    class Reader(CalibrationDataReader):
        """Batches one after the other."""

        def __init__(self) -> None:
            self._left = iter(calibration)

        def get_next(self) -> Any:
            """The next batch, None after the last."""
            values = next(self._left, None)
            return None if values is None else {name: values[name] for name in names}

    with _quiet():
        quantize_static(
            prepared,
            quantized,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul", "Gemm", "Gather"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=_REDUCED_RANGE,
        )


def _prepared(plain: Path) -> Any:
    """The graph without what was told of the shapes between its operations, which quantization would contradict."""
    import onnx

    graph = onnx.load(str(plain))
    del graph.graph.value_info[:]
    return graph


def _input_names(graph: Any) -> list[str]:
    return [one.name for one in graph.graph.input]


def _openvino_int8(plain: Path, target: Path, calibration: Sequence[dict[str, NDArray[Any]]]) -> None:
    import nncf
    import openvino

    with _quiet():
        graph = openvino.convert_model(str(plain))
        names = [one.get_any_name() for one in graph.inputs]
        values = [{name: each[name] for name in names} for each in calibration]
        made = nncf.quantize(
            graph, nncf.Dataset(values), model_type=nncf.ModelType.TRANSFORMER, subset_size=max(1, len(values))
        )
        openvino.save_model(made, str(target), compress_to_fp16=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the notes of libraries on packages that are not there and on how far they are."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "nncf", "root")]
    before = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in zip(loggers, before, strict=True):
            one.setLevel(level)
