"""The stage's files from runs that are written by hand; no cluster is needed."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from raydistill.config.sections import ScalingConfig
from raydistill.data.mixture import CorpusPart
from raydistill.stages import report
from raydistill.stages._base import Input, ModelFacts, Run, StageContext
from toys.evaluated import evaluated as forecast
from toys.evaluated import seeds
from toys.html_page import HtmlPage
from toys.tracker import MemoryTracker

KEY = "toy/report"
EARLIER = {
    "corpus": Input(),
    "distill": Input(ModelFacts({"": object()}, metrics=("loss", "accuracy")), runs=seeds("distill", 1, 2)),
    "pruned": Input(ModelFacts({"": object()})),
    "evaluate": Input(
        forecast(
            [
                ("teacher", "teacher", {}),
                *(("student", "distill", {"seed": seed}) for seed in (1, 2)),
                *(("student before", "distill@initial", {"seed": seed}) for seed in (1, 2)),
                *(("alone", "alone", {"optimizer.learning_rate": rate}) for rate in (0.1, 0.2)),
            ],
            {"loss": False, "accuracy": True},
        ),
        runs={"evaluate": {}},
    ),
}


def stage(**config: Any) -> report.Stage:
    config = {"evaluations": "evaluate", "trainings": ["distill"], **config}
    return report.Stage("report", report.Config(kind="report", **config))


def trained(folder: Path, seed: int) -> Run:
    output = folder / f"distill-seed{seed}"
    output.mkdir()
    lines = [
        {"step": 0, "validation/loss": 9.5, "eval/loss": 9.0, "eval/accuracy": 0.0},
        {"step": 5, "train/loss": 8.0 + seed, "train/ce": 4.0, "learning_rate": 0.1},
        {"step": 10, "train/loss": 6.0 + seed, "train/ce": 3.0, "learning_rate": 0.0},
        {"step": 10, "validation/loss": 7.5, "eval/loss": 5.0 + seed / 2, "eval/accuracy": 0.1},
    ]
    (output / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    lineage = {"method": "causal", "teacher": "teacher"}
    return Run(f"distill[seed={seed}]", {"seed": seed}, output, {"lineage": lineage})


def evaluated(folder: Path) -> Run:
    def entry(model: str, reference: str, loss: float, **assignment: Any) -> dict[str, Any]:
        figures = {"loss": loss, "accuracy": 0.2, "tokens": 50, "parameters": 1000}
        return {"model": model, "assignment": assignment, "figures": figures, "reference": reference}

    entries = [
        entry("teacher", "teacher", 4.5),
        *(entry("student", "distill", 5.0 + seed / 2, seed=seed) for seed in (1, 2)),
        *(entry("student before", "distill@initial", 9.0, seed=seed) for seed in (1, 2)),
        *(entry("alone", "alone", 6.5, **{"optimizer.learning_rate": rate}) for rate in (0.1, 0.2)),
    ]
    for each in entries[-2:]:
        del each["figures"]["accuracy"]
    return Run("evaluate", {}, folder / "evaluate", {"entries": entries})


@pytest.fixture
def context(tmp_path: Path) -> StageContext:
    tracker = MemoryTracker()
    tracker.start_run(KEY)
    output = tmp_path / "report"
    output.mkdir()
    runs = {"distill": [trained(tmp_path, seed) for seed in (1, 2)], "evaluate": [evaluated(tmp_path)]}
    facts = {"evaluate": EARLIER["evaluate"].facts}
    return StageContext("toy", 0, ScalingConfig(), output, runs, tracker, KEY, facts=facts)


def levels(monkeypatch: pytest.MonkeyPatch, context: StageContext, **config: Any) -> dict[str, float]:
    """Level lines of the metric's chart by label."""
    found: dict[str, float] = {}
    draw = report.charts.metric

    def spy(trainings: Any, metric: str, levels: Any) -> Any:
        found.update({level.label: level.value.mean for level in levels})
        return draw(trainings, metric, levels)

    monkeypatch.setattr(report.charts, "metric", spy)
    stage(**config).run(context)
    return found


def page_of(context: StageContext) -> HtmlPage:
    return HtmlPage((context.output / "report.html").read_text())


def test_page_and_tables_lie_in_the_folder_and_in_the_tracker(context: StageContext) -> None:
    summary = stage().run(context)
    files = {path.name for path in context.output.iterdir()}
    tables = {"evaluate.md", "evaluate.csv", "evaluate-runs.csv"}
    assert files == {"report.html", *tables} == set(summary["files"])
    assert summary["report"] == str(context.output / "report.html")
    assert isinstance(context.tracker, MemoryTracker)
    assert {Path(path).name for path in context.tracker.runs[KEY].artifacts} == files


def test_the_page_shows_rows_over_seeds_and_each_run(context: StageContext) -> None:
    stage().run(context)
    page = page_of(context)
    figures, runs = page.tables
    assert ["student", "2", "5.7500 ± 0.3536", "20.0% ± 0.0%", "1,000"] in figures
    assert ["teacher", "1", "4.5000", "20.0%", "1,000"] in figures
    assert ["distill[seed=2]", "causal", "teacher", "", "10", "6.0000", "../distill-seed2"] in runs
    assert (context.output / "../distill-seed2").exists()
    files = [address for address in page.addresses if not address.startswith(("#", "data:"))]
    assert files == ["evaluate.md", "evaluate.csv", "evaluate-runs.csv"]
    assert all((context.output / file).is_file() for file in files)


def test_the_page_says_what_was_asked_and_what_came_out(context: StageContext) -> None:
    stage().run(context)
    page = page_of(context)
    assert page.titles == ["Verdict", "What was asked", "Figures", "Curves", "Lineage"]
    assert (
        "student has a validation loss 27.8% above that of teacher (5.7500 against 4.5000); "
        "mean of 2 seeds with a spread of 0.3536."
    ) in page.text
    assert "Trained distill: causal, 2 seeds Teacher teacher Compared evaluate: teacher, student," in page.text


def test_a_job_tells_its_description_and_the_command_that_repeats_it(context: StageContext, tmp_path: Path) -> None:
    resolved = tmp_path / "resolved-1.yaml"
    training = {"max_steps": 10, "batch_size": 4}
    stages = {"distill": {"training": training}, "teacher": {"method": {"name": "finetune"}, "training": training}}
    uri = "postgresql://me:secret@host/db"
    resolved.write_text(yaml.safe_dump({"description": "A <b>test</b>", "stages": stages, "uri": uri}))
    stage().run(replace(context, resolved=resolved))
    page = page_of(context)
    assert page.titles[-1] == "Make it again"
    assert "A <b>test</b>" in page.text
    assert f"raydistill run {resolved} storage=NEW_FOLDER" in page.text
    assert "distill: causal, 10 steps, 4 rows a step, 2 seeds" in page.text
    assert "teacher: finetune, 10 steps" in page.text
    assert "version.torch: " in page.text
    assert "secret" not in page.text


def test_classes_taken_for_each_other_and_rows_that_differ_are_shown(
    context: StageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = context.runs["evaluate"]
    said = {"teacher": ["good", "bad"], "student": ["good", "good"]}
    entries = [entry for entry in run.summary["entries"] if entry["model"] in said][:2]
    files = [f"{entry['model']}.parquet" for entry in entries]
    run.output.mkdir()
    for entry, file in zip(entries, files, strict=True):
        answers = said[entry["model"]]
        columns: dict[str, list[Any]] = {"row_id": [0, 1], "label": ["good", "bad"], "prediction": answers}
        columns |= {
            f"probability.{name}": [0.75 if one == name else 0.25 for one in answers] for name in ("bad", "good")
        }
        pq.write_table(pa.table(columns), run.output / file)
    part = {"uri": "corpus", "weight": 1.0, "few_shot": None, "label_subset": [], "seed": 0}
    summary = {"entries": entries, "predictions": files, "rows_of": [part]}
    asked = []

    def texts(parts: Any, rows: Any) -> dict[int, str]:
        asked.append(parts)
        return {row: f"<i>text {row}</i>" for row in rows}

    monkeypatch.setattr(report._report_page, "row_texts", texts)
    stage().run(replace(context, runs={**context.runs, "evaluate": [replace(run, summary=summary)]}))
    page = page_of(context)
    assert "Where they differ" in page.titles
    assert page.captions[1:3] == ["student", "teacher"]
    assert [row[1:] for row in page.tables[1][1:]] == [["0", "1", "0%"], ["0", "1", "100%"]]
    assert "<i>text 1</i> row 1 true bad teacher bad (75%) ✓ right student good (75%) ✗ wrong" in page.text
    assert asked == [[CorpusPart("corpus")]]


def test_csv_has_every_run(context: StageContext) -> None:
    stage().run(context)
    rows = list(csv.DictReader((context.output / "evaluate-runs.csv").open()))
    losses = {row["seed"]: float(row["value"]) for row in rows if (row["model"], row["figure"]) == ("student", "loss")}
    assert losses == {"1": 5.5, "2": 6.0}


def test_models_that_have_no_curve_are_level_lines(context: StageContext, monkeypatch: pytest.MonkeyPatch) -> None:
    assert levels(monkeypatch, context) == {
        "teacher": 4.5,
        "alone (learning_rate=0.1)": 6.5,
        "alone (learning_rate=0.2)": 6.5,
    }


def test_lines_choose_models_or_single_rows(context: StageContext, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = ["student", "alone (learning_rate=0.2)"]
    assert levels(monkeypatch, context, lines=chosen) == {"student": 5.75, "alone (learning_rate=0.2)": 6.5}


def test_another_metric_has_lines_for_the_models_that_have_it(
    context: StageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert levels(monkeypatch, context, metric="accuracy") == {"teacher": 0.2}
    assert "last accuracy" in page_of(context).text


def test_evaluations_alone_give_tables_without_curves(context: StageContext) -> None:
    assert set(stage(trainings=[]).run(context)["files"]) == {
        *("report.html", "evaluate.md", "evaluate.csv", "evaluate-runs.csv")
    }
    assert "Curves" not in page_of(context).titles


def test_trainings_alone_give_curves_without_figures(context: StageContext) -> None:
    assert stage(evaluations=[]).run(context)["files"] == ["report.html"]
    page = page_of(context)
    assert page.titles == ["Verdict", "What was asked", "Curves", "Lineage"]
    assert "distill[seed=1] ended with validation loss 5.5000; distill[seed=2] ended with" in page.text


@pytest.mark.parametrize("metric", [None, "accuracy"])
def test_trainings_whose_validation_rows_have_no_labels_have_their_loss_drawn_and_no_metric(
    context: StageContext, metric: str | None
) -> None:
    for run in context.runs["distill"]:
        lines = [json.loads(line) for line in (run.output / "history.jsonl").read_text().splitlines()]
        kept = [{name: value for name, value in line.items() if not name.startswith("eval/")} for line in lines]
        (run.output / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    stage(metric=metric).run(context)
    page = page_of(context)
    assert page.tags.count("figure") == 2, "of the terms loss and ce alone"
    figures, runs = page.tables
    assert ["distill[seed=1]", "causal", "teacher", "", "10", "../distill-seed1"] in runs
    assert figures[1][0] == "teacher"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"evaluations": ["corpus"]}, "evaluations.0 is 'corpus'; name an earlier evaluate stage"),
        ({"evaluations": ["evaluate", "nowhere"]}, "evaluations.1 is 'nowhere'; name an earlier evaluate stage"),
        ({"trainings": "evaluate"}, "trainings.0 is 'evaluate'; name an earlier training stage"),
        ({"lines": ["techer"]}, "lines.0 is 'techer'; did you mean 'teacher'. Choices: teacher, student, "),
        ({"lines": ["student (method=causal)"]}, r"lines.0 is 'student \(method=causal\)'; .*student before"),
        ({"metric": "f1"}, "metric is 'f1'; Choices: loss, accuracy"),
        ({"metric": "f1", "evaluations": []}, "metric is 'f1'; Choices: loss, accuracy, which the trainings log"),
        (
            {"lines": ["alone (rate=1)"]},
            r"lines.0 is 'alone \(rate=1\)'; did you mean .* Choices: teacher, student, .*0.2\)$",
        ),
        ({"trainings": ["pruned"]}, "trainings.0 is 'pruned', which trains nothing; name a training stage"),
        (
            {"plot_against": {"key": "sparsity", "metric": "loss"}},
            r"against.0.key is 'sparsity', which no row with loss",
        ),
        (
            {"plot_against": {"key": "optimizer.learning_rat", "metric": "loss"}},
            "plot_against.0.key is 'optimizer.learning_rat', which no row with loss has; keys: seed|optimizer",
        ),
        (
            {"plot_against": {"key": "optimizer.learning_rate", "metric": "los"}},
            "plot_against.0.metric is 'los'; did you mean 'loss'",
        ),
    ],
)
def test_what_cannot_be_reported_is_refused_before_the_run(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stage(**config).plan(ScalingConfig(), EARLIER)


def test_a_report_that_fits_is_forecast() -> None:
    chosen = ["teacher", "alone (learning_rate=0.1)"]
    found = stage(lines=chosen, metric="accuracy", plot_against=AGAINST).plan(ScalingConfig(), EARLIER)
    assert found.lines == ["reports on evaluate, distill"]


def test_a_report_on_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="give evaluations, trainings or task_table"):
        stage(evaluations=[], trainings=[])


def test_an_evaluation_whose_files_the_task_table_would_take_is_refused() -> None:
    with pytest.raises(ValueError, match=r"evaluations has 'task_table', .* rename that stage"):
        stage(evaluations=["task_table"], task_table={"columns": {"CoLA": {"evaluation": "cola", "metric": "f1"}}})


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
    with pytest.raises(ValueError, match="columns has 'average', which the table adds by itself"):
        stage(task_table={"columns": {"average": TASK_TABLE["columns"]["CoLA"]}})


AGAINST = {"key": "optimizer.learning_rate", "metric": "loss"}


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
