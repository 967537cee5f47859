"""What each run of a job will do: planned before anything runs, and again whenever more is known."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from pydantic import ValidationError

from raydistill.config.errors import error_lines
from raydistill.job.expand import StageRun
from raydistill.job.load import Job
from raydistill.job.record import StageRecord, registered_checkpoints
from raydistill.stages._base import CorpusFacts, Decisions, Input, Inputs
from raydistill.user_error import UserError


@contextmanager
def of_stage(name: str) -> Iterator[None]:
    """Turn what a stage refuses inside the block into a UserError, each line led by the stage's key."""
    try:
        yield
    except (UserError, ValidationError) as error:
        raise UserError(error_lines(error, source=f"stages.{name}")) from None


@dataclass
class Plans:
    """The plans of a job's runs, each made with what those before it will leave or have left."""

    job: Job
    records: Mapping[str, StageRecord]
    made: dict[str, Input] = field(default_factory=dict)
    """What each planned run leaves, by its name."""

    def plan(self, name: str) -> Decisions:
        """Plan a run, given the plans of those before it; raises ValueError where it cannot do its work."""
        run, record = self.job.runs[name], self.records[name]
        decisions = run.stage.plan(self.job.scaling(run.stage), self.inputs(run))
        # Of a finished corpus its folder tells more, without being fetched as a model would be.
        is_there = record.finished and isinstance(decisions.makes, CorpusFacts)
        self.made[name] = Input(decisions.makes, record.output if is_there else None)
        return decisions

    def plan_all(self) -> None:
        """Plan every run in order; raises UserError for the first that cannot."""
        for name in self.job.runs:
            with of_stage(name):
                self.plan(name)

    def take(self, finished: Iterable[str]) -> None:
        """Plan again all runs that, directly or not, read some that have finished now.

        Raises UserError for the first that cannot do its work with what they left.
        """
        changed = set(finished)
        for name in changed:
            self.made[name] = replace(self.made[name], folder=self.records[name].output)
        for name, run in self.job.runs.items():
            reads = {one for names in run.inputs.values() for one in names}
            if reads & changed and not self.records[name].finished:
                with of_stage(name):
                    self.plan(name)
                changed.add(name)

    def inputs(self, run: StageRun) -> Inputs:
        """What each reference of a run leads to: what the first run makes stands for all of a stage."""
        earlier = {
            key: replace(self.made[names[0]], runs={name: self.job.runs[name].assignment for name in names})
            for key, names in run.inputs.items()
        }
        registered = registered_checkpoints(self.job, run)
        return {**earlier, **{reference: Input(folder=folder) for reference, folder in registered.items()}}
