"""Which exports may be registered with a student, and what a plan says of them."""

from dataclasses import replace
from typing import Any

import pytest

from raydistill.config.sections import ScalingConfig
from raydistill.stages._base import Decisions, Input, Inputs, ModelFacts
from raydistill.stages.register import Config, Stage
from toys.evaluated import evaluated, seeds


def exports(seeds: tuple[int, ...], formats: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Runs of a stage that exports ``distill`` in each format."""
    keys = [{"seed": seed, "format": to} for seed in seeds for to in formats]
    return {f"exported[seed={one['seed']},format={one['format']}]": one for one in keys}


EARLIER = {
    "distill": Input(ModelFacts({"": object()}), runs=seeds("distill", 1, 2, 3)),
    "alone": Input(ModelFacts({"": object()}), runs={"alone": {}}),
    "evaluate": Input(
        evaluated([("student", "distill", {"seed": seed}) for seed in (1, 2, 3)], {"loss": False}),
        runs={"evaluate": {}},
    ),
}
EXPORTED = Input(ModelFacts({}, exported_from="distill"), runs=exports((1, 2, 3), ("onnx", "onnx-int8")))


def planned(inputs: Inputs, **options: Any) -> Decisions:
    given = {"kind": "register", "model": "distill", "name": "s", **options}
    if given["model"] == "distill":
        given["evaluation"] = "evaluate"
    return Stage("register", Config.model_validate(given)).plan(ScalingConfig(), inputs)


@pytest.mark.parametrize(
    ("options", "runs", "message"),
    [
        ({"exports": "other"}, None, "exports is 'other', which exports no model; name an export stage"),
        (
            {"model": "alone", "exports": "exported"},
            None,
            "exports is 'exported', which exports 'distill' and not 'alone'; name a stage that exports what is",
        ),
        (
            {"exports": "exported"},
            exports((1, 2), ("onnx",)),
            r"exports is 'exported', which has none of distill\[seed=3\]; name the whole stage",
        ),
        (
            {"exports": "exported"},
            {name: {**keys, "format": "onnx"} for name, keys in EXPORTED.runs.items()},
            r"exports is 'exported', which has several of one format of distill\[seed=1\]; name one of its runs",
        ),
        ({"model": "exported"}, None, "model is 'exported', an export; write model: distill and exports: exported"),
    ],
)
def test_exports_that_do_not_go_with_the_student_are_refused_before_the_run(
    options: dict[str, Any], runs: Any, message: str
) -> None:
    found = EXPORTED if runs is None else replace(EXPORTED, runs=runs)
    with pytest.raises(ValueError, match=f"^{message}"):
        planned({**EARLIER, "exported": found}, **options)


def test_a_plan_tells_that_exports_are_kept() -> None:
    told = planned({**EARLIER, "exported": EXPORTED}, exports="exported")
    assert told.lines == ["registers 's' with alias 'candidate', and the exports of exported with it"]


def test_an_export_of_one_run_goes_with_that_run_and_no_other() -> None:
    one = Input(ModelFacts({}, exported_from="distill[seed=1]"), runs={"exported": {}})
    first = {"distill[seed=1]": Input(ModelFacts({"": object()}), runs=seeds("distill", 1))}
    planned({**EARLIER, **first, "exported": one}, model="distill[seed=1]", exports="exported")
    with pytest.raises(ValueError, match=r"^exports is 'exported', which has none of distill\[seed=2\]"):
        planned({**EARLIER, "exported": one}, exports="exported")
