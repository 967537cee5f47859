"""Toy models whose head classifies, made of any toy family, and batches with labels for them."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from raydistill.batch import PARTNER, Batch
from raydistill.models import layer_plan
from raydistill.models.classes import with_classes
from raydistill.models.load import model_class, with_dropout
from raydistill.testing.families import toy_gpt2, toy_roberta
from raydistill.testing.models import perturb, toy_batch, toy_bert, toy_distilbert

CLASSES = ("red", "green", "blue")


def toy_classifier(
    make: Callable[..., nn.Module],
    num_layers: int,
    *,
    head: str = "sequence_classification",
    labels: Sequence[str] = CLASSES,
    seed: int = 0,
    **options: Any,
) -> nn.Module:
    """A model of a toy family with another head; without labels it has one output, a score."""
    made: Any = make(num_layers, seed=seed, **options)
    # Heads of some families have dropout of their own.
    config = with_dropout(made.config, options.get("dropout", 0.0))
    if head != "question_answering":
        config = with_classes(config, labels)
    config.pad_token_id = 0
    torch.manual_seed(seed)
    model: nn.Module = model_class(head).from_config(config)
    return perturb(model, seed, made.dtype)


def toy_shared_classifier(num_layers: int, **options: Any) -> nn.Module:
    """A BERT of classes whose blocks run twice, the second time with query and key exchanged."""
    model: Any = toy_classifier(toy_bert, num_layers, **options)
    layer_plan.set_plan(model.config, layer_plan.make_plan("sps", num_layers))
    return model


CLASSIFIERS = {
    "bert_classes": partial(toy_classifier, toy_bert),
    "distilbert_classes": partial(toy_classifier, toy_distilbert),
    "roberta_classes": partial(toy_classifier, toy_roberta),
    "gpt2_classes": partial(toy_classifier, toy_gpt2),
    "bert_scores": partial(toy_classifier, toy_bert, labels=()),
    "bert_tokens": partial(toy_classifier, toy_bert, head="token_classification"),
    "bert_spans": partial(toy_classifier, toy_bert, head="question_answering"),
}
"""Makers of classifiers by a name that tells the kind of their labels."""


def toy_labelled_batch(kind: str, rows: Sequence[int] = range(6), **keys: Any) -> Batch:
    """The toy batch with labels of a kind: classes, scores, tokens or spans; rows keep theirs however they are cut."""
    batch = toy_batch(rows, **keys)
    masked = batch["label_index"]
    columns = {
        name: column
        for name, column in batch.columns.items()
        if name not in ("labels", "label_index") and not name.startswith(PARTNER)
    }
    batch = Batch(columns, seed=batch.seed, epoch=batch.epoch, step=batch.step)
    row_ids = batch["row_id"]
    if kind == "classes":
        return batch.with_columns(labels=row_ids % 3)
    if kind == "scores":
        return batch.with_columns(labels=2 + (row_ids % 4).float())
    if kind == "tokens":
        position = masked % batch["input_ids"].shape[1]
        return batch.with_columns(label_index=masked, labels=position % 3)
    return batch.with_columns(labels=torch.cat([1 + row_ids % 3, 4 + row_ids % 3]))
