"""Tables over tasks and figures against a key of a matrix, as the report stage writes them."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raydistill.config.sections import ScalingConfig
from raydistill.stages import report
from raydistill.stages._base import Run, StageContext
from toys.evaluated import evaluated as forecast
from toys.reported import AGAINST, EARLIER, KEY, page_of, report_context, stage
from toys.tracker import MemoryTracker


@pytest.fixture
def context(tmp_path: Path) -> StageContext:
    return report_context(tmp_path)


TASK_TABLE = {
    "columns": {
        "CoLA": {"evaluation": "cola", "metric": "matthews"},
        "QQP": {"evaluation": "qqp", "metric": ["accuracy", "f1"]},
    }
}


def of_task(name: str, *, notes: list[str], **scores: dict[int, float]) -> Run:
    """A finished evaluation of a student's seeds and of a teacher."""
    teacher = {metric: max(values.values()) for metric, values in scores.items()}
    entries = [
        {
            "model": "student",
            "assignment": {"seed": seed},
            "figures": {metric: values[seed] for metric, values in scores.items()},
            "reference": f"student_{name}",
        }
        for seed in (1, 2)
    ]
    entries.append({"model": "teacher", "assignment": {}, "figures": teacher, "reference": f"teacher_{name}"})
    return Run(name, {}, Path(name), {"entries": entries, "notes": notes})


def with_tasks(context: StageContext) -> StageContext:
    slow = ["Latencies are those of a slow machine."]
    runs = {
        "cola": [of_task("cola", notes=slow, matthews={1: 0.4, 2: 0.5})],
        "qqp": [of_task("qqp", notes=slow, accuracy={1: 0.8, 2: 0.8}, f1={1: 0.6, 2: 0.7})],
    }
    metrics = {"cola": ["matthews"], "qqp": ["accuracy", "f1"]}
    facts = {name: forecast([], {"loss": False, **dict.fromkeys(one, True)}) for name, one in metrics.items()}
    return replace(context, runs={**context.runs, **runs}, facts={**context.facts, **facts})


def test_a_table_over_tasks_has_the_average_first_and_a_column_a_task(context: StageContext) -> None:
    files = set(stage(evaluations=["qqp"], trainings=[], task_table=TASK_TABLE).run(with_tasks(context))["files"])
    assert files >= {"task_table.md", "task_table.csv", "task_table-runs.csv", "qqp.csv"}
    assert (context.output / "task_table.md").read_text().splitlines() == [
        "| model | n | average | CoLA | QQP |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| student | 2 | 58.75 ± 5.30 | 45.00 ± 7.07 | 72.50 ± 3.54 |",
        "| teacher | 1 | 62.50 | 50.00 | 75.00 |",
    ]
    page = page_of(context)
    assert page.captions == ["task_table", "qqp"]
    assert [cell.strip() for cell in page.tables[0][0]] == ["model", "n", "average", "CoLA", "QQP"]
    assert "In hundredths: CoLA (matthews), QQP (accuracy and f1), of several metrics their mean;" in page.text
    # Said of the evaluation's own table alone.
    assert page.text.count("Latencies are those of a slow machine.") == 1


def test_a_column_shows_the_first_score_of_its_evaluation_by_default(context: StageContext) -> None:
    columns = {"CoLA": {"evaluation": "cola"}, "QQP": {"evaluation": "qqp"}}
    stage(evaluations=[], trainings=[], task_table={"columns": columns}).run(with_tasks(context))
    text = (context.output / "task_table.md").read_text()
    assert "| student | 2 | 62.50 ± 3.54 | 45.00 ± 7.07 | 80.00 ± 0.00 |" in text.splitlines()
    assert "In hundredths: CoLA (matthews), QQP (accuracy);" in page_of(context).text


def test_a_table_over_tasks_may_be_all_of_a_report(context: StageContext) -> None:
    averaged = {**TASK_TABLE, "average": ["QQP"]}
    summary = stage(evaluations=[], trainings=[], task_table=averaged).run(with_tasks(context))
    assert summary["files"] == ["report.html", "task_table.md", "task_table.csv", "task_table-runs.csv"]
    assert ["teacher", "1", "75.00", "50.00", "75.00"] in page_of(context).tables[0]
    assert "Verdict The tables below compare the models." in page_of(context).text


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"A": {"evaluation": "corpus", "metric": "f1"}},
            r"columns\.A\.evaluation is 'corpus'; name an earlier",
        ),
        (
            {"A": {"evaluation": "evaluate", "metric": "f1"}},
            r"columns\.A\.metric is 'f1'; choices: accuracy$",
        ),
        ({"A": {"evaluation": "evaluate", "metric": "loss"}}, r"metric is 'loss'; choices: accuracy$"),
    ],
)
def test_a_column_without_its_task_or_score_is_refused_before_the_run(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stage(task_table={"columns": columns}).plan(ScalingConfig(), EARLIER)


def test_an_average_over_what_is_no_column_is_refused() -> None:
    with pytest.raises(ValueError, match="average has 'RTE'; columns: CoLA, QQP"):
        stage(task_table={**TASK_TABLE, "average": ["RTE"]})
    with pytest.raises(ValueError, match="columns has 'average', which the table adds itself"):
        stage(task_table={"columns": {"average": TASK_TABLE["columns"]["CoLA"]}})


def test_a_figure_against_a_key_of_a_matrix_is_a_table_and_a_chart(context: StageContext) -> None:
    summary = stage(plot_against=AGAINST).run(context)
    stem = "evaluate-loss-against-learning_rate"
    assert f"{stem}.md" in summary["files"]
    assert isinstance(context.tracker, MemoryTracker)
    tracked = {Path(path).name for path in context.tracker.runs[KEY].artifacts}
    assert f"{stem}.md" in tracked
    lines = (context.output / f"{stem}.md").read_text().splitlines()
    assert lines == ["| learning_rate | alone |", "| --- | ---: |", "| 0.1 | 6.5000 |", "| 0.2 | 6.5000 |"]
    page = page_of(context)
    assert page.captions[1] == "validation loss against learning_rate"
    assert page.tables[1][1:] == [["0.1", "6.5000"], ["0.2", "6.5000"]]


def test_a_figure_against_a_key_is_the_tasks_own_metric_by_default(context: StageContext) -> None:
    chosen = stage(plot_against={"key": "optimizer.learning_rate"})
    assert chosen.plan(ScalingConfig(), EARLIER).lines
    assert "evaluate-loss-against-learning_rate.md" in chosen.run(context)["files"]


def test_models_without_the_key_are_level_lines_beside_it(
    context: StageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[str, float] = {}
    draw = report.charts.against

    def spy(against: Any, levels: Any) -> Any:
        found.update({level.label: level.value.mean for level in levels})
        return draw(against, levels)

    monkeypatch.setattr(report.charts, "against", spy)
    stage(plot_against=AGAINST).run(context)
    assert found == {"teacher": 4.5, "student": 5.75, "student before": 9.0}


def test_a_key_without_numbers_or_rows_ends_a_report_with_one_line(context: StageContext) -> None:
    with pytest.raises(ValueError, match=r"against\.key is 'sparsity', which no row with loss has; keys: optimizer"):
        stage(plot_against={**AGAINST, "key": "sparsity"}).run(context)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"plot_against": [AGAINST, AGAINST]},
            "plot_against.1 is loss against optimizer.learning_rate again; leave it out",
        ),
        (
            {"plot_against": {**AGAINST, "evaluation": "other"}},
            "plot_against.0.evaluation is 'other'; evaluations: evaluate",
        ),
        ({"evaluations": [], "plot_against": AGAINST}, "plot_against.0.evaluation is None; evaluations: none"),
        (
            {"plot_against": {**AGAINST, "models": ["x"]}},
            "plot_against.0.models has 'x'; models of evaluate: teacher, student, student before, alone",
        ),
    ],
)
def test_a_figure_against_a_key_that_does_not_fit_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        stage(**config).plan(ScalingConfig(), EARLIER)
