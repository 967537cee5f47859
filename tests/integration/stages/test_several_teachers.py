"""Trainings from two teachers in this machine's one process, live and from what a capture stored of all ids."""

import multiprocessing
from pathlib import Path

import pytest

from raydistill.data.stored_outputs import TEACHER_ROWS
from toys.capture import write_sets
from toys.several_teachers import captured, trained_here, write_two

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def histories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, float]]]:
    folder: Path = tmp_path_factory.mktemp("several")
    write_two(folder)
    write_sets(folder, folder / "capture", **captured(folder))
    # A process of their own: its process group lasts as long as it does.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(trained_here, (folder,))


def values(history: list[dict[str, float]], metric: str) -> list[float]:
    return [line[metric] for line in history if metric in line]


@pytest.mark.parametrize(("kind", "asked"), [("mixed", 2), ("own", 1)])
def test_stored_ids_of_several_teachers_teach_what_the_teachers_teach(
    histories: dict[str, list[dict[str, float]]], kind: str, asked: int
) -> None:
    live, stored = histories[f"{kind}, live"], histories[f"{kind}, stored"]
    # 180 rows of an epoch, and 40 validation rows before and after it. Some batches have no row of a teacher.
    rows = values(live, TEACHER_ROWS)[-1]
    assert asked * (180 + 2 * 40) <= rows <= asked * (180 + 2 * 40) + (0 if kind == "mixed" else 20)
    assert set(values(stored, TEACHER_ROWS)) == {0}
    for metric, count in {"train/loss": 6, "train/kd": 6, "validation/kd": 2}.items():
        assert len(values(live, metric)) == count
        assert values(stored, metric) == pytest.approx(values(live, metric), rel=2e-3)
    before, after = values(live, "validation/kd")
    assert after < 0.95 * before


def test_a_mixture_is_another_teacher_than_one_of_each_corpus(histories: dict[str, list[dict[str, float]]]) -> None:
    first, second = (values(histories[f"{kind}, live"], "validation/kd")[0] for kind in ("mixed", "own"))
    assert abs(first - second) > 0.01 * first
