"""Stages are planned again after each that finishes, with what it left, before the next one starts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raydistill.config.sections import ScalingConfig
from raydistill.job import load, run
from raydistill.job.load import Job, load_job
from raydistill.job.plans import Plans
from raydistill.job.record import stage_records
from raydistill.job.run import JobResult, Runner
from raydistill.stages import _base
from raydistill.stages._base import Decisions, Input, Inputs, ModelFacts, StageConfig
from raydistill.user_error import UserError
from toys.tracker import MemoryTracker

SEEN: list[tuple[str, dict[str, Input]]] = []


class Config(StageConfig):
    """Which stages it reads."""

    reads: list[str] = []


class Toy(_base.Stage):
    """Refuses, once it knows, what a stage left that is called ``bad``."""

    config_type = Config
    aggregates = True

    def references(self) -> dict[str, str]:
        return {f"reads.{number}": name for number, name in enumerate(self.config.reads)}

    def plan(self, scaling: ScalingConfig, inputs: Inputs) -> Decisions:
        SEEN.append((self.name, dict(inputs)))
        for name, one in inputs.items():
            if one.folder is not None and (one.folder / "bad").is_file():
                raise UserError(f"reads is {name!r}, which is bad; fix it")
        return Decisions(makes=ModelFacts({"": self.name}))

    def run(self, context: _base.StageContext) -> dict[str, Any]:
        if self.name.startswith("bad"):
            (context.output / "bad").touch()
        assert all(isinstance(one.facts, ModelFacts) and one.folder for one in context.inputs.values())
        return {}


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Job]:
    SEEN.clear()
    monkeypatch.setattr(load, "stage_type", lambda kind: Toy)
    monkeypatch.setattr(load.discovery, "names", lambda package: ["toy"])
    monkeypatch.setattr(run.cluster, "capacity", lambda scaling: 1)

    def make(**stages: list[str]) -> Job:
        plain = {name: {"kind": "toy", "reads": reads} for name, reads in stages.items()}
        return load_job({"name": "plans", "storage": str(tmp_path), "stages": plain})

    return make


def run_all(job: Job, folder: Path) -> JobResult:
    tracker, result = MemoryTracker(), JobResult(folder)
    runner = Runner(job, stage_records(job), tracker, result, echo=lambda line: None)
    (folder / "resolved.yaml").write_text("")
    runner.run(folder / "resolved.yaml")
    return result


def test_what_reads_a_stage_is_planned_before_it_and_again_after_it(job: Callable[..., Job], tmp_path: Path) -> None:
    result = run_all(job(first=[], second=["first"], third=["second"], other=[]), tmp_path)
    assert [name for name, _ in SEEN] == ["first", "second", "third", "other", "second", "third", "third"]
    folders = [None if not inputs else next(iter(inputs.values())).folder for _, inputs in SEEN]
    first, second = result.outputs["first"], result.outputs["second"]
    assert folders == [None, None, None, None, first, None, second]
    facts = [one.facts for _, inputs in SEEN for one in inputs.values()]
    assert [one.configs[""] for one in facts if isinstance(one, ModelFacts)] == [
        "first",
        "second",
        "first",
        "second",
        "second",
    ]


def test_a_refusal_that_what_was_left_brings_comes_before_the_next_stage_starts(
    job: Callable[..., Job], tmp_path: Path
) -> None:
    made = job(bad=[], between=[], last=["bad"])
    with pytest.raises(UserError) as error:
        run_all(made, tmp_path)
    assert error.value.lines == ["stages.last: reads is 'bad', which is bad; fix it"]
    records = stage_records(made)
    assert {name: record.finished for name, record in records.items()} == {
        "bad": True,
        "between": False,
        "last": False,
    }


def test_stages_that_finished_before_are_not_planned_again(job: Callable[..., Job], tmp_path: Path) -> None:
    made = job(first=[], second=["first"])
    run_all(made, tmp_path)
    SEEN.clear()
    plans = Plans(made, stage_records(made))
    plans.plan_all()
    plans.take(["first"])
    assert [name for name, _ in SEEN] == ["first", "second"]
