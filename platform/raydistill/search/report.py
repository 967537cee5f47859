"""What a campaign leaves for people: a page, tables, and the best configuration as a job."""

import csv
import io
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raydistill.atomic import write_text
from raydistill.report import html
from raydistill.report.chart import READ
from raydistill.report.columns import column
from raydistill.report.document import Document, Listing, Section, Table, Tile, Verdict
from raydistill.report.repeat import repeat
from raydistill.report.tables import Cell, markdown_table
from raydistill.search.best_job import best_job_text
from raydistill.search.charts import Scale, against_values, courses, parallel_coordinates, value_text
from raydistill.search.config import SearchConfig
from raydistill.search.domains import is_number
from raydistill.search.results import CampaignResult, Trial
from raydistill.search.spaces import job_of
from raydistill.terminal import drawn
from raydistill.tracking.pages import opening
from raydistill.tracking.provenance import environment
from raydistill.tracking.tracker import Tracker

PAGE, TABLE, CSV = "campaign.html", "trials.md", "trials.csv"
BEST = "best.yaml"
_METHOD, _TASK = "validation/", "eval/"


def write_report(search: SearchConfig, result: CampaignResult) -> list[Path]:
    """Write page, tables and the best job into the campaign's folder; returns the files.

    The job needs a trial that finished.
    """
    trials, keys, metric = result.trials, list(search.space), _figure(search)
    result.folder.mkdir(parents=True, exist_ok=True)
    texts = {
        PAGE: html.page(_document(search, result)),
        TABLE: markdown(trials, keys, metric),
        CSV: as_csv(trials, keys, metric),
    }
    if result.best is not None:
        texts[BEST] = best_job_text(search, result, result.best)
    for name, text in texts.items():
        write_text(result.folder / name, text)
    return [result.folder / name for name in texts]


def log_report(search: SearchConfig, result: CampaignResult, tracker: Tracker, key: str) -> None:
    """Write the report and keep it with the campaign's tracked run, whose metric is that of the best trial."""
    for file in write_report(search, result):
        tracker.log_artifact(key, str(file))
    if result.best is not None:
        assert result.best.metric is not None
        tracker.log_metrics(key, {f"best/{search.metric}": result.best.metric}, step=result.best.number)
        values = {f"best.{key}": value_text(value) for key, value in result.best.overrides.items()}
        tracker.set_tags(key, {"best.trial": result.best.number, **values})


def summary_lines(search: SearchConfig, result: CampaignResult, files: Sequence[Path]) -> list[str]:
    """The table of trials, the best configuration, and where everything is."""
    header, rows = table_rows(result.trials, list(search.space), _figure(search))
    lines = ["", *drawn(header, rows), ""]
    best = result.best
    if best is not None:
        assert best.metric is not None
        style = column(_figure(search))
        lines.append(f"best: trial {best.number}, {style.heading} {style.text(best.metric)} after {best.steps:,} steps")
        lines += [f"  {key}={value_text(value)}" for key, value in best.overrides.items()]
        lines.append("")
    places: dict[str, object] = {"campaign": result.folder, "page": result.folder / PAGE}
    if best is not None:
        places |= {"student": best.folder / "student", "best job": f"raydistill run {result.folder / BEST}"}
    first, *more = opening(job_of(search).config.tracking, result.folder.parent, search.name)
    places["MLflow"] = first
    width = max(map(len, places))
    lines += [f"{name:<{width}}  {place}" for name, place in places.items()]
    return [*lines, *(f"{'':<{width}}  {line}" for line in more)]


def table_rows(trials: Sequence[Trial], keys: Sequence[str], metric: str) -> tuple[list[str], list[list[str]]]:
    """Header and cells as text, a row a trial."""
    style = column(metric)
    rows = []
    for trial in trials:
        why = trial.reason or trial.origin
        rows.append(
            [
                Cell(str(trial.number), trial.number),
                *(_cell(trial.overrides[key]) if key in trial.overrides else "" for key in keys),
                "" if trial.metric is None else Cell(style.text(trial.metric), trial.metric),
                f"{trial.state}: {why}" if why else trial.state,
                Cell(f"{trial.steps:,}", trial.steps),
                Cell(f"{trial.seconds:.0f}", trial.seconds),
            ]
        )
    return ["trial", *keys, style.heading, "state", "steps", "seconds"], rows


def _cell(value: Any) -> Cell:
    return Cell(value_text(value), float(value) if is_number(value) else None)


def markdown(trials: Sequence[Trial], keys: Sequence[str], metric: str) -> str:
    """The table of all trials as Markdown."""
    return markdown_table(*table_rows(trials, keys, metric))


def as_csv(trials: Sequence[Trial], keys: Sequence[str], metric: str) -> str:
    """The same as comma-separated values with all digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", *keys, metric, "state", "steps", "seconds", "reason"])
    for trial in trials:
        found = "" if trial.metric is None else repr(trial.metric)
        values = [trial.overrides.get(key, "") for key in keys]
        why = trial.reason or trial.origin
        writer.writerow([trial.number, *values, found, trial.state, trial.steps, trial.seconds, why])
    return text.getvalue()


def _figure(search: SearchConfig) -> str:
    """The metric's name as tables know it: without the prefix that tells who measured it."""
    return search.metric.removeprefix(_TASK).removeprefix(_METHOD)


def _document(search: SearchConfig, result: CampaignResult) -> Document:
    keys, metric = list(search.space), _figure(search)
    best = None if result.best is None else result.best.number
    counts = {state: sum(one.state == state for one in result.trials) for state in ("finished", "stopped", "failed")}
    asked = [
        ("Searched", f"stage {search.stage} of job {search.job}"),
        *((key, value_text(value)) for key, value in search.model_dump(mode="json")["space"].items()),
        ("Searcher", f"{search.searcher.name}, scheduler {search.scheduler.name}"),
        ("Best", f"the {'greatest' if search.mode == 'max' else 'least'} {search.metric} on validation rows"),
    ]
    header, rows = table_rows(result.trials, keys, metric)
    table = Table(
        "Every trial",
        header,
        rows,
        ["The metric of a trial that did not finish is the last that it had."],
        {CSV: "all digits", TABLE: "Markdown"},
    )
    sections = [Section("asked", "What was asked", [Listing(asked)]), Section("trials", "Trials", [table])]
    if any(trial.is_measured for trial in result.trials):
        scales = [Scale.of(key, domain) for key, domain in search.domains.items()]
        drawn = [courses(result.trials, metric, best=best)]
        drawn.insert(0, against_values(result.trials, scales, metric, best=best))
        drawn.append(parallel_coordinates(result.trials, scales, metric, best=best))
        sections.append(Section("charts", "What the values do", [one for one in drawn if one is not None], READ))
    if result.best is not None:
        sections += [
            Section("best", "The best", [Listing(_values(result.best))], lead=_course(result.best)),
            repeat(
                f"raydistill run {shlex.quote(str(result.folder / BEST))}",
                best_job_text(search, result, result.best),
                environment(),
            ),
        ]
    return Document("Report of a search", search.name, search.description, _verdict(search, result, counts), sections)


def _verdict(search: SearchConfig, result: CampaignResult, counts: Mapping[str, int]) -> Verdict:
    told = ", ".join(f"{number} {state}" for state, number in counts.items() if number)
    best, style = result.best, column(_figure(search))
    tiles = [Tile("Trials", str(len(result.trials)), told or "none ended")]
    if best is None:
        return Verdict(f"No trial finished, of {len(result.trials)}.", tiles)
    assert best.metric is not None
    metrics = [one.metric for one in result.trials if one.state == "finished" and one.metric is not None]
    others = sorted(metrics)[len(metrics) // 2]
    tiles.insert(0, Tile("Best", style.text(best.metric), f"trial {best.number}, {style.heading}"))
    tiles.append(Tile("Middle", style.text(others), "the median of those that finished"))
    return Verdict(
        f"Trial {best.number} is the best of {len(result.trials)} ({told}): {style.heading} {style.text(best.metric)} "
        f"after {best.steps:,} steps, on at most training.eval_rows validation rows; an evaluate stage reads all.",
        tiles,
    )


def _values(best: Trial) -> list[tuple[str, str]]:
    return [(key, value_text(value)) for key, value in best.overrides.items()]


def _course(best: Trial) -> str:
    course = best.course_lines()
    return f"It went on from other trials; the values are its last ones: {'; '.join(course)}." if course else ""
