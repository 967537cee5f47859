"""Trainings of one worker in a process that is kept for the next one: starting it costs more than a short training."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType, TracebackType
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

from raydistill.config.sections import ScalingConfig
from raydistill.tracking.tracker import Tracker
from raydistill.training.engine import prepare_environment
from raydistill.training.in_process import loop_here
from raydistill.training.lost_workers import loss_note
from raydistill.training.progress import Record
from raydistill.training.result import TrainResult
from raydistill.training.spec import TrainSpec
from raydistill.training.trainer import follow, train
from raydistill.training.worker import FAILURES

_MODELING = re.compile(r"transformers\.models\.\w+\.modeling_\w+")


def is_kept(scaling: ScalingConfig) -> bool:
    """Whether a training of this scaling runs in a kept process: one worker on the CPUs of this machine's own Ray.

    Elsewhere a process that is kept would hold what other jobs, or the next stage, wait for.
    """
    return scaling.num_workers == 1 and not scaling.use_gpu and not os.environ.get("RAY_ADDRESS")


class KeptProcess:
    """A process that trains; run as an actor."""

    def prepare(self) -> None:
        """Import what every training needs."""
        prepare_environment(use_gpu=False)

    def know(self, modules: Sequence[ModuleType]) -> None:
        """Modules travel by name: this process has imported them when it is called with them."""

    def train(self, spec: TrainSpec, config: Mapping[str, Any], parallel: int) -> str:
        """Train to the end, from the latest checkpoint; returns why it failed, as ``follow`` asks it."""
        try:
            loop_here(spec, config, parallel=parallel)
        except FAILURES as error:
            return str(error)
        return ""


class KeptProcesses:
    """The processes of a job: as many as it has trainings at one time, all ended when it is left."""

    def __init__(self) -> None:
        self._idle: list[Any] = []

    def __enter__(self) -> "KeptProcesses":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        while self._idle:
            ray.kill(self._idle.pop())

    def prepare(self) -> None:
        """Start the process that the first training will run in, which imports what that needs meanwhile.

        Models come in modules of their own, of which this process has imported those that it planned with.
        """
        process = _start()
        process.prepare.remote()
        process.know.remote([module for name, module in sys.modules.items() if _MODELING.fullmatch(name)])
        self._idle.append(process)

    def train(self, spec: TrainSpec, output: str, tracker: Tracker, run_key: str, *, parallel: int = 1) -> TrainResult:
        """As ``raydistill.training.trainer.train``, which trains whatever is not for a kept process."""
        if not is_kept(spec.scaling):
            return train(spec, output, tracker, run_key, parallel=parallel)

        def fit(board: Any) -> str:
            config = {"output": output, "tracker": tracker, "run_key": run_key, "board": board}
            return self._fit(spec, config, parallel)

        return follow(spec, output, fit, parallel=parallel)

    def _fit(self, spec: TrainSpec, config: Mapping[str, Any], parallel: int) -> str:
        """Train, again in a new process when one is lost."""
        restarts_left = spec.training.max_failures
        while True:
            try:
                return self._in_one(spec, config, parallel)
            except (RayActorError, OutOfMemoryError) as error:
                if not restarts_left:
                    raise
                restarts_left -= 1
                note = loss_note({0: error}, spec.scaling)
                config["board"].post.remote(Record(0, 0, {}, 0.0, note=note))

    def _in_one(self, spec: TrainSpec, config: Mapping[str, Any], parallel: int) -> str:
        """Train in a process that waits, or in a new one; it is kept if nothing unforeseen happens."""
        try:
            process = self._idle.pop()
        except IndexError:
            process = _start()
        try:
            failure: str = ray.get(process.train.remote(spec, config, parallel))
        except BaseException as error:
            ray.kill(process)
            if isinstance(error, RayTaskError) and isinstance(error.cause, Exception):
                raise error.cause from error
            raise
        self._idle.append(process)
        return failure


def _start() -> Any:
    """A new process. It asks Ray for no CPU, so that stages between two trainings have all of them."""
    return ray.remote(num_cpus=0)(KeptProcess).remote()
