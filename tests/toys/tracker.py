"""A tracker that keeps runs in its process."""

from dataclasses import dataclass, field
from typing import Any

from raydistill.tracking.delivery import Outcome
from raydistill.tracking.tracker import Tracker


@dataclass
class MemoryRun:
    """What a ``MemoryTracker`` knows of one run; ``metrics`` maps a name to its (step, value) pairs."""

    name: str
    parent: str | None
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    artifacts: list[str] = field(default_factory=list)
    datasets: list[dict[str, Any]] = field(default_factory=list)
    status: str = "RUNNING"


class MemoryTracker(Tracker):
    """Keeps runs in this process; a copy that is sent elsewhere keeps its own."""

    uri = "memory"

    def __init__(self) -> None:
        self.runs: dict[str, MemoryRun] = {}
        self.models: list[dict[str, Any]] = []

    def _send(self, record: dict[str, Any]) -> Outcome:
        key, op = record["key"], record["op"]
        if op == "start_run":
            if not record["resume"] or key not in self.runs:
                self.runs[key] = MemoryRun(record["name"], record["parent"])
            self.runs[key].tags.update(record["tags"])
            self.runs[key].status = "RUNNING"
            return Outcome(done=True, value=key)
        run = self.runs[key]
        run.params.update(record.get("params", {}))
        if op == "register_model":
            self.models.append(record)
            return Outcome(done=True, value=len(self.models))
        if op == "log_dataset":
            run.datasets.append(record)
        run.tags.update(record.get("tags", {}))
        for name, value in record.get("metrics", {}).items():
            run.metrics.setdefault(name, []).append((record["step"], value))
        run.artifacts += [record[name] for name in ("path", "file") if name in record]
        run.status = record.get("status", run.status)
        return Outcome(done=True)

    def _answer(self, sent: Any, *, timeout_s: float) -> Outcome:
        assert isinstance(sent, Outcome)
        return sent
