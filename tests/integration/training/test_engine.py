"""One loss curve under every ZeRO stage, number of workers and placement of the teacher."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from integration.training.engine_settings import direct_feed, run_settings
from raydistill.data.stream import FeedSpec
from raydistill.models.layer_selection import freeze_position_embeddings
from raydistill.models.load import load_model
from raydistill.optim.parameter_groups import parameter_groups
from raydistill.optim.schedules import linear_warmup_decay
from toys.training import make_spec, write_inputs, write_more_models

# The first test waits for twenty trainings, which a slow machine draws out.
pytestmark = pytest.mark.timeout(1500)
STAGES = (0, 1, 2, 3)
PLACEMENTS = ("replicate", "zero3")
SETTINGS: dict[str, dict[str, Any]] = {
    f"zero{stage}-{placement}": {"placement": placement, "training": {"zero_stage": stage}}
    for stage in STAGES
    for placement in PLACEMENTS
}
for _stage in STAGES:
    _SAVING = {"save": f"zero{_stage}", "training": {"zero_stage": _stage, "save_steps": 4}}
    SETTINGS[f"zero{_stage}-replicate"] |= _SAVING
RESUMED = {f"resumed-{stage}": {"load": f"zero{stage}-4", "training": {"zero_stage": stage}} for stage in STAGES}
HALF = {"zero_stage": 2, "precision": "bf16", "save_steps": 4}
RESUMED_HALF = {
    "half": {"save": "half", "training": HALF},
    "half-0": {"training": HALF | {"zero_stage": 0}},
    **{f"resumed-half-{stage}": {"load": "half-4", "training": HALF | {"zero_stage": stage}} for stage in (0, 2)},
}
SHRUNK_STAGES = {0: 3, 1: 2, 3: 0}
SHRUNK = {
    f"shrunk-{stage}": {"load": f"zero{stage}-4", "training": {"zero_stage": other}}
    for stage, other in SHRUNK_STAGES.items()
}
"""What 2 workers saved at one stage, continued by 1 worker at another."""
BREAKING = {
    "training": {"max_steps": 4},
    "optimizer": {"learning_rate": 1e30, "warmup_proportion": 0.0, "max_grad_norm": 1e30},
}
REPEATED = {"training": {"zero_stage": 2, "dropout": 0.3, "max_steps": 5, "eval_steps": 2}}
STOPPED = {"training": {"stop_after_steps": 4}}
SELECTING = {
    "training": {
        "zero_stage": 2,
        "max_steps": 12,
        "eval_steps": 1,
        "metric_for_best_model": "eval/loss",
        "load_best_model_at_end": True,
        "early_stopping_patience": 3,
        "also_best": {"accuracy": {"metric": "accuracy"}, "unbeaten": {"metric": "loss", "saving_criterion": 0.0}},
    },
    "optimizer": {"learning_rate": 0.3},
}
UNBEATEN = {
    "training": {"max_steps": 2, "eval_steps": 1, "load_best_model_at_end": True, "saving_criterion": 0.0},
}
UNKNOWN_METRIC = {"training": {"metric_for_best_model": "validation/muki"}}
ONLY_COSINE = dict.fromkeys(("alpha_ce", "alpha_mlm", "alpha_mse", "alpha_causal_ce"), 0.0)
HEADLESS = {"training": {"max_steps": 3}, "optimizer": {"weight_decay": 1.0}, "method": ONLY_COSINE}
"""No term reaches the student's head, which decays all the same."""
PER_MICRO_BATCH = {"training": {"loss_normalization": "per_micro_batch"}}
DEEP = {"models": "deep-", "placement": "zero3"}
ON_ANY_RANKS: dict[str, dict[str, Any]] = {
    "six-groups": {**DEEP, "training": {"zero_stage": 3, "max_steps": 8}, "method": {"mapping": "full_6"}},
    "decoder": {
        "models": "llama-",
        "training": {"zero_stage": 3, "max_steps": 5},
        "task": {"name": "clm"},
        "method": {"alpha_mlm": 0.0, "alpha_clm": 0.25},
    },
}
"""What is trained with 1 and with 2 workers besides."""
DRAWN_BY_MICRO_BATCH = {
    **DEEP,
    "training": {"zero_stage": 3, "max_steps": 4},
    "method": {"mapping": "full_6", "site_draw": "micro_batch"},
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    write_inputs(folder)
    write_more_models(folder)
    return folder


def _run_group(folder: Path, *, num_workers: int, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """What each rank of one worker group saw, by setting."""
    name = f"group-{num_workers}"
    TorchTrainer(
        run_settings,
        train_loop_config={"folder": str(folder), "name": name, "settings": settings},
        scaling_config=ScalingConfig(num_workers=num_workers, resources_per_worker={"CPU": 1}),
        torch_config=TorchConfig(backend="gloo"),
        run_config=RunConfig(name=name, storage_path=str(folder / "runs")),
    ).fit()
    return [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in range(num_workers)]


@pytest.fixture(scope="module")
def one_worker(inputs: Path, two_workers: list[dict[str, Any]]) -> dict[str, Any]:
    # After the two workers, whose state it continues, and before it saves its own.
    settings = {**SHRUNK, **SETTINGS, **ON_ANY_RANKS, "headless": HEADLESS, "breaking": BREAKING}
    return _run_group(inputs, num_workers=1, settings=settings)[0]


@pytest.fixture(scope="module")
def two_workers(inputs: Path, ray_cluster: None) -> list[dict[str, Any]]:
    settings = {
        **SETTINGS,
        **RESUMED,
        **RESUMED_HALF,
        **ON_ANY_RANKS,
        "headless": HEADLESS,
        "breaking": BREAKING,
        "per_micro_batch": PER_MICRO_BATCH,
        "drawn_by_micro_batch": DRAWN_BY_MICRO_BATCH,
        "first": REPEATED,
        "second": REPEATED,
        "stopped": STOPPED,
        "selecting": SELECTING,
        "unbeaten": UNBEATEN,
        "unknown_metric": UNKNOWN_METRIC,
    }
    return _run_group(inputs, num_workers=2, settings=settings)


@pytest.fixture(scope="module")
def plain(inputs: Path) -> list[float]:
    """Losses of the same steps in plain PyTorch: whole global batches, no engine."""
    spec = make_spec(inputs)
    student = load_model(spec.student, head="masked_lm", dropout=0.0).train()
    freeze_position_embeddings(student)
    teacher = load_model(spec.teachers[0].folder, head="masked_lm")
    method = spec.method.build(student, [teacher])
    settings = spec.optimizer
    optimizer = torch.optim.AdamW(
        parameter_groups(method, weight_decay=settings.weight_decay), betas=settings.betas, eps=settings.epsilon
    )
    feed_spec = FeedSpec.make(
        spec.corpus, spec.task, spec.method, seed=spec.seed, batch_size=spec.training.batch_size, num_micro_batches=1
    )
    losses = []
    for step, (batch,) in enumerate(direct_feed(feed_spec, rank=0, world_size=1, stop_step=10)):
        loss, _ = method(batch, method.denominators(batch))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(method.parameters(), settings.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * linear_warmup_decay(step, num_steps=10, warmup_proportion=0.2)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_the_loss_moves_enough_to_show_a_difference(plain: list[float]) -> None:
    assert len(plain) == 10
    assert max(plain) - min(plain) > 0.1


@pytest.mark.parametrize("setting", SETTINGS)
def test_one_worker_gives_the_losses_of_plain_pytorch(one_worker: dict, plain: list[float], setting: str) -> None:
    assert one_worker[setting]["losses"] == pytest.approx(plain, abs=1e-4)


@pytest.mark.parametrize("setting", SETTINGS)
def test_two_workers_give_the_losses_of_plain_pytorch(two_workers: list, plain: list[float], setting: str) -> None:
    assert two_workers[0][setting]["losses"] == pytest.approx(plain, abs=1e-4)


@pytest.mark.parametrize("setting", ON_ANY_RANKS)
def test_two_workers_give_the_losses_of_one(one_worker: dict, two_workers: list, setting: str) -> None:
    expected = one_worker[setting]["losses"]
    assert len(expected) == ON_ANY_RANKS[setting]["training"]["max_steps"]
    assert max(expected) - min(expected) > 0.1
    assert two_workers[0][setting]["losses"] == pytest.approx(expected, rel=1e-5)


def test_weights_that_no_term_reaches_decay_alike_on_any_ranks(one_worker: dict, two_workers: list) -> None:
    expected = two_workers[0]["headless"]["plain"]["loss"]
    assert one_worker["headless"]["plain"]["loss"] == pytest.approx(expected, rel=1e-5)


def test_a_step_has_one_group_of_sites_on_all_ranks(one_worker: dict, two_workers: list) -> None:
    sites = two_workers[0]["six-groups"]["sites"]
    # Of 2 micro-batches, and of 4 where there is 1 worker.
    assert sites[::2] == sites[1::2] == one_worker["six-groups"]["sites"][::4]
    assert len({str(blocks) for blocks in sites}) >= 4
    assert two_workers[1]["six-groups"]["sites"] == sites


def test_sites_drawn_for_each_micro_batch_differ_within_steps_and_not_between_ranks(two_workers: list) -> None:
    first, second = (seen["drawn_by_micro_batch"]["sites"] for seen in two_workers)
    assert len(first) == 8
    assert first[::2] != first[1::2]
    assert second == first
    assert all(math.isfinite(loss) for loss in two_workers[0]["drawn_by_micro_batch"]["losses"])


def test_validation_losses_agree_between_settings(one_worker: dict, two_workers: list) -> None:
    found = [seen[setting]["validation"] for seen in (one_worker, two_workers[0]) for setting in SETTINGS]
    assert math.isfinite(found[0])
    assert found == pytest.approx([found[0]] * len(found), abs=1e-4)


def test_each_rank_holds_half_of_a_sharded_teacher(one_worker: dict, two_workers: list) -> None:
    whole = one_worker["zero0-replicate"]["teacher_numel"]
    for rank in (0, 1):
        assert two_workers[rank]["zero2-replicate"]["teacher_numel"] == whole
        # Shares are padded to equal sizes, a few elements for each parameter.
        assert two_workers[rank]["zero2-zero3"]["teacher_numel"] == pytest.approx(whole / 2, rel=0.02)
        assert two_workers[rank]["zero3-zero3"]["teacher_numel"] == pytest.approx(whole / 2, rel=0.02)


def test_a_loss_that_is_no_number_names_the_term_on_every_rank(one_worker: dict, two_workers: list) -> None:
    for seen in (one_worker, *two_workers):
        failure = seen["breaking"]["failure"]
        assert failure.startswith("the term ")
        assert "'loss'" not in failure
        assert "optimizer.learning_rate" in failure


def test_normalization_per_micro_batch_is_another_mean(two_workers: list, plain: list[float]) -> None:
    losses = two_workers[0]["per_micro_batch"]["losses"]
    # Parts of a batch hold different numbers of tokens, so their mean of means is near the mean, and not equal to it.
    assert losses[0] == pytest.approx(plain[0], rel=0.2)
    assert abs(losses[0] - plain[0]) > 1e-4


def _without_speed(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{name: value for name, value in line.items() if not name.startswith("speed/")} for line in history]


@pytest.mark.parametrize("setting", SETTINGS)
def test_evaluations_find_what_the_saved_student_gives_without_an_engine(
    one_worker: dict, two_workers: list, setting: str
) -> None:
    for seen in (one_worker[setting], two_workers[0][setting]):
        last = [line for line in seen["history"] if "eval/loss" in line][-1]
        for metric in ("loss", "perplexity", "accuracy"):
            assert last[f"eval/{metric}"] == pytest.approx(seen["plain"][metric], rel=1e-5)


def test_the_same_training_gives_the_same_losses_to_the_last_bit(two_workers: list) -> None:
    first, second = (_without_speed(two_workers[0][name]["history"]) for name in ("first", "second"))
    assert [line["step"] for line in first] == [0, 1, 2, 2, 3, 4, 4, 5, 5]
    assert len({line["train/loss"] for line in first if "train/loss" in line}) == 5
    assert first == second


def test_a_training_that_stops_after_some_steps_keeps_the_schedule_of_the_full_one(
    two_workers: list, plain: list[float]
) -> None:
    seen = two_workers[0]["stopped"]
    assert seen["losses"] == pytest.approx(plain[:4], abs=1e-4)
    assert seen["result"]["step"] == 4
    assert "stop_after_steps is 4" in seen["result"]["stopped"]
    assert [line["step"] for line in seen["history"] if "eval/loss" in line] == [0, 4]


def test_training_stops_when_its_patience_is_spent_and_leaves_the_best_student(two_workers: list) -> None:
    seen = two_workers[0]["selecting"]
    result = seen["result"]
    losses = {line["step"]: line["eval/loss"] for line in seen["history"] if "eval/loss" in line and line["step"] > 0}
    best_step = min(losses, key=lambda step: losses[step])
    assert len(losses) < 12
    assert list(losses) == list(range(1, best_step + 4))
    assert (result["step"], result["best_step"]) == (best_step + 3, best_step)
    assert result["stopped"].startswith("early stopping")
    assert (result["delivered"], result["note"]) == ("best", "")
    assert result["best_value"] == result["metrics"]["eval/loss"] == losses[best_step]
    assert seen["plain"]["loss"] == pytest.approx(losses[best_step], rel=1e-5)
    assert seen["plain"]["loss"] < losses[best_step + 3] - 1e-3
    assert result["best"].endswith(f"/best-{best_step}")
    assert f"best-{best_step}" in seen["best_folders"]


def test_further_best_students_are_kept_by_criteria_of_their_own(two_workers: list) -> None:
    seen = two_workers[0]["selecting"]
    further, told = seen["further"], seen["result"]["further"]
    evaluations = [line for line in seen["history"] if "eval/accuracy" in line and line["step"] > 0]
    accuracies = {line["step"]: line["eval/accuracy"] for line in evaluations}
    step = max(accuracies, key=lambda one: accuracies[one])
    assert told["accuracy"]["best_step"] == step
    assert further["best_accuracy"]["accuracy"] == pytest.approx(accuracies[step], rel=1e-5)
    # None has a loss below 0, so that the trained student stands there.
    assert (told["unbeaten"]["kept_step"], further["best_unbeaten"]) == (None, seen["plain"])
    assert {f"best-{step}", f"best-{seen['result']['best_step']}"} == {*seen["best_folders"]}


def test_without_a_student_that_beats_the_criterion_the_last_one_is_left_and_told(two_workers: list) -> None:
    seen = two_workers[0]["unbeaten"]
    result = seen["result"]
    assert (result["delivered"], result["best"], seen["best_folders"]) == ("last", "", [])
    assert "saving_criterion=0.0" in result["note"]
    assert result["metrics"]["validation/loss"] == seen["history"][-1]["validation/loss"]


def test_a_metric_that_the_method_lacks_ends_training_before_its_first_step(two_workers: list) -> None:
    for seen in two_workers:
        failure = seen["unknown_metric"]["failure"]
        assert "'validation/muki'" in failure
        assert "validation/causal_ce" in failure
        assert not seen["unknown_metric"]["losses"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_resumed_training_has_the_losses_of_an_undisturbed_one(two_workers: list, stage: int) -> None:
    undisturbed = two_workers[0][f"zero{stage}-replicate"]["losses"]
    assert len(undisturbed) == 10
    assert two_workers[0][f"resumed-{stage}"]["losses"] == pytest.approx(undisturbed[4:], rel=1e-6)


@pytest.mark.parametrize("stage", SHRUNK_STAGES)
def test_one_worker_continues_at_another_stage_what_two_workers_saved(
    one_worker: dict, two_workers: list, stage: int
) -> None:
    undisturbed = two_workers[0][f"zero{stage}-replicate"]["losses"]
    assert one_worker[f"shrunk-{stage}"]["losses"] == pytest.approx(undisturbed[4:], rel=1e-5)


def test_a_half_precision_training_resumes_with_its_float32_weights(two_workers: list) -> None:
    undisturbed = two_workers[0]["half"]["losses"][4:]
    assert two_workers[0]["resumed-half-2"]["losses"] == pytest.approx(undisturbed, rel=1e-6)
    # Stages round gradients at different places.
    assert two_workers[0]["resumed-half-0"]["losses"] == pytest.approx(undisturbed, rel=5e-4)


def test_half_precision_without_sharding_differs_by_rounding_alone(two_workers: list) -> None:
    # As much as other micro-batches do; an optimizer that counts one step too many differs by 0.02.
    assert two_workers[0]["half-0"]["losses"] == pytest.approx(two_workers[0]["half"]["losses"], rel=5e-4)


@pytest.mark.parametrize("setting", RESUMED_HALF)
def test_a_student_trained_in_half_precision_is_written_in_float32(two_workers: list, setting: str) -> None:
    assert not two_workers[0][setting]["is_rounded"]


def test_a_full_disk_of_one_rank_is_told_to_all(two_workers: list) -> None:
    assert [seen["agreement"] for seen in two_workers] == ["folder: No space left on device; make room"] * 2
