import json
import math
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch

from raydistill import evaluation
from raydistill.batch import Batch
from raydistill.data.corpus import Corpus
from raydistill.data.stream import FeedSpec, validation_batches
from raydistill.evaluation import Checkpoints, evaluate_models, figures, passes_ms
from raydistill.models.load import load_model
from raydistill.tasks import classification
from raydistill.tasks._base import Encoding
from raydistill.tasks.mlm import Config, Task
from toys.classifiers import CLASSES, CLASSIFIERS
from toys.corpus import SPECIAL_IDS, VOCABULARY, random_rows, write_corpus
from toys.models import pad_further, toy_batch, toy_bert, toy_distilbert

TASK = {"name": "mlm"}
CLASSES_TASK = {"name": "classification"}


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
    evaluations = evaluate_models(folders, corpus, task=TASK, seed=5, max_rows=20, batch_size=7)
    found = {name: one.figures for name, one in evaluations.items()}
    for one in evaluations.values():
        assert one.predictions.keys() == {"row_id", "loss", "correct", "tokens"}
        assert one.predictions["tokens"].sum() == one.figures["tokens"]
    batches = list(validation_batches(FeedSpec.make(corpus, TASK, None, seed=5), micro_batch_size=3, num_rows=20))
    for name, model in models.items():
        assert found[name]["loss"] == pytest.approx(reference(model, batches)["loss"], abs=1e-5)
    assert found["copy"] == found["student"]
    assert {values["tokens"] for values in found.values()} == {reference(models["teacher"], batches)["tokens"]}


def test_rows_of_tokens_have_the_sums_of_each_row_by_itself(tmp_path):
    write_corpus(tmp_path / "corpus", random_rows(12))
    model = toy_bert(2, dtype=torch.float32)
    model.save_pretrained(tmp_path / "model")
    corpus = str(tmp_path / "corpus")
    found = evaluate_models({"model": str(tmp_path / "model")}, corpus, task=TASK, seed=5, batch_size=5)["model"]
    alone = list(validation_batches(FeedSpec.make(corpus, TASK, None, seed=5), micro_batch_size=1))
    expected = {int(batch["row_id"]): reference(model, [batch]) for batch in alone if batch["labels"].numel()}
    assert sorted(found.predictions["row_id"]) == list(range(12))
    for row, loss, correct, tokens in zip(*found.predictions.values(), strict=True):
        one = expected.get(row, {"loss": 0.0, "accuracy": 0.0, "tokens": 0})
        assert loss == pytest.approx(one["loss"] * one["tokens"], abs=1e-4)
        assert (correct, tokens) == (pytest.approx(one["accuracy"] * one["tokens"]), one["tokens"])


def test_rows_that_are_skipped_are_those_that_a_smaller_evaluation_reads(tmp_path):
    corpus, folder = write_classes(tmp_path / "corpus"), save_classifier(tmp_path / "model")

    def rows(**options: int) -> set[int]:
        found = evaluate_models({"model": folder}, corpus.uri, task=CLASSES_TASK, seed=5, **options)["model"]
        return set(found.predictions["row_id"])

    first, others = rows(max_rows=8), rows(skip_rows=8)
    assert (len(first), len(others), first | others) == (8, 15, set(range(23)))
    # Those that a training with this seed is evaluated by are among the first.
    spec = FeedSpec.make(corpus.uri, CLASSES_TASK, None, seed=5)
    trained = validation_batches(spec, micro_batch_size=4, num_rows=8)
    assert {int(row) for batch in trained for row in batch["row_id"]} == first


def test_another_seed_masks_other_tokens(tmp_path):
    write_corpus(tmp_path / "corpus", random_rows(30))
    toy_bert(1, dtype=torch.float32).save_pretrained(tmp_path / "model")
    folders, corpus = {"model": str(tmp_path / "model")}, str(tmp_path / "corpus")
    first, second = (evaluate_models(folders, corpus, task=TASK, seed=seed)["model"].figures for seed in (1, 2))
    assert first["loss"] != second["loss"]


def write_classes(folder: Path, *, num_rows: int = 23, encoding: str = "classification") -> Corpus:
    """A corpus of rows whose class is that of their number."""
    config = classification.EncodeConfig(labels=CLASSES)
    values = [{"label": number % len(CLASSES), "second": 40} for number in range(num_rows)]
    section = {"name": encoding, "labels": list(CLASSES)}
    columns = classification.columns(config)
    return write_corpus(folder, random_rows(num_rows), encoding=section, columns=columns, values=values)


def save_classifier(folder: Path, *, labels: tuple[str, ...] = CLASSES, seed: int = 0) -> str:
    CLASSIFIERS["bert_classes"](2, labels=labels, seed=seed, dtype=torch.float32).save_pretrained(folder)
    return str(folder)


def test_predictions_of_classes_are_those_of_transformers_own_forward_under_their_names(tmp_path):
    corpus, folder = write_classes(tmp_path / "corpus"), save_classifier(tmp_path / "model")
    one = evaluate_models({"model": folder}, corpus.uri, task=CLASSES_TASK, seed=5, max_rows=20, batch_size=7)["model"]
    rows = one.predictions["row_id"]
    assert one.predictions.keys() == {"row_id", "label", "prediction", *(f"probability.{name}" for name in CLASSES)}
    assert len(set(rows)) == 20 == one.figures["rows"]
    assert [CLASSES[row % 3] for row in rows] == list(one.predictions["label"])
    model = load_model(folder, head="sequence_classification")
    for position, ids in enumerate(corpus.read_rows(rows)):
        with torch.no_grad():
            expected = model(torch.tensor(ids[None].astype(int))).logits[0].double().softmax(-1).numpy()
        probabilities = [one.predictions[f"probability.{name}"][position] for name in CLASSES]
        assert probabilities == pytest.approx(expected, abs=1e-5)
        assert one.predictions["prediction"][position] == CLASSES[expected.argmax()]
    right = [said == meant for said, meant in zip(one.predictions["prediction"], one.predictions["label"], strict=True)]
    assert one.figures["accuracy"] == sum(right) / 20


def test_outputs_in_another_order_or_named_by_the_job_give_the_same_predictions(tmp_path):
    corpus = write_classes(tmp_path / "corpus")
    folders = {"named": save_classifier(tmp_path / "named"), "numbered": save_classifier(tmp_path / "numbered")}
    config = json.loads((tmp_path / "named" / "config.json").read_text())
    names = {"id2label": {str(place): f"LABEL_{place}" for place in range(3)}}
    names["label2id"] = {name: int(place) for place, name in names["id2label"].items()}
    (tmp_path / "numbered" / "config.json").write_text(json.dumps({**config, **names}))
    named = {**folders, "numbered": Checkpoints((folders["numbered"],), (CLASSES,))}
    found = evaluate_models(named, corpus.uri, task=CLASSES_TASK, seed=5)
    assert found["named"].figures == found["numbered"].figures
    swapped = {"numbered": Checkpoints((folders["numbered"],), (CLASSES[::-1],))}
    swapped = evaluate_models(swapped, corpus.uri, task=CLASSES_TASK, seed=5)
    red, blue = swapped["numbered"].predictions["probability.red"], found["named"].predictions["probability.blue"]
    assert red == pytest.approx(blue, abs=1e-9)
    with pytest.raises(ValueError, match="calls its classes LABEL_0, LABEL_1, LABEL_2; say what they are"):
        evaluate_models(folders, corpus.uri, task=CLASSES_TASK, seed=5)


def test_the_size_is_that_of_the_weights_on_disk(tmp_path):
    folder = save_classifier(tmp_path / "model")
    (tmp_path / "model" / "vocab.txt").write_text("no weight")
    found = evaluate_models({"model": folder}, write_classes(tmp_path / "corpus").uri, task=CLASSES_TASK, seed=5)
    assert found["model"].figures["size_mb"] == (tmp_path / "model" / "model.safetensors").stat().st_size / 1e6
    assert not [name for name in found["model"].figures if name.endswith("_ms")]


def test_the_latency_is_the_median_a_row_of_passes_after_an_uncounted_one(monkeypatch):
    # A clock that only the passes move: the first of them, uncounted, by far the slowest.
    clock, passes = [0.0], []

    def run(batch: Batch) -> None:
        clock[0] += 50.0 if not passes else 0.1 * batch.num_rows * (1 + len(passes) % 3)
        passes.append(batch.num_rows)

    monkeypatch.setattr(evaluation.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(evaluation, "_forward", lambda model, task: run)
    batches = [toy_batch([row]) for row in range(3)] + [toy_batch([0, 1])]
    assert statistics.median(passes_ms(toy_bert(1), toy_task(), batches, repeats=9)) == pytest.approx(200)
    assert passes == [1, 1, 1, 1, 2, 1, 1, 1, 2, 1]


def test_a_slow_model_is_measured_on_each_batch_once_and_no_longer(monkeypatch):
    clock, passes = [0.0], []

    def run(batch: Batch) -> None:
        clock[0] += 2.0
        passes.append(batch)

    monkeypatch.setattr(evaluation.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(evaluation, "_forward", lambda model, task: run)
    passes_ms(toy_bert(1), toy_task(), [toy_batch([row]) for row in range(6)], repeats=20)
    assert len(passes) == 1 + 5


@pytest.mark.parametrize("task", ["mlm", "classification"])
def test_a_latency_is_measured_for_single_rows_and_for_batches(tmp_path, task):
    if task == "mlm":
        write_corpus(tmp_path / "corpus", random_rows(30))
        toy_bert(1, dtype=torch.float32).save_pretrained(tmp_path / "model")
    else:
        write_classes(tmp_path / "corpus")
        save_classifier(tmp_path / "model")
    found = evaluate_models(
        {"model": str(tmp_path / "model")}, str(tmp_path / "corpus"), task={"name": task}, seed=5, latency_repeats=3
    )["model"].figures
    assert 0 < found["batch_latency_ms"] < found["latency_ms"]


@pytest.mark.parametrize("quarter", [1, 2, 3])
def test_models_of_one_architecture_are_told_one_latency_when_the_machine_grows_slower(tmp_path, monkeypatch, quarter):
    write_corpus(tmp_path / "corpus", random_rows(30))
    folders = {name: str(tmp_path / name) for name in ("first", "second")}
    for seed, folder in enumerate(folders.values()):
        toy_bert(1, seed=seed, dtype=torch.float32).save_pretrained(folder)
    clock, passes = [0.0], []
    number = 2 * 2 * (20 + evaluation.ROUNDS)

    def run(batch: Batch) -> None:
        passes.append(batch.num_rows)
        # From then on something else takes more than half of the machine.
        clock[0] += 1e-3 * batch.num_rows * (0.515 if len(passes) <= number * quarter / 4 else 1.23)

    monkeypatch.setattr(evaluation.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(evaluation, "_forward", lambda model, task: run)
    found = evaluate_models(folders, str(tmp_path / "corpus"), task=TASK, seed=5, latency_repeats=20)
    first, second = (found[name].figures for name in folders)
    assert len(passes) == number
    assert first["latency_ms"] == pytest.approx(second["latency_ms"])
    assert first["batch_latency_ms"] == pytest.approx(second["batch_latency_ms"])
    spreads = {1: (1.23 - 0.515) / 8, 2: (1.23 - 0.515) / 2, 3: (1.23 - 0.515) / 8}
    assert second["latency_spread_ms"] == pytest.approx(spreads[quarter])


def test_the_spread_of_equal_passes_is_nothing(tmp_path):
    assert evaluation._spread([3.0]) == evaluation._spread([2.0, 2.0, 2.0]) == 0.0
    assert evaluation._spread([1.0, 2.0, 3.0, 4.0, 5.0]) == 1.0
