"""A small job as its report stage reads it: two seeds of a training and an evaluation, written by hand."""

import json
from pathlib import Path
from typing import Any

from raydistill.config.sections import ScalingConfig
from raydistill.stages import report
from raydistill.stages._base import Input, ModelFacts, Run, StageContext
from toys.evaluated import evaluated as forecast
from toys.evaluated import seeds
from toys.html_page import HtmlPage
from toys.tracker import MemoryTracker

KEY = "toy/report"
AGAINST = {"key": "optimizer.learning_rate", "metric": "loss"}
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


def report_context(folder: Path) -> StageContext:
    """What the stage is given, with its output in ``report``."""
    tracker = MemoryTracker()
    tracker.start_run(KEY)
    output = folder / "report"
    output.mkdir()
    runs = {"distill": [trained(folder, seed) for seed in (1, 2)], "evaluate": [evaluated(folder)]}
    facts = {"evaluate": EARLIER["evaluate"].facts}
    return StageContext("toy", 0, ScalingConfig(), output, runs, tracker, KEY, facts=facts)


def page_of(context: StageContext) -> HtmlPage:
    return HtmlPage((context.output / "report.html").read_text())
