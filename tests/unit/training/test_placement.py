"""Where teachers' weights lie, by sizes, workers and memory."""

from typing import Any

import pytest

from raydistill.training.placement import Demand, Options, TeacherPlacement, held, place

GIB = 2**30
DEMAND = Demand(student=2 * GIB, teachers=(1 * GIB, 6 * GIB, 3 * GIB))
THREE = ("auto",) * 3


def placed(limit: float | None, *, asked: tuple[str, ...] = THREE, **options: Any) -> TeacherPlacement:
    return place(DEMAND, Options(asked=asked, limit=None if limit is None else limit * GIB, **options))


@pytest.mark.parametrize(
    ("limit", "options", "placements"),
    [
        (12, {}, ("replicate",) * 3),
        (12, {"one_at_a_time": True, "can_capture": True, "num_workers": 4}, ("replicate",) * 3),
        (None, {"can_capture": True}, ("replicate",) * 3),
        (11.9, {"one_at_a_time": True, "can_capture": True, "num_workers": 4}, ("captured",) * 3),
        (5.9, {"one_at_a_time": True, "can_capture": True, "num_workers": 4}, ("replicate", "zero3", "zero3")),
        (11.9, {"one_at_a_time": True, "num_workers": 2}, ("replicate", "zero3", "replicate")),
        (8, {"one_at_a_time": True, "num_workers": 2}, ("replicate", "zero3", "zero3")),
        (7, {"one_at_a_time": True, "num_workers": 2}, ("zero3",) * 3),
        (7, {"one_at_a_time": True, "num_workers": 4}, ("replicate", "zero3", "zero3")),
        (11.9, {"one_at_a_time": True}, ("sequential",) * 3),
        (8, {"one_at_a_time": True}, ("sequential",) * 3),
    ],
)
def test_teachers_are_replicated_captured_sharded_or_run_in_turn_in_this_order(
    limit: float | None, options: dict[str, Any], placements: tuple[str, ...]
) -> None:
    assert placed(limit, **options).placements == placements


def test_the_reason_has_the_sizes() -> None:
    assert placed(12).summary == "replicate, because with the student they take 12.00 GiB of 12.00 GiB a worker"
    assert placed(9, one_at_a_time=True).summary == (
        "sequential, because replicated, with the student, they would take 12.00 GiB of 9.00 GiB a worker, so 8.00 GiB"
    )
    assert placed(9, num_workers=2).summary.startswith("replicate, zero3, replicate, because replicated, with the")
    assert placed(9, can_capture=True).why.endswith("and the method reads stored outputs as well")
    assert "scaling.memory_per_worker sets a limit" in placed(None).why


def test_what_the_user_asked_for_is_kept() -> None:
    asked = ("sequential", "replicate", "zero3")
    assert placed(1, asked=asked) == TeacherPlacement(asked, "placement says so")
    assert placed(30, asked=("auto", "zero3", "auto")).placements == ("replicate", "zero3", "replicate")
    mixed = placed(9.9, asked=("auto", "replicate", "auto"), num_workers=2, can_capture=True)
    assert mixed.placements == ("zero3", "replicate", "zero3")
    assert placed(30, asked=asked, is_strict=True) == TeacherPlacement(asked, "placement says so")
    assert placed(30, asked=("auto", "captured", "auto")) == TeacherPlacement(("captured",) * 3, "placement says so")


def test_nothing_fits_a_limit_of_the_users() -> None:
    with pytest.raises(
        ValueError, match=r"memory_per_worker is 7, but student and teachers take 8\.00 GiB even"
    ) as error:
        placed(7, one_at_a_time=True, is_strict=True)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"take 12\.00 GiB even placed as replicate;"):
        placed(7, asked=("replicate",) * 3, is_strict=True)


def test_under_the_machines_own_limit_the_smallest_is_taken() -> None:
    found = placed(7, one_at_a_time=True)
    assert found.placements == ("sequential",) * 3
    assert found.why.endswith("and nothing fits: this takes 8.00 GiB")


def test_a_worker_holds_the_student_and_of_teachers_what_their_placement_says() -> None:
    assert held(DEMAND, ("replicate", "zero3", "replicate"), num_workers=2) == 9 * GIB
    assert held(DEMAND, ("sequential", "sequential", "replicate"), num_workers=2) == 11 * GIB
    assert held(DEMAND, ("captured",) * 3, num_workers=2) == 2 * GIB
