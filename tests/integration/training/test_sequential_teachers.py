"""Teachers that have their weights one after the other against such that keep them."""

from pathlib import Path
from typing import Any

import pytest

from raydistill.training.history import read_history
from toys.capture import KEY, context_of, save_teacher, train_stage, write_labelled


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Path:
    found = tmp_path_factory.mktemp("sequential")
    write_labelled(found)
    save_teacher(found / "large", seed=4, num_layers=4)
    return found


def trained(folder: Path, placement: str) -> dict[str, Any]:
    teachers = [{"checkpoint": str(folder / name), "placement": placement} for name in ("teacher", "large")]
    method = {"name": "dynamic_teacher", "mode": "soft", "temperature": 1.0}
    stage = train_stage(folder, method=method, teachers=teachers, training={"max_steps": 6})
    context = context_of(stage, folder / placement)
    stage.run(context)
    return {"history": read_history(context.output), "tags": context.tracker.runs[KEY].tags}  # type: ignore[attr-defined]


def test_teachers_in_turn_give_the_losses_of_teachers_side_by_side(folder: Path) -> None:
    side_by_side, in_turn = (trained(folder, placement) for placement in ("replicate", "sequential"))
    assert in_turn["tags"]["placement"] == "sequential, because placement says so"
    for metric, count in {"train/loss": 6, "train/teacher_1_kd": 6, "validation/teacher_0_kd": 3}.items():
        losses = [[line[metric] for line in one["history"] if metric in line] for one in (side_by_side, in_turn)]
        assert len(losses[0]) == count
        # The addresses of mapped weights are aligned otherwise, which changes what is added first.
        assert losses[1] == pytest.approx(losses[0], abs=1e-6, rel=1e-6)
