"""The choice of one run of several from an evaluation that is written by hand; no cluster is needed."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raydistill.config.sections import ScalingConfig
from raydistill.stages import choose
from raydistill.stages._base import Input, ModelFacts, Run, StageContext
from toys.evaluated import evaluated, seeds
from toys.tracker import MemoryTracker

KEY = "toy/best"
FIGURES = {(0, 1): 0.70, (0, 2): 0.72, (50, 1): 0.80, (50, 2): 0.66, (90, 1): 0.71, (90, 2): 0.77}
"""Accuracy by sparsity and seed: the best run is of 50, the best mean that of 90."""
MODEL = object()
RUNS = {f"rewound[sparsity={sparsity},seed={seed}]": {"sparsity": sparsity, "seed": seed} for sparsity, seed in FIGURES}
EVALUATED = evaluated(
    [*(("rewound", "rewound", keys) for keys in RUNS.values()), ("teacher", "teacher", {})],
    {"accuracy": True, "loss": False},
)
EARLIER = {
    "rewound": Input(ModelFacts({"": MODEL, "@initial": MODEL}, "t"), runs=RUNS),
    "teacher": Input(ModelFacts({"": MODEL}), runs={"teacher": {}}),
    "other": Input(ModelFacts({"": MODEL}), runs={"other": {}}),
    "evaluate": Input(EVALUATED),
}


def stage(**changes: Any) -> choose.Stage:
    config = {
        "kind": "choose",
        "model": "rewound",
        "evaluation": "evaluate",
        **changes,
    }
    return choose.Stage("best", choose.Config.model_validate(config))


@pytest.fixture
def context(tmp_path: Path) -> StageContext:
    runs = []
    entries = []
    for (sparsity, seed), accuracy in FIGURES.items():
        assignment = {"sparsity": sparsity, "seed": seed}
        name = f"rewound[sparsity={sparsity},seed={seed}]"
        (tmp_path / name / "student").mkdir(parents=True)
        (tmp_path / name / "student" / "config.json").write_text(f'{{"of": "{name}"}}')
        runs.append(Run(name, assignment, tmp_path / name, {"lineage": {"method": "kd", "teacher": "sparse"}}))
        figures = {"accuracy": accuracy, "loss": 1 - accuracy}
        entries.append({"model": "rewound", "reference": "rewound", "assignment": assignment, "figures": figures})
    tracker = MemoryTracker()
    tracker.start_run(KEY)
    output = tmp_path / "best"
    output.mkdir()
    summary = {"entries": entries}
    found = {"rewound": runs, "evaluate": [Run("evaluate", {}, tmp_path / "evaluate", summary)]}
    return StageContext("toy", 0, ScalingConfig(), output, found, tracker, KEY, facts={"evaluate": EVALUATED})


def test_the_best_mean_over_seeds_wins_and_of_its_runs_the_best(context: StageContext) -> None:
    summary = stage().run(context)
    assert summary["chosen"] == "rewound[sparsity=90,seed=2]"
    assert summary["value"] == 0.77
    assert summary["assignment"] == {"sparsity": 90, "seed": 2}
    assert summary["lineage"] == {
        "method": "kd",
        "teacher": "sparse",
        "chosen": "rewound[sparsity=90,seed=2]",
        "chosen_by": "accuracy of evaluate",
    }


def test_the_student_is_that_runs_own(context: StageContext) -> None:
    stage().run(context)
    text = (context.output / "student" / "config.json").read_text()
    assert text == '{"of": "rewound[sparsity=90,seed=2]"}'
    chosen = context.output.parent / "rewound[sparsity=90,seed=2]" / "student"
    assert (context.output / "student" / "config.json").samefile(chosen / "config.json")
    # Again after an interruption.
    stage().run(context)
    assert [path.name for path in context.output.iterdir() if path.is_dir()] == ["student"]


def test_of_losses_the_lowest_is_the_best(context: StageContext) -> None:
    by_loss = stage(metric="loss").run(context)
    assert by_loss["chosen"] == "rewound[sparsity=90,seed=2]"


def test_runs_are_compared_by_the_tasks_own_metric_which_the_loss_is_not(context: StageContext) -> None:
    assert stage().config.metric is None
    assert stage().run(context)["value"] == stage(metric="accuracy", greater_is_better=True).run(context)["value"]
    by_loss = stage(metric="loss").run(context)
    assert (by_loss["chosen"], by_loss["value"]) == ("rewound[sparsity=90,seed=2]", 1 - 0.77)


def test_of_equal_groups_the_first_is_chosen(context: StageContext) -> None:
    for entry in context.runs["evaluate"][0].summary["entries"]:
        entry["figures"]["accuracy"] = 0.5
    assert stage().run(context)["chosen"] == "rewound[sparsity=0,seed=1]"


def test_the_figures_of_all_go_to_the_tracker_as_a_table(context: StageContext) -> None:
    stage().run(context)
    lines = (context.output / "choice.md").read_text().splitlines()
    assert lines[2:] == [
        "| rewound (sparsity=0) | 71.0% ± 1.4% |  |",
        "| rewound (sparsity=50) | 73.0% ± 9.9% |  |",
        "| rewound (sparsity=90) | 74.0% ± 4.2% | chosen |",
    ]
    assert isinstance(context.tracker, MemoryTracker)
    run = context.tracker.runs[KEY]
    assert [Path(path).name for path in run.artifacts] == ["choice.md"]
    assert run.metrics["accuracy"] == [(0, 0.77)]
    assert run.tags["chosen"] == "rewound[sparsity=90,seed=2]"


def test_a_run_that_was_not_evaluated_is_refused(context: StageContext) -> None:
    del context.runs["evaluate"][0].summary["entries"][3]
    with pytest.raises(ValueError, match=r"has no accuracy of rewound\[sparsity=50,seed=2\]; add rewound to its"):
        stage().run(context)


def test_the_forecast_is_the_students_model_and_what_it_is_chosen_among() -> None:
    forecast = stage().plan(ScalingConfig(), EARLIER)
    assert forecast.makes == ModelFacts({"": MODEL}, "t", choices=tuple(RUNS.values()))
    assert forecast.lines == ["chooses one of 6 runs of rewound by accuracy"]
    alone = stage(model="teacher").plan(ScalingConfig(), EARLIER)
    assert alone.lines == ["chooses the only run of teacher by accuracy"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "corpus"}, "model is 'corpus'; name an earlier training stage"),
        ({"model": "evaluate"}, "model is 'evaluate'; name an earlier training stage"),
        ({"model": "rewound@initial"}, "model is 'rewound@initial'; name an earlier training stage"),
        ({"evaluation": "teacher"}, "evaluation is 'teacher'; name an earlier evaluation stage"),
        ({"metric": "f1"}, "metric is 'f1'; Choices: accuracy, loss, parameters, size_mb, latency_ms"),
        ({"metric": "acuracy"}, "metric is 'acuracy'; did you mean 'accuracy'?"),
        ({"metric": "rows"}, "metric is 'rows', for which neither more nor less is better; set greater_is_better"),
        ({"greater_is_better": False}, "greater_is_better is False, but the best accuracy is the greatest; leave"),
        ({"model": "other"}, "evaluation is 'evaluate', which has no accuracy of other; add other to its models"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_job(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        stage(**changes).plan(ScalingConfig(), EARLIER)


def test_an_evaluation_of_several_runs_is_refused() -> None:
    several = {**EARLIER, "evaluate": replace(EARLIER["evaluate"], runs=seeds("evaluate", 1, 2, 3))}
    with pytest.raises(ValueError, match="evaluation is 'evaluate', which has 3 runs; name one of them"):
        stage().plan(ScalingConfig(), several)
