"""What becomes of a campaign's trials, written down as it happens."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from raydistill.search.config import SearchConfig
from raydistill.search.listener import Listener
from raydistill.search.results import ENDED, TRIALS, CampaignResult, Trial, best_of, read_campaign, write_trials
from raydistill.search.trial import FINISHED, failure_path

Echo = Callable[[str], None]


@dataclass
class Records(Listener):
    """The trials of a campaign, written down whenever one begins, evaluates or ends."""

    search: SearchConfig
    folder: Path
    identity: str
    trials: dict[int, Trial] = field(default_factory=dict)
    seconds: float = 0.0
    """Time of earlier runs."""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._echo: Echo = lambda line: None
        self._kept = {trial.number for trial in self.ended()}
        self._begun: float | None = None
        self._starts: dict[int, float] = {}
        self._is_over = False
        self.lost: set[int] = set()
        """Trials whose processes ended by themselves, and so could not end their tracked runs."""

    @classmethod
    def open(cls, search: SearchConfig, folder: Path, *, identity: str) -> "Records":
        """What an earlier run left; raises ValueError when that was of another search."""
        stored = read_campaign(folder)
        if stored is None:
            return cls(search, folder, identity)
        if stored["identity"] != identity:
            raise ValueError(
                f"name is {search.name!r}, but {folder} has trials of another search; give another name, or remove it"
            )
        trials = {trial.number: trial for trial in stored["trials"] if trial.number < search.num_trials}
        return cls(search, folder, identity, trials, stored["seconds"])

    def ended(self) -> list[Trial]:
        """Trials that are kept."""
        return [trial for trial in self.trials.values() if trial.state in ENDED]

    @property
    def num_ended(self) -> int:
        """How many of them."""
        return len(self.ended())

    @property
    def is_complete(self) -> bool:
        """Whether there is nothing left to try, or no time."""
        if self.num_ended == self.search.num_trials:
            return True
        return bool(self.trials) and self.time_left_s is not None and self.time_left_s <= 0

    @property
    def time_left_s(self) -> float | None:
        """Seconds of the budget that earlier runs left."""
        total = self.search.budget.time_s
        return None if total is None else total - self.seconds

    def samples(self) -> list[dict[str, Any]]:
        """What the searcher drew, of the first trials without a gap."""
        found = []
        for number in range(self.search.num_trials):
            if number not in self.trials:
                break
            found.append(self.trials[number].sample)
        return found

    def result(self) -> CampaignResult:
        """The campaign as far as it came."""
        trials = [self.trials[number] for number in sorted(self.trials)]
        return CampaignResult(self.folder, trials, best_of(trials, mode=self.search.mode))

    def begin(self, echo: Echo) -> None:
        """The trials start now."""
        self._echo, self._begun = echo, time.monotonic()

    def close(self) -> None:
        """The trials are over: those that still ran were stopped for the time."""
        with self._lock:
            for number, trial in self.trials.items():
                if trial.state == "pending" and number in self._starts:
                    self.trials[number] = replace(trial, state="stopped", reason=self._time_is_over())
            self._write()

    def over(self) -> None:
        """Write down nothing more."""
        with self._lock:
            self._is_over = True

    def suggested(self, number: int, values: dict[str, Any], sample: dict[str, Any]) -> None:
        """A trial waits."""
        if self._is_over or number in self._kept:
            return
        with self._lock:
            # Also where an interrupted run had it, which in a population has other values by then.
            self.trials[number] = Trial(
                number, values, "pending", None, {}, 0.0, 0, "", self.folder / TRIALS, sample=sample
            )
            self._write()

    def started(self, number: int) -> None:
        """It runs."""
        with self._lock:
            if self._is_over or number in self._kept or number in self._starts:
                return
            self._starts[number] = time.monotonic()
            failure_path(self.folder, number).unlink(missing_ok=True)
            self.trials[number] = replace(self.trials[number], reports=[])
            values = ", ".join(f"{key}={value}" for key, value in self.trials[number].overrides.items())
        self._echo(f"trial {number}: started ({values})")

    def reported(self, number: int, values: dict[str, Any], report: Mapping[str, Any]) -> None:
        """It came so far, or to its end."""
        if self._is_over or number in self._kept:
            return
        metric, step, figures = float(report["metric"]), int(report["step"]), dict(report["figures"])
        with self._lock:
            trial = self.trials[number]
            is_last = bool(report[FINISHED])
            told = [] if is_last else [{**figures, "metric": metric, "step": float(step)}]
            course = list(report["course"])
            self.trials[number] = replace(
                trial,
                overrides=dict(values),
                metric=metric,
                metrics=figures,
                steps=step,
                seconds=round(self._elapsed(number), 3),
                folder=Path(report["folder"]),
                reports=[*trial.reports, *told],
                course=course,
                state="finished" if is_last else trial.state,
            )
            self._write()
        copy = self.trials[number]
        if copy.origin and course != trial.course:
            shown = ", ".join(f"{key}={value}" for key, value in copy.overrides.items())
            self._echo(f"trial {number}: {copy.origin} ({shown})")

    def done(self, number: int) -> None:
        """It ended."""
        self._end(number, None)

    def failed(self, number: int) -> None:
        """It ended with an error, which it left in a file."""
        path = failure_path(self.folder, number)
        if path.is_file():
            self._end(number, path.read_text(encoding="utf-8"))
            return
        if number not in self._kept:
            self.lost.add(number)
        self._end(number, "its process ended; see its memory")

    def _end(self, number: int, error: str | None) -> None:
        never_began = error is None and number not in self._starts
        if self._is_over or number in self._kept or never_began:
            return
        with self._lock:
            trial = self.trials[number]
            changes: dict[str, Any] = {"seconds": round(self._elapsed(number), 3)}
            if error is not None:
                changes |= {"state": "failed", "reason": error}
            elif trial.state != "finished":
                changes |= {"state": "stopped", "reason": self._why_stopped(number)}
            self.trials[number] = trial = replace(trial, **changes)
            self._write()
        shown = "" if trial.metric is None else f", {self.search.metric} {trial.metric:.4g} after {trial.steps} steps"
        why = f": {trial.reason}" if trial.state == "failed" else ""
        self._echo(f"trial {number}: {trial.state} in {trial.seconds:.0f} s{shown}{why}")

    def _why_stopped(self, number: int) -> str:
        left = self.time_left_s
        if left is None or self._passed() < left:
            return f"by scheduler {self.search.scheduler.name}"
        return self._time_is_over()

    def _time_is_over(self) -> str:
        return f"budget.time, {self.search.budget.time}, was over"

    def _passed(self) -> float:
        return 0.0 if self._begun is None else time.monotonic() - self._begun

    def _elapsed(self, number: int) -> float:
        return time.monotonic() - self._starts.get(number, time.monotonic())

    def _write(self) -> None:
        trials = [self.trials[number] for number in sorted(self.trials)]
        write_trials(self.folder, trials, identity=self.identity, seconds=self.seconds + self._passed())
