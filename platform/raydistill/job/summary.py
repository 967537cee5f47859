"""What a finished job tells its user: the figures, and where everything is."""

import itertools
from collections.abc import Mapping
from typing import Any

from raydistill.credentials import without_secrets
from raydistill.job.load import Job
from raydistill.job.run import JobResult
from raydistill.report.contrast import Contrast
from raydistill.report.tables import Entry, Group, group, rows_of
from raydistill.store_paths import shown
from raydistill.terminal import drawn
from raydistill.tracking.pages import opening
from raydistill.tracking.store import store_of


def as_data(job: Job, result: JobResult) -> dict[str, Any]:
    """The result as JSON-ready data; ``groups`` has the rows of the table of a stage that compared models."""
    return {
        "job": job.name,
        "folder": shown(result.folder),
        "tracking_uri": _tracking_uri(job, result),
        "tracking": _opening(job, result),
        "lost": result.lost,
        "stages": {
            name: {
                "output": shown(result.outputs[name]),
                "skipped": name in result.skipped,
                "summary": result.summaries[name],
                **_groups_as_data(result.summaries[name]),
            }
            for name in result.outputs
        },
    }


def summary_lines(job: Job, result: JobResult) -> list[str]:
    """A table for each stage that compared models, then folders, reports, registered models and the tracking store."""
    lines: list[str] = []
    for name, summary in result.summaries.items():
        if "entries" in summary:
            lines += ["", f"{name}:", *drawn(*rows_of(_groups(summary)))]
        if "comparison" in summary:
            contrast = Contrast.of(summary["comparison"])
            lines += ["", f"{name}:", *drawn(*contrast.rows()), contrast.note]
    width = max(len(name) for name in ["job", "MLflow", *result.outputs])
    lines += ["", f"{'job':<{width}}  {shown(result.folder)}"]
    lines += [f"{name:<{width}}  {shown(output)}" for name, output in result.outputs.items()]
    lines += [f"{'page':<{width}}  {shown(each['report'])}" for each in result.summaries.values() if "report" in each]
    uris = [str(summary["uri"]) for summary in result.summaries.values() if "uri" in summary]
    lines += [f"{'model':<{width}}  {uri}" for uri in uris]
    titles = itertools.chain(["MLflow"], itertools.repeat(""))
    lines += [f"{title:<{width}}  {line}" for title, line in zip(titles, _opening(job, result), strict=False)]
    return lines


def _opening(job: Job, result: JobResult) -> list[str]:
    return opening(job.config.tracking, result.folder.parent, job.name)


def _tracking_uri(job: Job, result: JobResult) -> str:
    return without_secrets(store_of(job.config.tracking, result.folder.parent, job.name).uri)


def _groups(summary: Mapping[str, Any]) -> list[Group]:
    return group([Entry.of(entry) for entry in summary["entries"]])


def _groups_as_data(summary: Mapping[str, Any]) -> dict[str, Any]:
    return {"groups": [row.as_data() for row in _groups(summary)]} if "entries" in summary else {}
