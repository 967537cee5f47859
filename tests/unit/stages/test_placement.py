"""Where the teachers of a training lie, as its preflight says it."""

from pathlib import Path
from typing import Any

import pytest

from raydistill import cluster
from raydistill.config.sections import ScalingConfig
from raydistill.models.classes import with_classes
from raydistill.stages import _teacher_plan, _training_plan
from raydistill.stages._base import CorpusFacts, Input, ModelFacts
from raydistill.stages.train import Config
from toys.capture import train_stage
from toys.classifiers import CLASSES
from toys.models import toy_bert

GIB = 2**30
STUDENT = with_classes(toy_bert(2).config, CLASSES)
TEACHERS = {name: with_classes(toy_bert(depth).config, CLASSES) for name, depth in {"small": 3, "large": 5}.items()}


def config_of(*placements: str, **changes: Any) -> Config:
    teachers = [
        {"checkpoint": name, "placement": placement}
        for name, placement in zip(TEACHERS, placements or ("auto",) * 2, strict=True)
    ]
    plain = {"corpus": "corpus", "method": "dynamic_teacher", "teacher_outputs": "live"}
    return train_stage(Path(), **{**plain, "teachers": teachers, **changes}).config


def limit_for(config: Config, *, num_workers: int = 1, of_teachers: Any = sum) -> float:
    """GiB that hold the student and a part of the teachers, and hardly more."""
    demand = _teacher_plan.demand_of(config, ScalingConfig(num_workers=num_workers), [STUDENT, *TEACHERS.values()])
    return (demand.student + of_teachers(demand.teachers) + 1) / GIB


def lines(config: Config, **scaling: Any) -> list[str]:
    corpus = CorpusFacts("classification", 61, 40, rows=90, tokens=2000, labels=CLASSES, validation_rows=20)
    earlier = {
        "corpus": Input(corpus),
        **{name: Input(ModelFacts({"": one})) for name, one in TEACHERS.items()},
    }
    return _training_plan.plan_training(config, ScalingConfig(**scaling), earlier).lines


def placed(found: list[str]) -> list[str]:
    return [line.rpartition(" ")[2] for line in found if line.startswith("teacher ") and "parameters" in line]


def test_small_teachers_are_replicated_and_the_preflight_says_why() -> None:
    found = lines(config_of())
    assert placed(found) == ["replicate", "replicate"]
    [line] = [line for line in found if line.startswith("placement: ")]
    assert line.startswith("placement: replicate, because with the student they take 0.00 GiB of ")


@pytest.mark.parametrize(
    ("num_workers", "of_teachers", "placements"),
    [
        (1, sum, ["replicate", "replicate"]),
        (1, max, ["sequential", "sequential"]),
        (2, lambda sizes: sizes[0] + sizes[1] / 2, ["replicate", "zero3"]),
        (2, lambda sizes: sum(sizes) / 2, ["zero3", "zero3"]),
    ],
)
def test_a_limit_of_memory_decides(num_workers: int, of_teachers: Any, placements: list[str]) -> None:
    config = config_of()
    limit = limit_for(config, num_workers=num_workers, of_teachers=of_teachers)
    assert placed(lines(config, memory_per_worker=limit, num_workers=num_workers)) == placements


def test_teachers_that_are_too_large_beside_the_student_are_captured_though_few_rows_are_read() -> None:
    config = config_of(teacher_outputs="auto", training={"max_steps": 1})
    assert _teacher_plan.choose(config, _teacher_plan.Rows(90, 90)).source == "live"
    assert placed(lines(config)) == ["replicate", "replicate"]
    found = lines(config, memory_per_worker=limit_for(config, of_teachers=max))
    assert "teacher 1 bert is not run: its outputs are stored first" in found
    assert any(line.startswith("teacher outputs: stored, because replicated, with the student, they") for line in found)


def test_what_the_user_asks_for_is_kept_whatever_there_is_room_for() -> None:
    assert placed(lines(config_of("sequential", "replicate"))) == ["sequential", "replicate"]
    assert placed(lines(config_of("zero3", "auto"))) == ["zero3", "replicate"]
    found = lines(config_of("captured", "auto", teacher_outputs="auto", training={"max_steps": 1}))
    assert "teacher outputs: stored, because teachers.0.placement is 'captured'" in found


@pytest.mark.parametrize(
    ("changes", "scaling", "message"),
    [
        ({}, {"memory_per_worker": 1e-6}, r"memory_per_worker is 1e-06, but student and teachers take 0\.00 GiB even"),
        (
            {"placements": ("auto", "captured")},
            {},
            r"teachers\.1\.placement is 'captured', but teacher_outputs is 'liv",
        ),
        (
            {"placements": ("captured", "zero3"), "teacher_outputs": "auto"},
            {},
            r"teachers\.0\.placement is 'captured', but teachers\.1\.placement is 'zero3'; leave placement out",
        ),
        (
            {"placements": ("zero3", "auto"), "teacher_outputs": "stored"},
            {},
            r"teacher_outputs is 'stored', but teachers\.0\.placement is 'zero3'; leave placement out",
        ),
    ],
)
def test_a_placement_that_cannot_be_is_refused(changes: dict[str, Any], scaling: dict[str, Any], message: str) -> None:
    placements = changes.pop("placements", ("auto", "auto"))
    with pytest.raises(ValueError, match=message) as error:
        lines(config_of(*placements, **changes), **scaling)
    assert "\n" not in str(error.value)


def test_a_method_that_reads_weights_of_its_teacher_has_it_at_hand() -> None:
    teacher = {"checkpoint": "large", "placement": "sequential"}
    config = config_of(method="dynamic_objective", teachers=[teacher])
    with pytest.raises(
        ValueError, match=r"is 'sequential', but method dynamic_objective needs its teachers in memory; w"
    ):
        lines(config)


def test_a_machine_shares_its_memory_among_workers_and_a_cluster_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    whole, half = (cluster.memory_per_worker(ScalingConfig(num_workers=count)) for count in (1, 2))
    assert whole is not None
    assert whole > 2**28
    assert half == whole / 2
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert cluster.memory_per_worker(ScalingConfig()) is None


def test_models_that_workers_share_have_to_fit_the_fewest_of_them() -> None:
    sharing = {"training": {"zero_stage": 3}}
    config = config_of("zero3", "zero3", **sharing)
    held = {
        name: _teacher_plan.demand_of(config, ScalingConfig(**scaling), [STUDENT, *TEACHERS.values()]).student
        for name, scaling in {
            "elastic": {"num_workers": 4, "min_workers": 2},
            "two": {"num_workers": 2},
            "four": {"num_workers": 4},
        }.items()
    }
    assert held["elastic"] == held["two"] > held["four"]
    limit = limit_for(config, num_workers=4, of_teachers=lambda sizes: sum(sizes) / 4)
    lines(config, num_workers=4, memory_per_worker=limit)
    with pytest.raises(ValueError, match="memory_per_worker"):
        lines(config, num_workers=4, min_workers=2, memory_per_worker=limit)


def test_teachers_are_sharded_only_over_as_many_workers_as_there_are_at_least() -> None:
    config = config_of()
    limit = limit_for(config, num_workers=2, of_teachers=lambda sizes: sum(sizes) / 2)
    assert placed(lines(config, num_workers=3, min_workers=2, memory_per_worker=limit)) == ["zero3", "zero3"]
    with pytest.raises(ValueError, match=r"scaling\.memory_per_worker is .* but student and teachers take"):
        lines(config, num_workers=3, min_workers=1, memory_per_worker=limit)
