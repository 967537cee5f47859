"""Every kind of model is loaded, trained and resumed alike at every ZeRO stage, by one rank and by two."""

import json
import os
import subprocess
import sys
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from integration.training.sharding_ranks import run_plan
from toys.shardable import CASES, STUDENTS, TEACHERS, write_corpora, write_large

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

REFERENCE = {"stage": 0}
BY_TWO = {
    "3": {"stage": 3, "stop": 1, "save": "two-3"},
    "3 to 0": {"stage": 0, "load": "two-3", "stop": 2, "save": "two-0"},
    "0 to 1": {"stage": 1, "load": "two-0", "stop": 3, "save": "two-1"},
    "1 to 2": {"stage": 2, "load": "two-1"},
}
"""A training of every student that changes its stage after each step, and so loads its models at each."""
BY_ONE = {
    "reference": REFERENCE,
    "3": {"stage": 3, "stop": 1, "save": "one-3"},
    "3 to 2": {"stage": 2, "load": "one-3", "stop": 2, "save": "one-2"},
    "2 to 1": {"stage": 1, "load": "one-2"},
}
TAUGHT_BY_ONE = {"reference": REFERENCE, "sharded": {"stage": 2, "placement": "zero3"}}
TAUGHT_BY_TWO = {"whole": {"stage": 0}, "sharded": {"stage": 3, "placement": "zero3"}}
EVERY_PAIR, ADAPTED = "sinusoidal vocabulary", "adapters"
SAVING = {f"from {stage}": {"stage": stage, "stop": 2, "save": f"from-{stage}"} for stage in range(4)}
PAIRS = {
    f"from {first} to {second}": {"stage": second, "load": f"from-{first}", "stop": 3}
    for first, second in permutations(range(4), 2)
}
"""What two ranks save at a stage, continued by one rank at another."""


def plan_of(
    students: dict[str, Any], teachers: dict[str, Any], more: dict[str, Any], *, written: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Settings of every case: ``more`` of one of them, ``written`` of those whose students are opened."""
    plan = {**dict.fromkeys(STUDENTS, students), **dict.fromkeys(TEACHERS, teachers)}
    return plan | {EVERY_PAIR: {**students, **more, **written}, ADAPTED: {**students, **written}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("sharding")
    write_corpora(found / "corpora")
    write_large(found / "large")
    for name, case in CASES.items():
        case.write(found / name)
    return found


@pytest.fixture(scope="module")
def two_ranks(folder: Path) -> list[dict[str, Any]]:
    """What each of two processes saw."""
    whole = {"stage": 3, "student": "student-3"}
    plan = plan_of(BY_TWO, TAUGHT_BY_TWO, SAVING, written={"whole": whole})
    (folder / "plan.json").write_text(json.dumps(plan))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    module = "integration.training.sharding_ranks"
    started = [
        subprocess.Popen([sys.executable, "-W", "ignore", "-m", module, folder, str(rank), "2"], env=environment)
        for rank in range(2)
    ]
    try:
        assert [process.wait(timeout=500) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
    return [json.loads((folder / f"seen-{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def alone(folder: Path, one_rank: None, two_ranks: list[dict[str, Any]]) -> dict[str, Any]:
    """What one rank saw, which continues what the two have saved."""
    reference = REFERENCE | {"student": "student-0"}
    plan = plan_of(BY_ONE, TAUGHT_BY_ONE, PAIRS, written={"reference": reference})
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return run_plan(folder, plan)
    finally:
        torch.set_num_threads(num_threads)


@pytest.mark.parametrize("name", CASES)
def test_models_are_loaded_to_the_same_bits_at_every_stage(alone: dict, two_ranks: list, name: str) -> None:
    expected = alone[name]["reference"]["loaded"]
    for seen in (alone, *two_ranks):
        assert {key: one["loaded"] for key, one in seen[name].items()} == dict.fromkeys(seen[name], expected)


@pytest.mark.parametrize("name", CASES)
def test_losses_are_those_of_one_rank_at_stage_0_however_often_the_stage_changes(
    alone: dict, two_ranks: list, name: str
) -> None:
    expected = alone[name]["reference"]["losses"]
    assert max(expected) - min(expected) > 0.01
    for seen in (alone, *two_ranks):
        for key, one in seen[name].items():
            part = expected[one["start"] : one["start"] + len(one["losses"])]
            assert one["losses"] == pytest.approx(part, rel=1e-5), key


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_gradient_checkpointing_changes_no_loss(alone: dict, name: str) -> None:
    checkpointed, plain = (alone[f"{name} {kind}"]["reference"]["losses"] for kind in ("checkpointed", "vocabulary"))
    assert checkpointed == plain


@pytest.mark.parametrize("pair", PAIRS)
def test_one_rank_continues_at_any_stage_what_two_saved_at_any_other(alone: dict, pair: str) -> None:
    expected = alone[EVERY_PAIR]["reference"]["losses"]
    seen = alone[EVERY_PAIR][pair]
    assert (seen["start"], len(seen["losses"])) == (2, 1)
    assert seen["losses"] == pytest.approx(expected[2:3], rel=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_each_of_two_ranks_holds_half_of_what_is_sharded(alone: dict, two_ranks: list, name: str) -> None:
    key = "3" if name in STUDENTS else "sharded"
    whole = alone[name]["reference"]["held"]
    for seen in two_ranks:
        # Shares are padded to equal sizes, a few elements for each parameter.
        assert seen[name][key]["held"] == pytest.approx([numel / 2 for numel in whole], rel=0.02)


def test_a_rank_never_holds_the_whole_of_a_sharded_model(two_ranks: list) -> None:
    for seen in two_ranks:
        memory = seen["memory"]
        assert memory["loaded"] < 0.1 * memory["whole"]
        assert 0.5 * memory["whole"] < memory["shared"] < 0.65 * memory["whole"]


@pytest.mark.parametrize(("name", "auto"), [(EVERY_PAIR, AutoModelForMaskedLM), (ADAPTED, AutoModelForCausalLM)])
def test_a_student_that_two_ranks_sharded_opens_in_plain_transformers(
    alone: dict, folder: Path, name: str, auto: Any
) -> None:
    sharded, whole = (
        auto.from_pretrained(folder / name / f"student-{stage}", output_loading_info=True) for stage in (3, 0)
    )
    assert not any(sharded[1].values())
    expected = whole[0].state_dict()
    assert sharded[0].state_dict().keys() == expected.keys()
    for key, tensor in sharded[0].state_dict().items():
        torch.testing.assert_close(tensor, expected[key], rtol=0, atol=1e-4)
