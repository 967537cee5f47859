"""What a campaign leaves for people: tables, pictures, and the best configuration as a job."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from raydistill import names
from raydistill.atomic import write_text
from raydistill.credentials import without_secrets
from raydistill.names import code
from raydistill.report import pictures
from raydistill.report.columns import column
from raydistill.report.tables import markdown_table
from raydistill.search.best_job import best_job_text
from raydistill.search.charts import Scale, against_values, parallel_coordinates, value_text
from raydistill.search.config import SearchConfig
from raydistill.search.results import CampaignResult, Trial
from raydistill.search.spaces import job_of
from raydistill.tracking.store import store_of
from raydistill.tracking.tracker import Tracker

PAGE, TABLE, CSV = "campaign.md", "trials.md", "trials.csv"
COORDINATES, AGAINST = "parallel_coordinates.png", "metric_by_value.png"
BEST = "best.yaml"
_TABLE_WIDTH = 140
_METHOD, _TASK = "validation/", "eval/"


def write_report(search: SearchConfig, result: CampaignResult) -> list[Path]:
    """Write page, tables, pictures and the best job into the campaign's folder; returns the files.

    Pictures need a trial that was evaluated, the job one that finished.
    """
    trials, keys, metric = result.trials, list(search.space), _figure(search)
    result.folder.mkdir(parents=True, exist_ok=True)
    files = [result.folder / name for name in (PAGE, TABLE, CSV)]
    table = markdown(trials, keys, metric)
    write_text(files[1], table)
    write_text(files[2], as_csv(trials, keys, metric))
    best = None if result.best is None else result.best.number
    if any(trial.is_measured for trial in trials):
        scales = [Scale.of(key, domain) for key, domain in search.domains.items()]
        for name, draw in ((COORDINATES, parallel_coordinates), (AGAINST, against_values)):
            pictures.save(draw(trials, scales, metric, best=best), result.folder / name)
            files.append(result.folder / name)
    if result.best is not None:
        write_text(result.folder / BEST, best_job_text(search, result, result.best))
        files.append(result.folder / BEST)
    write_text(files[0], _page(search, result, table, files))
    return files


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
    lines = ["", *_drawn(header, rows), ""]
    best = result.best
    if best is not None:
        assert best.metric is not None
        style = column(_figure(search))
        lines.append(f"best: trial {best.number}, {style.heading} {style.text(best.metric)} after {best.steps:,} steps")
        lines += [f"  {key}={value_text(value)}" for key, value in best.overrides.items()]
        lines.append("")
    store = store_of(job_of(search).config.tracking, result.folder.parent, search.name)
    places: dict[str, object] = {"campaign": result.folder, "page": result.folder / PAGE}
    if best is not None:
        places |= {"student": best.folder / "student", "best job": f"raydistill run {result.folder / BEST}"}
    places["MLflow"] = f"mlflow ui --backend-store-uri {without_secrets(store.uri)}"
    width = max(map(len, places))
    return [*lines, *(f"{name:<{width}}  {place}" for name, place in places.items())]


def table_rows(trials: Sequence[Trial], keys: Sequence[str], metric: str) -> tuple[list[str], list[list[str]]]:
    """Header and cells as text, a row a trial."""
    style = column(metric)
    rows = []
    for trial in trials:
        why = trial.reason or trial.origin
        rows.append(
            [
                str(trial.number),
                *(value_text(trial.overrides[key]) if key in trial.overrides else "" for key in keys),
                "" if trial.metric is None else style.text(trial.metric),
                f"{trial.state}: {why}" if why else trial.state,
                f"{trial.steps:,}",
                f"{trial.seconds:.0f}",
            ]
        )
    return ["trial", *keys, style.heading, "state", "steps", "seconds"], rows


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


def _page(search: SearchConfig, result: CampaignResult, table: str, files: Sequence[Path]) -> str:
    counts = {state: sum(one.state == state for one in result.trials) for state in ("finished", "stopped", "failed")}
    told = ", ".join(f"{number} {state}" for state, number in counts.items() if number)
    written = {file.name for file in files}
    parts = [
        f"# Campaign {search.name}\n",
        f"{search.description}\n" if search.description else "",
        f"{len(result.trials)} trials of stage {code(search.stage)} of job {code(search.job)} ({told}), searcher "
        f"{search.searcher.name}, scheduler {search.scheduler.name}; the "
        f"{'greatest' if search.mode == 'max' else 'least'} `{search.metric}` on validation rows is the best.\n",
        _best(search, result),
        f"## Trials\n\n{table}\nThe metric of a trial that did not finish is the last that it had. With all digits: "
        f"[{CSV}]({CSV}).\n",
    ]
    if COORDINATES in written:
        parts += [
            f"## Parallel coordinates\n\n![Parallel coordinates]({COORDINATES})\n\nA line is a trial, its colour the "
            "metric.\n",
            f"## Metric against each value\n\n![Metric against each value]({AGAINST})\n",
        ]
    return "\n".join(part for part in parts if part)


def _best(search: SearchConfig, result: CampaignResult) -> str:
    best = result.best
    if best is None:
        return "## Best\n\nNo trial finished.\n"
    assert best.metric is not None
    style = column(_figure(search))
    values = "\n".join(f"* {code(key)}: {names.markdown(value_text(value))}" for key, value in best.overrides.items())
    course = "\n".join(f"* {names.markdown(line)}" for line in best.course_lines())
    others = f"It went on from other trials; the values are its last ones:\n\n{course}\n\n" if course else ""
    return (
        f"## Best\n\nTrial {best.number}: {style.heading} {style.text(best.metric)} after {best.steps:,} "
        f"steps.\n\n{values}\n\n{others}As a job: [{BEST}]({BEST}), for `raydistill run`. The figure is of at most "
        "`training.eval_rows` validation rows; an `evaluate` stage reads all of them.\n"
    )


def _drawn(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """A table as a terminal shows it."""
    table = Table()
    for name in header:
        table.add_column(Text(name))
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(file=io.StringIO(), width=_TABLE_WIDTH)
    with console.capture() as capture:
        console.print(table)
    return capture.get().splitlines()
