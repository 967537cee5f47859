"""The record of a campaign's trials, kept in the driver and written down as they go on."""

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from raydistill.search.config import SearchConfig
from raydistill.search.domains import Values
from raydistill.search.results import (
    ENDED,
    TRIALS,
    CampaignResult,
    Trial,
    TrialEvent,
    best_of,
    listed,
    read_campaign,
    write_trials,
)
from raydistill.user_error import UserError

Echo = Callable[[str], None]


def failure_path(folder: Path, number: int) -> Path:
    """Where a failed trial leaves its reason, which Ray Tune tells its driver too late."""
    return folder / TRIALS / f".failed-{number:03d}.txt"


@dataclass
class CampaignRecord:
    """The trials of a campaign, written down whenever one begins, evaluates or ends; those kept never change."""

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

    def __reduce__(self) -> Any:
        # Ray Tune stores all that it is given, for a restart that is done otherwise here.
        return type(None), ()

    def __deepcopy__(self, memo: Any) -> "CampaignRecord":
        return self

    @classmethod
    def open(cls, search: SearchConfig, folder: Path, *, identity: str) -> "CampaignRecord":
        """What an earlier run left; raises ValueError when that was of another search."""
        stored = read_campaign(folder)
        if stored is None:
            return cls(search, folder, identity)
        if stored["identity"] != identity:
            raise UserError(
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

    def samples(self) -> list[Values]:
        """What the searcher drew, of the first trials without a gap."""
        numbers = itertools.takewhile(self.trials.__contains__, itertools.count())
        return [self.trials[number].sample for number in numbers]

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
        """Write down nothing more: the trials are over, or given up, and what is still heard is not theirs."""
        with self._lock:
            self._is_over = True

    def suggested(self, number: int, values: Values, sample: Values) -> None:
        """A trial will have these values."""
        if not self._is_closed(number):
            # Also where an interrupted run had it, which in a population has other values by then.
            folder = self.folder / TRIALS
            self._keep(Trial(number, values, "pending", None, {}, 0.0, 0, "", folder, sample=sample))

    def started(self, number: int) -> None:
        """A trial has a process."""
        if self._is_closed(number) or number in self._starts:
            return
        self._starts[number] = time.monotonic()
        failure_path(self.folder, number).unlink(missing_ok=True)
        self.trials[number] = replace(self.trials[number], reports=[])
        self._echo(f"trial {number}: started ({listed(self.trials[number].overrides)})")

    def reported(self, event: TrialEvent) -> None:
        """A trial evaluated, or finished."""
        if self._is_closed(event.trial):
            return
        before = self.trials[event.trial]
        after = before.after(event, seconds=self._elapsed(event.trial))
        self._keep(after)
        if after.origin and after.course != before.course:
            self._echo(f"trial {after.number}: {after.origin} ({listed(after.overrides)})")

    def done(self, number: int) -> None:
        """A trial ended, by itself or not."""
        if self._is_closed(number) or number not in self._starts:
            return
        trial = self.trials[number]
        if trial.state != "finished":
            left = self.time_left_s
            in_time = left is None or self._passed() < left
            why = f"by scheduler {self.search.scheduler.name}" if in_time else self._time_is_over()
            trial = replace(trial, state="stopped", reason=why)
        self._end(trial)

    def failed(self, number: int) -> None:
        """A trial raised an error, which it left in a file, or its process ended."""
        if number in self._kept:
            return
        path, reason = failure_path(self.folder, number), "its process ended; see its memory"
        if path.is_file():
            reason = path.read_text(encoding="utf-8")
        else:
            self.lost.add(number)
        if not self._is_over:
            self._end(replace(self.trials[number], state="failed", reason=reason))

    def _end(self, trial: Trial) -> None:
        trial = replace(trial, seconds=self._elapsed(trial.number))
        self._keep(trial)
        shown = "" if trial.metric is None else f", {self.search.metric} {trial.metric:.4g} after {trial.steps} steps"
        why = f": {trial.reason}" if trial.state == "failed" else ""
        self._echo(f"trial {trial.number}: {trial.state} in {trial.seconds:.0f} s{shown}{why}")

    def _is_closed(self, number: int) -> bool:
        """Whether nothing is written down of a trial any more."""
        return self._is_over or number in self._kept

    def _time_is_over(self) -> str:
        return f"budget.time, {self.search.budget.time}, was over"

    def _passed(self) -> float:
        return 0.0 if self._begun is None else time.monotonic() - self._begun

    def _elapsed(self, number: int) -> float:
        return round(time.monotonic() - self._starts.get(number, time.monotonic()), 3)

    def _keep(self, trial: Trial) -> None:
        with self._lock:
            if not self._is_over:
                self.trials[trial.number] = trial
                self._write()

    def _write(self) -> None:
        trials = [self.trials[number] for number in sorted(self.trials)]
        write_trials(self.folder, trials, identity=self.identity, seconds=self.seconds + self._passed())
