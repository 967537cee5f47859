"""A model that onnxruntime runs, from a folder that an export wrote: its graph, configuration and tokenizer."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raydistill.batch import Batch, padded_rows
from raydistill.layout import Layout
from raydistill.models.predictions import LogitsModel, spread_spans
from raydistill.options import named_if_missing
from raydistill.user_error import UserError, said

GRAPH = "model.onnx"
"""Name of the file with the graph."""
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
"""Inputs that a graph may have, (B, T) int64 each."""


def is_onnx(folder: str | Path) -> bool:
    """Whether a folder holds an export."""
    return (Path(folder) / GRAPH).is_file()


class OnnxModel(LogitsModel):
    """The graph in a folder, of a named head, ready to run; raises UserError for one that cannot be opened."""

    def __init__(self, folder: str | Path, *, head: str, num_threads: int | None = None) -> None:
        super().__init__()
        with named_if_missing("ONNX models"):
            import onnxruntime
        self._head = head
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads or torch.get_num_threads()
        options.log_severity_level = 3
        path = Path(folder) / GRAPH
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(path), options, providers=onnxruntime.get_available_providers()
            )
        except Exception as error:  # onnxruntime has no base class of its errors
            raise UserError(f"{str(path)!r} cannot be opened ({said(error)}); export the model again") from None
        self._inputs = [one.name for one in self._session.get_inputs()]
        unknown = [name for name in self._inputs if name not in INPUTS]
        if unknown:
            raise UserError(f"{str(path)!r} has an input {unknown[0]!r}; raydistill reads {', '.join(INPUTS)}")

    def run(self, batch: Batch) -> list[np.ndarray[Any, Any]]:
        """The graph's outputs for the padded rows of a batch."""
        mask = batch["attention_mask"]
        types = padded_rows(batch).get("token_types")
        values = {
            "input_ids": batch["input_ids"],
            "attention_mask": mask.long(),
            "token_type_ids": torch.zeros_like(batch["input_ids"]) if types is None else types.view(mask.shape),
        }
        found: list[np.ndarray[Any, Any]] = self._session.run(
            None, {name: values[name].cpu().numpy() for name in self._inputs}
        )
        return found

    def logits(self, batch: Batch) -> Tensor:
        """Logits of rows (B, C), of labelled tokens (M, C), or of answers (2B, T)."""
        outputs = [torch.from_numpy(one) for one in self.run(batch)]
        if self._head == "token_classification":
            return outputs[0].flatten(0, 1).index_select(0, batch["label_index"])
        if self._head == "question_answering":
            layout = Layout.of(batch["attention_mask"], batch["token_index"])
            of_tokens = torch.stack([one.flatten() for one in outputs[:2]], dim=-1).index_select(
                0, batch["token_index"]
            )
            return spread_spans(of_tokens, layout)
        return outputs[0]
