"""A stand-in for MLflow's client, for tests of what is sent when."""

from typing import Any


class ScriptedWriter:
    """Fails as often as told, refuses some numbers, and notes what it took."""

    experiment_id = "0"

    def __init__(self, *, num_failures: int = 0, refused: tuple[int, ...] = ()) -> None:
        self.num_failures = num_failures
        self.refused = refused
        self.taken: list[int] = []
        self.ended: list[tuple[str, str]] = []
        self.requests = 0
        self.missing: list[str] = []
        self.known: dict[str, str] = {}

    def deliver(self, record: dict[str, Any]) -> str:
        """Take one record."""
        self.requests += 1
        if self.num_failures > 0:
            self.num_failures -= 1
            raise ConnectionError("the server is away")
        if record["op"] == "end_run":
            self.ended.append((record["key"], record["status"]))
            return ""
        if record["number"] in self.refused:
            raise ValueError("never")
        self.taken.append(record["number"])
        return f"run {record['number']}"

    def deliver_metrics(self, records: list[dict[str, Any]]) -> None:
        """Take several at once."""
        if any(record["number"] in self.refused for record in records):
            raise ValueError("never")
        self.requests += 1
        self.taken += [record["number"] for record in records]

    def know_runs(self, runs: dict[str, str]) -> None:
        """Runs of others."""
        self.known |= runs

    def is_permanent(self, error: Exception) -> bool:
        """Whether the refusal is for ever."""
        return isinstance(error, ValueError)

    def missing_runs(self, records: Any) -> list[str]:
        """What the test says is missing."""
        return self.missing
