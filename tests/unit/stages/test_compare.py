"""The comparison of students with the one without distillation, from an evaluation that is written by hand."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydistill.config.sections import ScalingConfig, TrackingConfig
from raydistill.job.run import JobResult
from raydistill.job.summary import summary_lines
from raydistill.report.contrast import Contrast
from raydistill.stages import compare, report
from raydistill.stages._base import ComparisonFacts, CorpusFacts, Input, ModelFacts, Run, StageContext
from raydistill.user_error import UserError
from toys.evaluated import evaluated, seeds
from toys.html_page import HtmlPage
from toys.tracker import MemoryTracker

KEY = "toy/gain"
NUM_ROWS = 200
RIGHT = {"teacher": [180], "alone": [140, 144, 148], "kd": [150, 154, 158]}
"""Rows that each run of each model has right."""
ROWS = [
    ("teacher", "teacher", {}),
    *((name, name, {"seed": seed}) for name in ("alone", "kd") for seed in (1, 2, 3)),
]
EVALUATED = replace(evaluated(ROWS, {"accuracy": True, "macro_f1": True, "loss": False}), of_rows=("accuracy", "loss"))
TRAINED = ModelFacts({"": object()}, metrics=("accuracy", "loss"))
EARLIER = {
    "evaluate": Input(EVALUATED, runs={"evaluate": {}}),
    "corpus": Input(CorpusFacts("classification", 10, 8)),
    "alone": Input(TRAINED, runs=seeds("alone", 1, 2, 3)),
    "kd": Input(TRAINED, runs=seeds("kd", 1, 2, 3)),
    "pruned": Input(ModelFacts({"": object()})),
}


def stage(**changes: Any) -> compare.Stage:
    config = {"kind": "compare", "evaluation": "evaluate", "teacher": "teacher", "alone": "alone", **changes}
    return compare.Stage("gain", compare.Config.model_validate(config))


def predictions(folder: Path, name: str, num_right: int, *, order: int) -> str:
    """A file in which the last rows by their numbers are wrong; rows stand in an order of its own."""
    rows = np.random.default_rng(order).permutation(NUM_ROWS)
    said = np.where(rows < num_right, "good", "bad")
    columns = {"row_id": rows, "label": np.full(NUM_ROWS, "good"), "prediction": said}
    (folder / "predictions").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / "predictions" / f"{name}.parquet")
    return f"predictions/{name}.parquet"


def trained(folder: Path, stage_name: str, seed: int) -> Run:
    output = folder / f"{stage_name}-{seed}"
    output.mkdir()
    lines = [
        {"step": 0, "eval/accuracy": 0.5},
        {"step": 5, "speed/tokens_per_s": 100.0, "progress/tokens": 500},
        {"step": 10, "speed/tokens_per_s": 50.0 * seed, "progress/tokens": 1000},
    ]
    (output / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Run(f"{stage_name}[seed={seed}]", {"seed": seed}, output, {})


@pytest.fixture
def context(tmp_path: Path) -> StageContext:
    folder, entries, files = tmp_path / "evaluate", [], []
    for model, reference, keys in ROWS:
        num_right = RIGHT[model][keys.get("seed", 1) - 1]
        files.append(predictions(folder, f"{model}{len(files)}", num_right, order=len(files)))
        figures = {"accuracy": num_right / NUM_ROWS}
        entries.append({"model": model, "reference": reference, "assignment": keys, "figures": figures})
    tracker = MemoryTracker()
    tracker.start_run(KEY)
    output = tmp_path / "gain"
    output.mkdir()
    runs = {
        "evaluate": [Run("evaluate", {}, folder, {"entries": entries, "predictions": files})],
        "kd": [trained(tmp_path, "kd", seed) for seed in (1, 2, 3)],
    }
    facts = {"evaluate": EVALUATED, "kd": TRAINED}
    return StageContext("toy", 0, ScalingConfig(), output, runs, tracker, KEY, facts=facts)


def test_means_gains_and_the_gap_are_those_of_the_rows(context: StageContext) -> None:
    found = Contrast.of(stage().run(context)["comparison"])
    teacher, alone, kd = found.contenders
    assert [one.name for one in (teacher, alone, kd)] == ["teacher", "alone", "kd"]
    assert [one.num_seeds for one in (teacher, alone, kd)] == [1, 3, 3]
    assert alone.gain.figure.value == pytest.approx(np.mean(RIGHT["alone"]) / NUM_ROWS)
    assert kd.gain.difference.value == pytest.approx(10 / NUM_ROWS)
    assert kd.gain.gap_closed is not None
    assert kd.gain.gap_closed.value == pytest.approx(10 / (180 - 144))
    assert kd.gain.difference.low < 10 / NUM_ROWS < kd.gain.difference.high
    # In each seed ten rows more are right and none is wrong that was right.
    assert kd.gain.p < 0.01


def test_the_perplexity_of_a_student_is_the_mean_over_seeds_of_that_of_all_tokens(context: StageContext) -> None:
    (run,) = context.runs["evaluate"]
    generator, expected = np.random.default_rng(0), []
    tokens = generator.integers(0, 9, NUM_ROWS).astype(float)
    for file in run.summary["predictions"]:
        loss = tokens * generator.uniform(1, 3)
        columns = {"row_id": np.arange(NUM_ROWS), "loss": loss, "correct": tokens // 2, "tokens": tokens}
        pq.write_table(pa.table(columns), run.output / file)
        expected.append(np.exp(loss.sum() / tokens.sum()))
    facts = {"evaluate": replace(EVALUATED, of_rows=("loss", "perplexity", "accuracy")), "kd": TRAINED}
    changed = replace(context, facts=facts)
    found = Contrast.of(stage(metric="perplexity", num_resamples=1000).run(changed)["comparison"]).contenders
    means = [expected[0], np.mean(expected[1:4]), np.mean(expected[4:])]
    assert [one.gain.figure.value for one in found] == pytest.approx(means)


def test_steps_tokens_and_seconds_are_those_of_the_trainings_that_are_named(context: StageContext) -> None:
    _, alone, kd = Contrast.of(stage(trainings="kd").run(context)["comparison"]).contenders
    assert (alone.steps, alone.seconds) == (None, None)
    assert kd.steps is not None
    assert kd.tokens is not None
    assert kd.seconds is not None
    assert (kd.steps.mean, kd.tokens.mean) == (10, 1000)
    assert kd.seconds.mean == pytest.approx(5 + np.mean([500 / 50, 500 / 100, 500 / 150]))


def test_the_end_of_its_job_shows_its_table(context: StageContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    summaries = {"gain": stage(num_resamples=1000).run(context)}
    job: Any = SimpleNamespace(name="toy", config=SimpleNamespace(tracking=TrackingConfig()))
    lines = summary_lines(job, JobResult(Path("/runs/toy"), {"gain": Path("/runs/toy/gain-1")}, summaries))
    assert lines[1] == "gain:"
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert [row[:2] for row in rows] == [["teacher", "1"], ["alone", "3"], ["kd", "3"]]
    assert rows[2][2].startswith("77.0% [")
    assert any("95 % interval" in line for line in lines)


def test_it_leaves_its_table_as_markdown_and_json(context: StageContext) -> None:
    stage(num_resamples=1000).run(context)
    table = (context.output / "comparison.md").read_text()
    assert table.startswith("| model | n | accuracy |")
    assert "| kd | 3 | 77.0% [" in table
    assert "95 % interval" in table
    content = json.loads((context.output / "comparison.json").read_text())
    assert [one["name"] for one in content["contenders"]] == ["teacher", "alone", "kd"]
    assert isinstance(context.tracker, MemoryTracker)
    names = {Path(path).name for path in context.tracker.runs[KEY].artifacts}
    assert names == {"comparison.md", "comparison.json"}


def test_the_seed_of_the_job_repeats_the_intervals(context: StageContext) -> None:
    first, second = (stage(num_resamples=1000).run(context) for _ in range(2))
    assert first == second
    assert stage(num_resamples=1000).run(replace(context, seed=1)) != first


def test_the_report_draws_it_as_a_forest_plot_beside_its_table(context: StageContext, tmp_path: Path) -> None:
    made = Run("gain", {}, context.output, stage(num_resamples=1000).run(context))
    page_stage = report.Stage("report", report.Config(kind="report", comparisons="gain"))
    facts = {"gain": ComparisonFacts("accuracy", ("teacher", "alone", "kd"))}
    plan = page_stage.plan(ScalingConfig(), {"gain": Input(facts["gain"], runs={"gain": {}})})
    assert plan.lines == ["reports on gain"]
    output = tmp_path / "report"
    output.mkdir()
    page_stage.run(replace(context, output=output, runs={"gain": [made]}, facts=facts))
    page = HtmlPage((output / "report.html").read_text())
    assert "gap closed" in page.text
    assert page.tables[0][0][:3] == ["model", "n", "accuracy"]
    assert page.tables[0][-1][0] == "kd"


def test_a_report_has_the_same_hash_as_before_there_were_comparisons() -> None:
    config = report.Config(kind="report", evaluations="evaluate")
    assert "comparisons" not in config.model_dump(mode="json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluation": "corpus"}, "evaluation is 'corpus'; name an earlier evaluation stage"),
        ({"teacher": "teaher"}, "teacher is 'teaher'; did you mean 'teacher'? Choices: teacher, alone, kd"),
        ({"alone": "student"}, "alone is 'student'; Choices: teacher, alone, kd"),
        ({"alone": "teacher"}, "alone is 'teacher', and so is teacher; name the student without distillation"),
        ({"methods": ["pkd"]}, "methods.0 is 'pkd'; did you mean 'kd'? Choices: kd"),
        ({"metric": "macro_f1"}, "metric is 'macro_f1'; Choices: accuracy, loss"),
        ({"trainings": ["pruned"]}, "trainings.0 is 'pruned'; name an earlier training stage"),
    ],
)
def test_the_preflight_refuses_what_a_run_could_not_do(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        stage(**changes).plan(ScalingConfig(), EARLIER)
    assert str(caught.value) == message


def _evaluation_of(*rows: Any, of_rows: tuple[str, ...] = ("accuracy",)) -> dict[str, Input]:
    made = replace(evaluated(rows, {"accuracy": True}), of_rows=of_rows)
    return {"evaluate": Input(made, runs={"evaluate": {}})}


def test_a_student_of_one_seed_is_refused() -> None:
    alone = [("alone", "alone", {"seed": seed}) for seed in (1, 2)]
    one = _evaluation_of(ROWS[0], *alone, ("kd", "kd", {"seed": 1}))
    with pytest.raises(UserError, match="kd has one seed"):
        stage(methods=["kd"]).plan(ScalingConfig(), one)
    with pytest.raises(UserError, match="no model with several seeds beside teacher and alone"):
        stage().plan(ScalingConfig(), one)
    with pytest.raises(UserError, match="alone has one seed"):
        stage().plan(ScalingConfig(), _evaluation_of(ROWS[0], alone[0], *ROWS[4:]))


def test_an_evaluation_without_a_mean_over_rows_is_refused() -> None:
    with pytest.raises(UserError, match="whose metrics, accuracy, are not means over rows"):
        stage().plan(ScalingConfig(), _evaluation_of(*ROWS, of_rows=()))


def test_an_evaluation_of_an_earlier_release_is_refused(context: StageContext) -> None:
    (run,) = context.runs["evaluate"]
    old = Run(run.name, {}, run.output, {**run.summary, "predictions": []})
    with pytest.raises(UserError, match="an earlier release stored without the result of each row; remove its folder"):
        stage().run(replace(context, runs={**context.runs, "evaluate": [old]}))


def test_what_it_will_do_stands_in_the_preflight() -> None:
    decisions = stage(trainings=["alone", "kd"]).plan(ScalingConfig(), EARLIER)
    assert decisions.lines == ["compares kd with alone and teacher by accuracy"]
    assert decisions.makes == ComparisonFacts("accuracy", ("teacher", "alone", "kd"))
