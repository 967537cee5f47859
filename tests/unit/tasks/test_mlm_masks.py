import numpy as np
import pytest
import torch

from raydistill.batch import Batch, add_partners, collate
from raydistill.tasks._base import Encoding
from raydistill.tasks.mlm import Config, Task

VOCABULARY = 50
SPECIAL = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
MASK = SPECIAL["mask"]


def make_task(counts=None, **options) -> Task:
    counts = np.full(VOCABULARY, 10) if counts is None else counts
    return Task(Config(**options), Encoding(VOCABULARY, SPECIAL, tuple(SPECIAL.values()), 512, counts))


def rows_of(num_rows: int, length: int, *, seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [np.array([2, *generator.integers(5, VOCABULARY, length - 2), 3]) for _ in range(num_rows)]


def batch_of(rows, row_ids=None, *, seed: int = 1, epoch: int = 0, step: int = 0) -> Batch:
    row_ids = range(len(rows)) if row_ids is None else row_ids
    return collate(rows, list(row_ids), pad_id=0, seed=seed, epoch=epoch, step=step)


def targets_by_row(batch: Batch) -> dict[int, tuple]:
    """Positions, labels and masked ids of each row, by its id."""
    width = batch["input_ids"].shape[1]
    row, position = batch["label_index"] // width, batch["label_index"] % width
    return {
        int(row_id): (
            position[row == number].tolist(),
            batch["labels"][row == number].tolist(),
            batch["input_ids"][number, : batch["lengths"][number]].tolist(),
        )
        for number, row_id in enumerate(batch["row_id"])
    }


def test_labels_are_the_original_ids_at_ascending_positions():
    plain = batch_of(rows_of(20, 30))
    batch = make_task().prepare_batch(plain)
    assert torch.equal(batch["labels"], plain["input_ids"].flatten()[batch["label_index"]])
    assert (batch["label_index"].diff() > 0).all()
    assert batch["labels"].dtype == batch["label_index"].dtype == batch["input_ids"].dtype == torch.int64


def test_ids_change_at_targets_alone_and_the_given_batch_not_at_all():
    rows = rows_of(20, 30)
    plain = batch_of(rows)
    batch = make_task().prepare_batch(plain)
    changed = torch.nonzero((batch["input_ids"] != plain["input_ids"]).flatten()).flatten()
    assert len(changed) > 0
    assert set(changed.tolist()) <= set(batch["label_index"].tolist())
    assert torch.equal(plain["input_ids"], torch.from_numpy(np.stack(rows)))


def test_special_tokens_and_padding_are_never_targets():
    rows = [*rows_of(40, 30), *rows_of(40, 12, seed=1)]
    batch = make_task(mask_probability=0.9).prepare_batch(batch_of(rows))
    assert set(batch["labels"].tolist()).isdisjoint(SPECIAL.values())
    assert batch["attention_mask"].flatten()[batch["label_index"]].all()


@pytest.mark.parametrize("length", [12, 20, 33])
def test_a_row_has_the_floor_or_the_ceiling_of_its_share_of_targets(length):
    counts = {
        len(found[0]) for found in targets_by_row(make_task().prepare_batch(batch_of(rows_of(200, length)))).values()
    }
    share = 0.15 * length
    assert counts == {int(np.floor(share)), int(np.ceil(share))}


def test_on_average_the_asked_share_of_tokens_are_targets():
    batch = make_task().prepare_batch(batch_of(rows_of(4000, 17)))
    assert len(batch["labels"]) / (4000 * 17) == pytest.approx(0.15, abs=0.002)


def test_a_row_of_few_candidates_has_no_more_targets_than_those():
    row = np.array([2, *[1] * 10, 7, 3])
    batch = make_task(mask_probability=0.5).prepare_batch(batch_of([row]))
    assert batch["labels"].tolist() == [7]


def test_a_row_without_candidates_has_no_target_beside_rows_that_have_some():
    batch = make_task().prepare_batch(batch_of([np.array([2, 1, 1, 3]), *rows_of(1, 30)]))
    assert len(batch["labels"]) >= 4
    assert (batch["label_index"] >= 30).all()


def test_a_batch_may_have_no_target():
    batch = make_task().prepare_batch(batch_of([np.array([2, 1, 1, 3])]))
    assert len(batch["labels"]) == len(batch["label_index"]) == 0


def test_a_rows_masks_do_not_depend_on_its_neighbours_its_padding_or_the_step():
    rows = [*rows_of(6, 20), *rows_of(6, 35, seed=3)]
    task = make_task()
    whole = targets_by_row(task.prepare_batch(batch_of(rows)))
    parts = [[0, 9], [3, 1, 2], [11, 4, 5, 6], [7], [8, 10]]
    apart = [targets_by_row(task.prepare_batch(batch_of([rows[i] for i in part], part, step=9))) for part in parts]
    assert {row_id: found for part in apart for row_id, found in part.items()} == whole


@pytest.mark.parametrize("changed", [{"seed": 2}, {"epoch": 1}, {"row_ids": range(100, 120)}])
def test_seed_epoch_and_row_id_each_change_the_masks(changed):
    rows, task = rows_of(20, 30), make_task()
    first = task.prepare_batch(batch_of(rows))["label_index"]
    assert torch.equal(task.prepare_batch(batch_of(rows))["label_index"], first)
    assert not torch.equal(task.prepare_batch(batch_of(rows, **changed))["label_index"], first)


@pytest.mark.parametrize(("kind", "share"), [("mask", 0.8), ("keep", 0.1), ("random", 0.1)])
def test_targets_are_masked_kept_and_replaced_in_the_published_shares(kind, share):
    batch = make_task().prepare_batch(batch_of(rows_of(3000, 30)))
    now, before = batch["input_ids"].flatten()[batch["label_index"]], batch["labels"]
    # One in 50 random ids is the original and one the mask token.
    expected = {"mask": 0.8 + 0.1 / VOCABULARY, "keep": 0.1 + 0.1 / VOCABULARY, "random": 0.1 * (1 - 2 / VOCABULARY)}
    found = {"mask": now == MASK, "keep": now == before, "random": (now != MASK) & (now != before)}
    assert found[kind].double().mean().item() == pytest.approx(expected[kind], abs=0.01)
    assert getattr(Config(), kind) == share


def test_random_ids_cover_the_vocabulary_special_tokens_included():
    batch = make_task(mask=0.0, keep=0.0, random=1.0).prepare_batch(batch_of(rows_of(500, 40)))
    now = batch["input_ids"].flatten()[batch["label_index"]]
    assert set(now.tolist()) == set(range(VOCABULARY))


def test_one_target_is_drawn_in_proportion_to_count_to_the_minus_smoothing():
    counts = np.ones(VOCABULARY, dtype=np.int64)
    counts[[10, 11, 12]] = 1, 32, 1024
    row = np.array([2, 10, 11, 12, 3])
    num_rows = 20000
    batch = make_task(counts, mask_probability=0.2, smoothing=0.7).prepare_batch(batch_of([row] * num_rows))
    found = np.bincount(batch["labels"].numpy(), minlength=13)[10:13] / num_rows
    weights = np.array([1.0, 32.0, 1024.0]) ** -0.7
    np.testing.assert_allclose(found, weights / weights.sum(), atol=0.01)


def test_several_targets_follow_weighted_sampling_without_replacement():
    counts = np.ones(VOCABULARY, dtype=np.int64)
    counts[[10, 11, 12]] = 1, 4, 16
    num_rows = 20000
    task = make_task(counts, mask_probability=0.4, smoothing=1.0)
    batch = task.prepare_batch(batch_of([np.array([2, 10, 11, 12, 3])] * num_rows))
    left_out = 1 - np.bincount(batch["labels"].numpy(), minlength=13)[10:13] / num_rows
    weights = {10: 1.0, 11: 1 / 4, 12: 1 / 16}
    total = sum(weights.values())
    expected = []
    for last in weights:
        first, second = (weight for token, weight in weights.items() if token != last)
        expected.append(first / total * second / (total - first) + second / total * first / (total - second))
    np.testing.assert_allclose(left_out, expected, atol=0.012)


def test_a_token_that_the_counts_never_saw_weighs_as_one_seen_once():
    counts = np.ones(VOCABULARY, dtype=np.int64)
    unseen = counts.copy()
    unseen[7] = 0
    rows = batch_of(rows_of(50, 30))
    first, second = (make_task(of).prepare_batch(rows)["label_index"] for of in (counts, unseen))
    assert torch.equal(first, second)


def test_partners_are_masked_by_a_draw_of_their_own():
    rows, task = rows_of(200, 25), make_task()
    plain = add_partners(batch_of(rows), rows, np.arange(200) + 500, pad_id=0)
    batch = task.prepare_batch(plain)
    ours, theirs = (batch[name] != plain[name] for name in ("input_ids", "partner_input_ids"))
    # 0.15 of the 25 tokens are targets of 23 candidates, 0.9 of them change; independent draws meet by chance.
    share = 0.9 * 0.15 * 25 / 23
    assert theirs.sum() / (200 * 23) == pytest.approx(share, abs=0.02)
    assert (ours & theirs).sum() / ours.sum() == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize("sampling", ["row", "batch"])
def test_partners_labels_are_their_original_ids_at_ascending_positions(sampling):
    # Partners of other lengths than the rows, so that an index into the wrong one shows.
    plain = add_partners(batch_of(rows_of(20, 25)), rows_of(20, 40, seed=9), np.arange(20) + 500, pad_id=0)
    batch = make_task(sampling=sampling).prepare_batch(plain)
    index, before = batch["partner_label_index"], plain["partner_input_ids"].flatten()
    assert torch.equal(batch["partner_labels"], before[index])
    assert (index.diff() > 0).all()
    assert 20 * 6 <= len(index) <= 20 * 7
    changed = torch.nonzero(batch["partner_input_ids"].flatten() != before).flatten()
    assert 0.7 * len(index) < len(changed)
    assert set(changed.tolist()) <= set(index.tolist())
    assert torch.equal(plain["partner_input_ids"][0], torch.from_numpy(rows_of(20, 40, seed=9)[0]))


def test_a_batch_without_partners_gets_no_labels_of_partners():
    assert not [name for name in make_task().prepare_batch(batch_of(rows_of(3, 25))).columns if "partner" in name]


def test_a_base_row_is_masked_alike_with_and_without_a_partner():
    rows, task = rows_of(10, 25), make_task()
    alone = task.prepare_batch(batch_of(rows))
    paired = task.prepare_batch(add_partners(batch_of(rows), rows[::-1], np.arange(10)[::-1].copy(), pad_id=0))
    assert torch.equal(paired["input_ids"], alone["input_ids"])
    assert torch.equal(paired["label_index"], alone["label_index"])


def test_counts_of_another_vocabulary_are_refused():
    with pytest.raises(ValueError, match="token counts are of 7 ids, the vocabulary has 50"):
        make_task(np.ones(7))


def test_a_tokenizer_without_mask_token_is_refused():
    encoding = Encoding(VOCABULARY, {"pad": 0}, (0,), 512, np.ones(VOCABULARY))
    with pytest.raises(ValueError, match="the tokenizer has no mask token; it has: pad"):
        Task(Config(), encoding)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_probability": 0.0}, "mask_probability is 0.0"),
        ({"smoothing": -1.0}, "smoothing is -1.0"),
        ({"sampling": "rows"}, r"sampling is 'rows'; choices: row, batch \(published\)"),
        ({"mask": 0.9}, "mask, keep and random are 0.9, 0.1, 0.1; they must add up to 1"),
    ],
)
def test_values_out_of_range_are_refused_by_key(options, message):
    with pytest.raises(ValueError, match=message):
        Config(**options)
