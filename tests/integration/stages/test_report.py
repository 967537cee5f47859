"""The stage's files from runs that are written by hand; no cluster is needed."""

import csv
import json
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
from raydistill.stages._base import StageContext
from toys.reported import AGAINST, EARLIER, KEY, page_of, report_context, stage
from toys.tracker import MemoryTracker


@pytest.fixture
def context(tmp_path: Path) -> StageContext:
    return report_context(tmp_path)


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
    with pytest.raises(ValueError, match="give evaluations, comparisons, trainings or task_table"):
        stage(evaluations=[], trainings=[])


def test_an_evaluation_whose_files_the_task_table_would_take_is_refused() -> None:
    with pytest.raises(ValueError, match=r"evaluations has 'task_table', .* rename that stage"):
        stage(evaluations=["task_table"], task_table={"columns": {"CoLA": {"evaluation": "cola", "metric": "f1"}}})


def test_trainings_that_logged_nothing_have_no_section_of_curves(context: StageContext) -> None:
    for run in context.runs["distill"]:
        (run.output / "history.jsonl").write_text("")
    stage().run(context)
    titles = page_of(context).titles
    assert "Figures" in titles
    assert "Curves" not in titles
