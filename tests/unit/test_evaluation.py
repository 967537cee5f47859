import math

import numpy as np
import pytest
import torch

from raydistill.batch import Batch
from raydistill.data.stream import FeedSpec, held_out_batches
from raydistill.evaluation import evaluate_models, figures
from raydistill.tasks._base import Encoding
from raydistill.tasks.mlm import Config, Task
from toy_corpus import SPECIAL_IDS, VOCABULARY, random_rows, write_corpus
from toy_models import pad_further, toy_batch, toy_bert, toy_distilbert

TASK = {"name": "mlm"}


def toy_task() -> Task:
    """Masked language modelling; its metrics do not depend on the encoding."""
    counts = np.ones(VOCABULARY, dtype=np.int64)
    return Task(Config(), Encoding(VOCABULARY, SPECIAL_IDS, tuple(SPECIAL_IDS.values()), 40, counts))


def reference(model, batches: list[Batch]) -> dict[str, float]:
    """The same figures from the model's own forward pass with labels, row by row of the full logits."""
    loss, correct, tokens = 0.0, 0, 0
    for batch in batches:
        labels = torch.full(batch["input_ids"].shape, -100).flatten()
        labels[batch["label_index"]] = batch["labels"]
        labels = labels.view(batch["input_ids"].shape)
        with torch.no_grad():
            out = model.eval()(batch["input_ids"], attention_mask=batch["attention_mask"].long(), labels=labels)
        masked = labels != -100
        loss += out.loss.item() * int(masked.sum())
        correct += int((out.logits.argmax(-1)[masked] == labels[masked]).sum())
        tokens += int(masked.sum())
    return {"loss": loss / tokens, "accuracy": correct / tokens, "tokens": tokens}


@pytest.mark.parametrize("toy_model", [toy_bert, toy_distilbert])
def test_figures_equal_those_of_the_models_own_loss(toy_model):
    model = toy_model(2, dropout=0.5, dtype=torch.float32)
    batches = [toy_batch([0, 1]), toy_batch([2, 3, 4]), toy_batch([5])]
    found, expected = figures(model, toy_task(), batches), reference(model, batches)
    assert found["loss"] == pytest.approx(expected["loss"], abs=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(expected["loss"]), rel=1e-5)
    assert (found["accuracy"], found["tokens"]) == (expected["accuracy"], expected["tokens"])
    assert found["parameters"] == model.num_parameters()


def test_padding_and_the_cut_into_batches_change_no_figure():
    model = toy_bert(2, dtype=torch.float32)
    whole = figures(model, toy_task(), [pad_further(toy_batch(), 5)])
    parts = figures(model, toy_task(), [toy_batch([row]) for row in range(6)])
    assert whole["loss"] == pytest.approx(parts["loss"], abs=1e-5)
    assert (whole["accuracy"], whole["tokens"]) == (parts["accuracy"], parts["tokens"])


def test_every_model_of_a_comparison_sees_the_same_masked_tokens(tmp_path):
    write_corpus(tmp_path / "corpus", random_rows(30))
    models = {"teacher": toy_bert(2, dtype=torch.float32), "student": toy_distilbert(1, dtype=torch.float32)}
    folders = {name: str(tmp_path / name) for name in [*models, "copy"]}
    for name, model in {**models, "copy": models["student"]}.items():
        model.save_pretrained(folders[name])
    corpus = str(tmp_path / "corpus")
    found = evaluate_models(folders, corpus, task=TASK, seed=5, max_rows=20, batch_size=7)
    batches = list(held_out_batches(FeedSpec.make(corpus, TASK, None, seed=5), micro_batch_size=3, num_rows=20))
    for name, model in models.items():
        assert found[name]["loss"] == pytest.approx(reference(model, batches)["loss"], abs=1e-5)
    assert found["copy"] == found["student"]
    assert {values["tokens"] for values in found.values()} == {reference(models["teacher"], batches)["tokens"]}


def test_another_seed_masks_other_tokens(tmp_path):
    write_corpus(tmp_path / "corpus", random_rows(30))
    toy_bert(1, dtype=torch.float32).save_pretrained(tmp_path / "model")
    folders, corpus = {"model": str(tmp_path / "model")}, str(tmp_path / "corpus")
    first, second = (evaluate_models(folders, corpus, task=TASK, seed=seed)["model"] for seed in (1, 2))
    assert first["loss"] != second["loss"]
