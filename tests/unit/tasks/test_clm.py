import math

import pytest
import torch

from raydistill.batch import PARTNER, Batch
from raydistill.losses.chunked_head import DEFAULT_CHUNK_ROWS
from raydistill.tasks._base import Encoding
from raydistill.tasks.clm import Config, Task
from toys.families import DECODERS, toy_gpt2
from toys.models import LENGTHS, PARTNER_LENGTHS, VOCABULARY, pad_further, toy_batch

TASK = Task(Config(), Encoding(VOCABULARY, {}, (2, 3), 40))


def prepared(rows=range(6), **keys):
    return TASK.prepare_batch(toy_batch(rows, **keys))


def own_loss(model, batch) -> float:
    """What transformers computes from the same rows: it shifts the labels itself."""
    labels = batch["input_ids"].masked_fill(~batch["attention_mask"], -100)
    return model(batch["input_ids"], attention_mask=batch["attention_mask"].long(), labels=labels).loss.item()


def test_each_token_but_the_first_of_a_row_is_the_label_of_the_place_before_it():
    batch = prepared()
    ids, width = batch["input_ids"], batch["input_ids"].shape[1]
    expected = {(row, place - 1): ids[row, place].item() for row in range(6) for place in range(1, LENGTHS[row])}
    places = [(index // width, index % width) for index in batch["label_index"].tolist()]
    assert places == sorted(expected)
    assert dict(zip(places, batch["labels"].tolist(), strict=True)) == expected


def test_rows_and_partners_stay_as_they_are():
    before, after = toy_batch(), prepared()
    for name in ("input_ids", PARTNER + "input_ids", "attention_mask", "token_index"):
        assert torch.equal(after[name], before[name])


def test_partners_are_labelled_as_rows_are():
    batch = prepared()
    rows = {name: batch[PARTNER + name] for name in ("input_ids", "attention_mask", "lengths", "row_id")}
    as_rows = TASK.prepare_batch(Batch(rows, seed=3, epoch=0, step=0))
    for name in ("labels", "label_index"):
        assert torch.equal(batch[PARTNER + name], as_rows[name])
    assert PARTNER + "labels" not in as_rows
    assert batch[PARTNER + "labels"].shape[0] == sum(PARTNER_LENGTHS) - len(PARTNER_LENGTHS)


def test_labels_depend_on_no_seed_or_epoch():
    first, second = prepared(seed=1), prepared(seed=2, epoch=3)
    assert torch.equal(first["labels"], second["labels"])


def test_a_row_of_one_token_predicts_nothing():
    batch = toy_batch([0])
    one = {"input_ids": batch["input_ids"][:, :1], "lengths": torch.tensor([1])}
    labelled = TASK.prepare_batch(batch.with_columns(**one))
    assert labelled["labels"].shape == labelled["label_index"].shape == (0,)


@pytest.mark.parametrize("family", DECODERS)
@torch.no_grad()
def test_the_mean_loss_is_the_models_own(family):
    model, batch = family(2).float().eval(), prepared()
    metrics = TASK.metrics({name: value.item() for name, value in TASK.score(model, batch).items()})
    expected = own_loss(model, batch)
    assert metrics["loss"] == pytest.approx(expected, rel=1e-5)
    assert metrics["perplexity"] == pytest.approx(math.exp(expected), rel=1e-4)
    assert metrics["tokens"] == sum(LENGTHS) - len(LENGTHS)


@torch.no_grad()
def test_the_accuracy_is_the_share_of_next_tokens_that_are_most_likely():
    model, batch = toy_gpt2(2).eval(), prepared()
    answers = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits.argmax(-1)[:, :-1]
    real = batch["attention_mask"][:, 1:]
    right = ((answers == batch["input_ids"][:, 1:]) & real).sum().item()
    sums = TASK.score(model, batch)
    assert sums["correct"].item() == right > 0
    assert TASK.metrics({name: value.item() for name, value in sums.items()})["accuracy"] == right / real.sum().item()


def test_sums_of_parts_add_up_and_padding_changes_none():
    model = toy_gpt2(2).eval()
    whole = TASK.score(model, prepared())
    parts = [TASK.score(model, prepared([row])) for row in range(6)]
    padded = TASK.score(model, pad_further(prepared(), 4))
    for name, value in whole.items():
        assert value.dtype == torch.float64
        assert not value.requires_grad
        assert value.item() == pytest.approx(sum(part[name].item() for part in parts), abs=1e-4)
        assert value.item() == pytest.approx(padded[name].item(), abs=1e-4)


def test_no_tensor_has_the_logits_of_all_tokens():
    model, batch = toy_gpt2(1).eval(), prepared()
    again = 20
    many = batch.with_columns(label_index=batch["label_index"].repeat(again), labels=batch["labels"].repeat(again))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile:
        sums = TASK.score(model, many)
    rows = {shape[0] for event in profile.events() for shape in event.input_shapes if shape[1:] == [VOCABULARY]}
    assert 0 < max(rows) <= DEFAULT_CHUNK_ROWS < many["labels"].shape[0]
    assert sums["loss"].item() == pytest.approx(again * TASK.score(model, batch)["loss"].item(), rel=1e-6)


def test_models_are_compared_by_metrics_that_there_are():
    better = Task.higher_is_better(Config())
    assert better == {"loss": False, "perplexity": False, "accuracy": True}
    assert set(better) < set(TASK.metrics({"loss": 6.0, "correct": 3.0, "tokens": 4.0}))


def test_nothing_to_score_is_refused():
    with pytest.raises(ValueError, match="no validation token is predicted"):
        TASK.metrics({"loss": 0.0, "correct": 0.0, "tokens": 0.0})
