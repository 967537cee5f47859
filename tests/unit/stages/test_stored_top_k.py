"""Language models distilled from a teacher's stored likeliest ids, against the teacher beside them."""

import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import log_softmax

from raydistill.batch import Batch
from raydistill.config.sections import ScalingConfig
from raydistill.data.corpus import Corpus
from raydistill.data.stream import BatchBuilder, FeedSpec
from raydistill.data.teacher_outputs import OutputSet
from raydistill.data.teacher_outputs_writer import OutputSetWriter
from raydistill.losses.divergences import NAMES, divergence_of
from raydistill.losses.top_k import ROUNDING
from raydistill.models.load import load_model
from raydistill.stages import _corpora, _stored_outputs
from raydistill.stages._base import Input, OutputsFacts
from toys.capture import capture_stage, context_of, train_stage, write_sets, write_texts
from toys.families import toy_gpt2
from toys.models import VOCABULARY, parameter_gradients, toy_bert, toy_distilbert
from toys.words import make_tokenizer

ROWS = np.array([80, 3, 45, 17])
TASKS = {"clm": (toy_gpt2, toy_gpt2, "completion"), "mlm": (toy_bert, toy_distilbert, "masked")}
HEADS = {"clm": "causal_lm", "mlm": "masked_lm"}


@pytest.fixture(scope="module", params=TASKS)
def task(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(task: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, its teacher, and sets of it by temperature and number of ids."""
    found = tmp_path_factory.mktemp(task)
    write_texts(found, TASKS[task][0], task)
    for name, options in {
        "whole": {"top_k": VOCABULARY},
        "few": {"top_k": 8},
        "warm": {"top_k": VOCABULARY, "temperature": 2.0},
    }.items():
        write_sets(found, found / name, task=task, outputs=["top_k"], **options)
    return found


def stage_of(folder: Path, task: str, stored: str, *, options: dict[str, Any] | None = None, **changes: Any) -> Any:
    positions = TASKS[task][2] if task == "mlm" else "all"
    method = {"name": "kd", "temperature": 1.0, "positions": positions, **(options or {})}
    outputs = str(folder / stored) if (folder / stored).is_dir() else stored
    student = {"architecture": "gpt2" if task == "clm" else "distilbert", "layers": [0, 2]}
    return train_stage(folder, task=task, method=method, teacher_outputs=outputs, **{"student": student, **changes})


def batches_of(folder: Path, task: str, stored: str, output: Path, *, epoch: int = 1, **options: Any) -> list[Any]:
    """The method and its batch of four rows, as a training builds them."""
    stage = stage_of(folder, task, stored, options=options)
    decisions = stage.plan(ScalingConfig(), {})
    parts = _corpora.train_parts(stage.config.corpus, {})
    joined, ran = stage._joined(stage.config, decisions, {"train": parts}, context_of(stage, output))
    assert ran == 0
    spec = FeedSpec.make(parts, stage.config.task, stage.config.method, seed=1, stored=joined["train"])
    return [stage.config.method, BatchBuilder(spec).batch(ROWS, epoch=epoch, step=0)]


def without_stored(batch: Batch) -> Batch:
    columns = {name: column for name, column in batch.columns.items() if not name.startswith("teacher_0")}
    return Batch(columns, seed=batch.seed, epoch=batch.epoch, step=batch.step)


def student_of(task: str) -> torch.nn.Module:
    return TASKS[task][1](2, seed=9, dtype=torch.float64)


def losses(folder: Path, task: str, stored: str, output: Path, **options: Any) -> list[Any]:
    """Loss and gradients with stored outputs, then with the teacher on the same batch, both in float64."""
    method, batch = batches_of(folder, task, stored, output, **options)
    teacher = load_model(folder / "teacher", head=HEADS[task]).double().eval()
    found = []
    for of, teachers in ((batch, []), (without_stored(batch), [teacher])):
        student = student_of(task)
        made = method.build(student, teachers)
        loss, _ = made(of)
        found.append((loss.item(), parameter_gradients(loss, student), made.teacher_rows))
    return found


def log_probs_of(model: torch.nn.Module, batch: Batch, index: torch.Tensor, temperature: float) -> torch.Tensor:
    said = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"].long())
    return log_softmax(said.logits.flatten(0, 1)[index] / temperature, -1)


def rounding_bound(folder: Path, task: str, batch: Batch, index: torch.Tensor, temperature: float) -> float:
    """By how much the mean forward KL divergence may move when log-probabilities are rounded, see ``normalized``."""
    teacher = load_model(folder / "teacher", head=HEADS[task]).double().eval()
    with torch.no_grad():
        log_p = log_probs_of(teacher, batch, index, temperature)
        log_q = log_probs_of(student_of(task), batch, index, temperature)
    p = log_p.exp()
    entropy = -(p * log_p).sum(-1, keepdim=True)
    moved = ROUNDING * (p * (entropy - log_p) * (log_p - log_q).abs()).sum(-1)
    return 1.01 * temperature**2 * moved.mean().item() + 1e-6


@pytest.mark.parametrize(("stored", "temperature"), [("whole", 1.0), ("warm", 2.0)])
@pytest.mark.parametrize("alpha", [0.6, 1.0])
def test_with_all_ids_the_loss_is_the_teachers_within_the_rounding(
    folder: Path, task: str, tmp_path: Path, stored: str, temperature: float, alpha: float
) -> None:
    options = {"temperature": temperature, "alpha": alpha}
    kept, live = losses(folder, task, stored, tmp_path, **options)
    _, batch = batches_of(folder, task, stored, tmp_path, **options)
    index = batch["token_index" if task == "clm" else "label_index"]
    bound = alpha * rounding_bound(folder, task, batch, index, temperature)
    assert live[0] > 100 * bound
    assert abs(kept[0] - live[0]) <= bound
    for name, gradient in live[1].items():
        torch.testing.assert_close(kept[1][name], gradient, rtol=0.01, atol=2 * bound)


def test_no_row_is_run_by_a_teacher_whose_ids_are_stored(folder: Path, task: str, tmp_path: Path) -> None:
    kept, live = losses(folder, task, "few", tmp_path)
    assert (kept[2], live[2]) == (0, len(ROWS))


@pytest.mark.parametrize("divergence", NAMES)
def test_with_few_ids_the_loss_is_that_of_the_stored_buckets_and_at_most_the_exact_one(
    folder: Path, task: str, tmp_path: Path, divergence: str
) -> None:
    options = {"alpha": 1.0, "divergence": divergence, "positions": TASKS[task][2]}
    kept, live = losses(folder, task, "few", tmp_path, **options)
    _, batch = batches_of(folder, task, "few", tmp_path, **options)
    index = batch["label_index"]
    with torch.no_grad():
        log_q = log_probs_of(student_of(task), batch, index, 1.0)
    ids = batch["teacher_0_top_k_ids"]
    log_p = torch.cat([batch["teacher_0_top_k_log_probs"], batch["teacher_0_top_k_log_tails"][:, None]], -1).double()
    if task == "clm":
        # The last token of each row has no label.
        lengths = batch["lengths"].tolist()
        keep = torch.cat([torch.arange(length) < length - 1 for length in lengths])
        ids, log_p = ids[keep], log_p[keep]
    tail = log_q.scatter(-1, ids, float("-inf")).logsumexp(-1, keepdim=True)
    buckets = torch.cat([log_q.gather(-1, ids), tail], -1)
    values, _ = divergence_of(divergence)(buckets, log_p - log_p.logsumexp(-1, keepdim=True))
    assert kept[0] == pytest.approx(values.mean().item(), rel=1e-5)
    assert 0 < kept[0] < live[0] + rounding_bound(folder, task, batch, index, 1.0)
    assert kept[0] < 0.999 * live[0]


def test_masked_rows_have_the_masks_that_the_teacher_saw_in_every_epoch(
    folder: Path, task: str, tmp_path: Path
) -> None:
    first, second = (batches_of(folder, task, "few", tmp_path, epoch=epoch)[1] for epoch in (0, 1))
    assert torch.equal(first["input_ids"], second["input_ids"])
    assert torch.equal(first["label_index"], second["label_index"])
    if task == "mlm":
        drawn = BatchBuilder(FeedSpec.make(str(folder / "corpus" / "train"), "mlm", None, seed=1))
        fresh = drawn.batch(ROWS, epoch=0, step=0)
        texts = drawn.corpus.read_rows(ROWS)
        assert not torch.equal(fresh["label_index"], first["label_index"])
        whole = torch.cat([torch.from_numpy(row.astype(np.int64)) for row in texts])
        places = torch.zeros(first["input_ids"].numel(), dtype=torch.int64)
        places[first["token_index"]] = whole
        assert torch.equal(first["labels"], places[first["label_index"]])
        unmasked = torch.ones_like(places, dtype=torch.bool).index_fill(0, first["label_index"], False)
        assert torch.equal(first["input_ids"].flatten()[unmasked], places[unmasked])
        assert first["labels"].shape[0] == first["teacher_0_top_k_ids"].shape[0] > 0


def test_the_forecast_tells_the_size_and_trainings_say_whose_outputs_and_masks_they_read(
    folder: Path, task: str
) -> None:
    [line] = capture_stage(folder, task=task, outputs=["top_k"], top_k=8).plan(ScalingConfig(), {}).lines
    assert "stores top_k: about 0." in line
    lines = stage_of(folder, task, "few").plan(ScalingConfig(), {}).lines
    assert any("is not run: " in one and "has its outputs" in one for one in lines)
    masks = f"the mask of each row is the one that {folder / 'few'} has, the same in all epochs"
    assert (masks in lines) is (task == "mlm")


def test_a_token_takes_four_bytes_an_id_and_two_for_the_tail(folder: Path, task: str) -> None:
    of = OutputSet.open(str(folder / "few" / "teacher_0" / "corpus_0" / "train"))
    tokens = sum(int(row.size) for row in of.read(range(90))["top_k_log_tails"])
    token = 8 * (2 + 2) + 2 + (4 + 2 if task == "mlm" else 0)
    assert sum(column.num_bytes for column in of.header.columns.values()) == token
    if task == "clm":
        assert tokens == Corpus.open(str(folder / "corpus" / "train")).manifest.tokens
    # Each file has some 2 KiB beside its values.
    assert tokens * token < of.num_bytes < tokens * token + len(of.shards) * 6 * 2**10


def test_language_models_choose_live_teachers_by_themselves(folder: Path, task: str) -> None:
    why = f"of what teachers of task {task} say only the likeliest ids can be stored"
    lines = stage_of(folder, task, "auto").plan(ScalingConfig(), {}).lines
    assert f"teacher outputs: live, because {why}" in lines
    with pytest.raises(ValueError, match=f"is 'stored', but {why}; name a capture stage that stores top_k"):
        stage_of(folder, task, "stored").plan(ScalingConfig(), {})


@pytest.mark.parametrize(
    ("stored", "options", "message"),
    [
        ("few", {"temperature": 2.0}, "method.temperature is 2, but the teacher's likeliest ids are stored at temp"),
        ("warm", {}, "temperature 2; write method.temperature: 2, or capture them at 1$"),
        ("few", {"divergence": "mse"}, "method.divergence is 'mse', which compares all logits, but only the teacher's"),
    ],
)
def test_what_stored_ids_cannot_give_is_refused_in_one_line(
    folder: Path, task: str, stored: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        stage_of(folder, task, stored, options=options).plan(ScalingConfig(), {})
    assert "\n" not in str(error.value)
    facts = OutputsFacts((), (), ("top_k",), (), ((),), temperature=2.0 if stored == "warm" else 1.0)
    with pytest.raises(ValueError, match=message):
        stage_of(folder, task, "captured", options=options).plan(ScalingConfig(), {"captured": Input(facts)})


def test_more_ids_than_the_vocabulary_has_or_a_file_can_count_are_refused(folder: Path, task: str) -> None:
    with pytest.raises(ValueError, match=r"top_k is 62, but teachers\.0 has 61 token ids; lower it"):
        capture_stage(folder, task=task, outputs=["top_k"], top_k=62).plan(ScalingConfig(), {})
    stage = capture_stage(folder, task=task, outputs=["top_k"], top_k=61)
    stage._check_record_batches(40)
    with pytest.raises(ValueError, match=r"top_k is 61, but of rows of up to 1,000,000 tokens at most \d+ ids"):
        stage._check_record_batches(1_000_000)


def test_a_masked_model_is_compared_at_masked_tokens_alone(folder: Path, task: str) -> None:
    stage = stage_of(folder, task, "few", options={"positions": "all"})
    if task == "clm":
        assert stage.plan(ScalingConfig(), {})
        return
    with pytest.raises(ValueError, match=r"method\.positions is 'all', but of a masked model only what it says"):
        stage.plan(ScalingConfig(), {})


def test_a_store_of_a_teacher_with_another_tokenizer_is_refused_with_both_hashes(
    folder: Path, task: str, tmp_path: Path
) -> None:
    other = make_tokenizer()
    other.add_special_tokens({"additional_special_tokens": ["w60"]})
    write_texts(tmp_path, TASKS[task][0], task, tokenizer=other)
    foreign = {"corpus": str(tmp_path / "corpus"), "teachers": [str(tmp_path / "teacher")]}
    stage_of(folder, task, "live", **foreign).plan(ScalingConfig(), {})
    with pytest.raises(
        ValueError, match=r"are of a teacher with hash \w{64}, teachers\.0 has \w{64}; capture"
    ) as error:
        stage_of(folder, task, "few", **foreign).plan(ScalingConfig(), {})
    assert "\n" not in str(error.value)


def test_a_full_disk_is_told_before_a_teacher_runs(
    folder: Path, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=2**30)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    stage = capture_stage(folder, task=task, outputs=["top_k"], top_k=8)
    with pytest.raises(ValueError, match=r"outputs of teachers\.0 take about 0\.\d MiB, but the storage has 1\.00 GiB"):
        stage.run(context_of(stage, tmp_path / "out"))


def rewritten(folder: Path, target: Path, *, without: str = "", **options: Any) -> None:
    """The set of the training part at ``target`` again, without a column or with other options."""
    old = OutputSet.open(str(folder / "few" / "teacher_0" / "corpus_0" / "train"))
    columns = {name: column for name, column in old.header.columns.items() if name != without}
    header = old.header.model_copy(update={"columns": columns, "options": {**old.header.options, **options}})
    sizes = [shard.rows for shard in old.shards]
    with OutputSetWriter(str(target), header, shard_rows=sizes) as writer:
        for start, stop in pairwise(np.cumsum([0, *sizes]).tolist()):
            writer.add(np.arange(start, stop), old.read(np.arange(start, stop), list(columns)))
        writer.finish()


def test_an_older_store_of_a_masked_model_without_the_ids_that_it_read_is_refused_in_one_line(
    folder: Path, task: str, tmp_path: Path
) -> None:
    rewritten(folder, tmp_path / "old" / "teacher_0" / "corpus_0" / "train", without="top_k_inputs")
    stage = stage_of(folder, task, str(tmp_path / "old"))
    sets = _stored_outputs.sets_below(tmp_path / "old")
    if task == "clm":
        assert len(list(sets)) == 1
        return
    with pytest.raises(ValueError, match=r"train' do not have the ids that the teacher read at masked places; capture"):
        list(sets)
    with pytest.raises(ValueError, match=r"capture them again$") as error:
        stage.plan(ScalingConfig(), {})
    assert "\n" not in str(error.value)


def test_teachers_that_saw_other_masks_are_not_mixed(folder: Path, task: str, tmp_path: Path) -> None:
    for number, seed in enumerate((5, 6)):
        rewritten(folder, tmp_path / f"teacher_{number}" / "corpus_0" / "train", mask_seed=seed)
    headers = [one.header for one in _stored_outputs.sets_below(tmp_path)]
    if task == "clm":
        _stored_outputs._check_alike("captured", headers, {})
        return
    with pytest.raises(ValueError, match="whose teachers saw masks of the seeds 5, 6; capture with one mask_seed"):
        _stored_outputs._check_alike("captured", headers, {})
