"""Which figures let a version be promoted."""

import json
import math

import pytest

from raydistill.registry.gate import GateConfig, figures_told, gate_line, gate_tag, unmet
from raydistill.registry.student import FiguresRow, StudentVersion, figures_tag


def version(
    figure: float | None, *, teachers: tuple[float, ...] = (), gate: GateConfig | None = None
) -> StudentVersion:
    rows = [] if figure is None else [FiguresRow("student", "kd", {"accuracy": figure})]
    rows += [FiguresRow("teacher", f"t{one}", {"accuracy": one}) for one in teachers]
    return StudentVersion("s", 2, {**figures_tag(rows), **({} if gate is None else {"gate": gate_tag(gate)})})


def gate(**options: object) -> GateConfig:
    return GateConfig.model_validate({"metric": "accuracy", "greater_is_better": True, **options})


def test_without_a_gate_no_figure_is_asked_for():
    assert unmet(version(None), version(0.9)) == []


def test_the_first_champion_needs_no_other_to_beat():
    assert unmet(version(0.1, gate=gate()), None) == []


@pytest.mark.parametrize(("figure", "passes"), [(0.9, True), (0.91, True), (0.8999, False), (math.nan, False)])
def test_a_version_has_to_be_at_least_as_good_as_the_one_it_replaces(figure, passes):
    assert (unmet(version(figure, gate=gate()), version(0.9)) == []) is passes


def test_of_a_loss_less_is_better():
    less = gate(greater_is_better=False)
    assert unmet(version(0.8, gate=less), version(0.9)) == []
    [line] = unmet(version(0.95, gate=less), version(0.9))
    assert line == "accuracy is 0.95, worse than 0.9 of s version 2, whose place it would take"


def test_a_champion_without_figures_lets_none_pass():
    assert unmet(version(0.9, gate=gate()), version(None)) == [
        "accuracy of s version 2, whose place it would take, is not known"
    ]
    assert unmet(version(0.9, gate=gate(at_least_champion=False)), version(None)) == []


def test_the_best_teacher_is_the_one_to_be_near_to():
    near = gate(within_of_teacher=0.02)
    # 0.92 - 0.9 is more than 0.02 in binary.
    assert unmet(version(0.9, teachers=(0.5, 0.92), gate=near), None) == []
    [line] = unmet(version(0.9, teachers=(0.5, 0.93), gate=near), None)
    assert line == "accuracy is 0.9, worse than 0.93 of t0.93, its teacher, by more than 0.02"


def test_the_figures_that_a_version_is_judged_by_are_told_and_a_baseline_that_is_better():
    rows = [
        FiguresRow("student", "kd", {"accuracy": 0.9}),
        FiguresRow("teacher", "large", {"accuracy": 0.95}),
        FiguresRow("baseline", "alone", {"accuracy": 0.91}),
    ]
    judged = StudentVersion("s", 3, {**figures_tag(rows), "gate": gate_tag(gate())})
    assert figures_told(judged, version(0.89)) == [
        "accuracy is 0.9, beside 0.95 of large, its teacher, 0.91 of alone, its baseline, 0.89 of s version 2",
        "its baseline alone, at 0.91, is better: distillation gained nothing here",
    ]
    assert (
        len(
            figures_told(StudentVersion("s", 3, {**judged.tags, "gate": gate_tag(gate(greater_is_better=False))}), None)
        )
        == 1
    )
    assert figures_told(version(None, gate=gate()), None) == []
    assert figures_told(version(0.9), None) == []


def test_what_is_not_known_is_told_and_not_passed():
    assert unmet(version(None, gate=gate()), None) == [
        "accuracy of s version 2 is not known; register it with evaluation"
    ]
    [line] = unmet(version(0.9, gate=gate(within_of_teacher=0.02)), None)
    assert line.startswith("accuracy of its teacher is not known")


def test_a_gate_is_told_in_one_line():
    assert gate_line(json.loads(gate_tag(gate(within_of_teacher=0.02)))) == (
        "accuracy (greater is better) at least the champion's and within 0.02 of the teacher's"
    )


def test_tags_of_the_same_names_that_somebody_else_set_are_no_gate_and_no_figures():
    foreign = StudentVersion("s", 1, {"gate": "the north one", "figures": "3", "compared_by": "eye"})
    assert (foreign.gate, foreign.rows, foreign.compared_by) == (None, [], None)
