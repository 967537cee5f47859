"""A training that is interrupted, restarted and finished, against one that nobody disturbed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from raydistill.training.checkpoint_store import checkpoints_at, step_of
from raydistill.training.history import read_history
from raydistill.training.result import TrainResult
from raydistill.training.trainer import train
from toys.training import FileTracker, make_spec, write_inputs

NUM_STEPS = 8
GROUP_RESTART, JOB_END = 4, 7
"""Steps whose logging kills a worker: the first is within ``max_failures``, the second is one too many."""
LAST_CHECKPOINT_BEFORE_A_CRASH = 2


def _spec(folder: Path) -> Any:
    training = {
        "max_steps": NUM_STEPS,
        "dropout": 0.1,
        "zero_stage": 3,
        "save_steps": 2,
        "save_total_limit": 2,
        "eval_steps": 3,
        "max_failures": 1,
    }
    return make_spec(folder, placement="zero3", num_workers=2, training=training)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("trainer")
    write_inputs(folder)
    found: dict[str, Any] = {"folder": folder}
    for name, crashes in {"undisturbed": (), "disturbed": (GROUP_RESTART, JOB_END)}.items():
        output = folder / name
        output.mkdir()
        tracker = FileTracker(folder / f"{name}.jsonl", crashes=crashes)
        if crashes:
            with pytest.raises(Exception):  # noqa: B017, PT011
                train(_spec(folder), str(output), tracker, "run")
            found["before the restart"] = [record["step"] for record in tracker.steps()]
        found[name] = train(_spec(folder), str(output), tracker, "run")
        found[f"{name} steps"] = tracker.steps()
    return found


def _loss_by_step(records: list[dict[str, float]]) -> dict[int, float]:
    return {int(record["step"]): record["train/loss"] for record in records}


def test_a_restarted_job_continues_from_its_last_checkpoint(runs: dict[str, Any]) -> None:
    before = runs["before the restart"]
    after = [record["step"] for record in runs["disturbed steps"]][len(before) :]
    assert before == [1, 2, 3, 3, 4, 5, 6]
    assert after == [7, 8]


def test_losses_after_restarts_are_those_of_an_undisturbed_run(runs: dict[str, Any]) -> None:
    expected = _loss_by_step(runs["undisturbed steps"])
    assert list(expected) == list(range(1, NUM_STEPS + 1))
    assert _loss_by_step(runs["disturbed steps"]) == pytest.approx(expected, rel=1e-6)


def _history(runs: dict[str, Any], name: str) -> list[dict[str, float]]:
    lines = read_history(runs["folder"] / name)
    return [{key: value for key, value in line.items() if not key.startswith("speed/")} for line in lines]


def test_the_history_of_a_restarted_job_is_that_of_an_undisturbed_one(runs: dict[str, Any]) -> None:
    expected, found = _history(runs, "undisturbed"), _history(runs, "disturbed")
    assert [line["step"] for line in expected] == [0, 1, 2, 3, 3, 4, 5, 6, 6, 7, 8, 8]
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    for line, wanted in zip(found, expected, strict=True):
        assert line == pytest.approx(wanted, abs=1e-5, rel=1e-5)


def test_another_group_of_workers_gives_the_same_losses_to_the_last_bit(runs: dict[str, Any]) -> None:
    first, second = (
        [line for line in _history(runs, name) if line["step"] <= LAST_CHECKPOINT_BEFORE_A_CRASH]
        for name in ("undisturbed", "disturbed")
    )
    assert len(first) == 3
    assert first == second


def test_only_the_last_checkpoints_are_kept(runs: dict[str, Any]) -> None:
    for name in ("undisturbed", "disturbed"):
        kept = checkpoints_at(runs["folder"] / name / "checkpoints").finished()
        assert [step_of(path) for path in kept] == [6, 8]


def test_restarts_end_in_the_same_student(runs: dict[str, Any]) -> None:
    results: list[TrainResult] = [runs["undisturbed"], runs["disturbed"]]
    first, second = (AutoModelForMaskedLM.from_pretrained(result.student).state_dict() for result in results)
    initial = AutoModelForMaskedLM.from_pretrained(runs["folder"] / "student").state_dict()
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, atol=1e-5, rtol=0)
    moved = {name for name, tensor in first.items() if not torch.equal(tensor, initial[name])}
    assert "distilbert.embeddings.word_embeddings.weight" in moved
    assert "distilbert.embeddings.position_embeddings.weight" not in moved
    assert len(AutoTokenizer.from_pretrained(results[0].student)) == initial["vocab_projector.bias"].shape[0]


def test_the_best_student_by_validation_loss_is_kept_beside_the_last(runs: dict[str, Any]) -> None:
    for name in ("undisturbed", "disturbed"):
        result: TrainResult = runs[name]
        losses = {line["step"]: line["validation/loss"] for line in _history(runs, name) if "validation/loss" in line}
        del losses[0]
        assert result.best_step == min(losses, key=lambda step: losses[step])
        assert (result.best_metric, result.best_value) == ("validation/loss", losses[result.best_step])
        assert Path(result.best) == runs["folder"] / name / f"best-{result.best_step}"
        assert (Path(result.best) / "model.safetensors").is_file()
        assert (result.delivered, result.step, result.stopped) == ("last", NUM_STEPS, "")


def test_each_logging_step_has_terms_rate_speed_and_waiting(runs: dict[str, Any]) -> None:
    record = runs["undisturbed steps"][-1]
    terms = {"ce", "mlm", "cos", "mse", "causal_ce", "causal_cos"} & {name.removeprefix("train/") for name in record}
    assert {"ce", "mlm", "causal_ce"} <= terms
    assert record["learning_rate"] > 0
    assert record["speed/tokens_per_s"] > 0
    assert 0 <= record["speed/data_wait_percent"] <= 100
