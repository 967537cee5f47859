"""The training loop, run by every worker: feed, count, step, log, evaluate, save."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from raydistill import draws
from raydistill.batch import Batch
from raydistill.cluster.resources import data_task_cpus
from raydistill.data.mixture import CorpusPart
from raydistill.data.storages import storage_at
from raydistill.data.stored_outputs import TEACHER_ROWS, StoredOutputs
from raydistill.data.stream import FeedSpec, validation_batches
from raydistill.optim.schedules import SCHEDULES, Shape
from raydistill.store_paths import here
from raydistill.tracking.tracker import Tracker
from raydistill.training.agreement import StorageError
from raydistill.training.ahead import Ahead, lane_of
from raydistill.training.best_students import BestStudents
from raydistill.training.checkpoint import write_student
from raydistill.training.collectives import add_up, summed
from raydistill.training.engine import Engine
from raydistill.training.finite import NonFiniteLossError, check_finite
from raydistill.training.history import HISTORY, append_history, cut_history
from raydistill.training.pace import Pace
from raydistill.training.position import Position, Terms
from raydistill.training.progress import Activities, Record
from raydistill.training.result import TrainResult
from raydistill.training.selection import METHOD, TASK, best_folder, missing_note, replace_by_copy
from raydistill.training.session import Session
from raydistill.training.spec import TrainSpec
from raydistill.training.window import Window
from raydistill.user_error import UserError

Read = TypeVar("Read")

VALIDATION_SEED = 0
"""Key of the rows, masks and partners of evaluations: the same for runs of any seed, so that they compare."""


class EvaluationError(UserError):
    """Evaluations have nothing to score, or not the metric that was asked for."""


FAILURES = (NonFiniteLossError, EvaluationError, StorageError)
"""What ends a training in a way that the same again would meet too; of one line."""


class Loop:
    """One rank's part of a training."""

    def __init__(
        self,
        spec: TrainSpec,
        engine: Engine,
        config: Mapping[str, Any],
        *,
        rank: int,
        num_workers: int,
        session: Session,
    ) -> None:
        self.spec, self.engine = spec, engine
        self.session = session
        self.rank, self.num_workers = rank, num_workers
        self.output = here(config["output"])
        self.output.mkdir(parents=True, exist_ok=True)
        self.tracker: Tracker = config["tracker"]
        self.run_key: str = config["run_key"]
        self.board = config["board"]
        self._activities = Activities(self.board if rank == 0 else None)
        training = spec.training
        self.feed_spec = self._feed_spec(spec.corpus, spec.stored, seed=spec.seed)
        self.validation_spec = self._feed_spec(spec.validation, spec.validation_stored, seed=VALIDATION_SEED)
        self.steps_per_epoch = self.feed_spec.plan().steps_per_epoch
        self.num_steps = training.num_steps(self.steps_per_epoch)
        self.last_step = training.last_step(self.steps_per_epoch)
        self.eval_every = training.steps_between_evaluations(self.steps_per_epoch)
        self.schedule = self._schedule()
        self.position = Position(teacher_rows=spec.teacher_rows)
        self.task = self.validation_spec.make_task()
        self.bests = BestStudents.of(training, spec.task, spec.method, self.task.labels, self.output)
        self._validation: tuple[list[Batch], list[dict[str, Tensor]]] | None = None
        self._pace, self._window = Pace(), Window()
        self._counted_rows = 0

    def _feed_spec(self, corpus: Sequence[CorpusPart], stored: StoredOutputs | None, *, seed: int) -> FeedSpec:
        training = self.spec.training
        return FeedSpec.make(
            corpus,
            self.spec.task,
            self.spec.method,
            seed=seed,
            batch_size=training.batch_size,
            num_micro_batches=training.num_micro_batches(self.num_workers),
            group_by_length=training.group_by_length,
            shuffle=training.shuffle,
            stored=stored,
            encodings=[teacher.encoding for teacher in self.spec.teachers],
        )

    def _schedule(self) -> Callable[[int], float]:
        """Learning rate by optimizer step, from 0."""
        optimizer = self.spec.optimizer
        multiplier = SCHEDULES[optimizer.schedule]
        shape = Shape(
            self.num_steps,
            optimizer.warmup_proportion,
            power=optimizer.schedule_power,
            num_cycles=optimizer.schedule_cycles,
        )
        return lambda step: optimizer.learning_rate * multiplier(step, shape)

    def run(self) -> None:
        """Train from the latest checkpoint, or from the start, to the end, and write the student."""
        state = self.session.restore(self.engine)
        if state is not None:
            self.position = Position.from_state(state["position"])
        if self.rank == 0:
            cut_history(self.output, -1 if state is None else self.position.step)
        self._prune_best()
        steps = self.session.feed(
            self.feed_spec,
            rank=self.rank,
            world_size=self.num_workers,
            start_step=self.position.step,
            stop_step=self.last_step,
            num_data_tasks=self.spec.scaling.data_cpus_per_worker,
            cpus_per_task=data_task_cpus(self.spec.scaling),
        )
        # Closed, so that the data tasks end when training stops early.
        with closing(steps):
            if state is None:
                self._evaluate()
            self._pace.restart()
            ahead = Ahead(steps, self.engine.device, lane_of(self.engine.device))
            while self.position.step < self.last_step and not self.position.stopped:
                batches = self._waited(ahead.take)
                self._one_step(batches, meanwhile=lambda: self._waited(ahead.prepare))
        self._finish()

    def _waited(self, read: Callable[[], Read]) -> Read:
        """What ``read`` returns, its time counted as waiting for data."""
        start = time.perf_counter()
        found = read()
        self._pace.waited += time.perf_counter() - start
        return found

    def _one_step(self, batches: list[Batch], meanwhile: Callable[[], None] = lambda: None) -> None:
        step = self.position.step
        # Dropout depends on seed, rank and step alone, so a restarted run draws what an undisturbed one would.
        torch.manual_seed(int(draws.integers("dropout", self.spec.seed, self.rank, step, high=2**62)))
        learning_rate = self.schedule(step)
        denominators, tokens = self._denominators(batches)
        totals = self.engine.step(batches, denominators, learning_rate=learning_rate, meanwhile=meanwhile)
        self.position.step = step + 1
        self._pace.add(tokens)
        self._window.add(totals)
        self._activities.show(self.position.step, self.last_step)
        training = self.spec.training
        log = self._is_due(training.logging_steps)
        evaluate = self._is_due(self.eval_every)
        save = self._is_due(training.save_steps or self.steps_per_epoch)
        # Elsewhere a GPU's step waits neither for the other ranks nor for the host; and what is kept is checked first.
        if log or evaluate or save or self.engine.device.type == "cpu":
            totals = summed(totals)
            self._check_finite(totals, batches, denominators)
        if log:
            self._log(totals, learning_rate)
        found = self._evaluate() if evaluate else None
        if found is not None:
            self._select(found)
        if save or self.position.stopped:
            self._save()
        if found is not None and self.position.step < self.last_step and not self.position.stopped:
            self._tell(found)

    def _is_due(self, every: int) -> bool:
        return self.position.step % every == 0 or self.position.step == self.last_step

    def _denominators(self, batches: Sequence[Batch]) -> tuple[list[dict[str, Tensor]], Tensor]:
        """What each micro-batch divides its sums by, and the tokens of the whole step, with one collective."""
        counts = [self.engine.distiller.denominators(batch) for batch in batches]
        tokens = sum(batch["token_index"].shape[0] for batch in batches)
        names = list(counts[0])
        local = [torch.stack([count[name].double() for count in counts]).sum() for name in names]
        totals = torch.stack([*local, local[0].new_full((), tokens)])
        add_up(totals)
        if self.spec.training.loss_normalization == "per_micro_batch":
            parts = self.num_workers * len(batches)
            return [{name: count[name] * parts for name in names} for count in counts], totals[-1]
        return [dict(zip(names, totals[:-1], strict=True))] * len(batches), totals[-1]

    def _log(self, totals: dict[str, Tensor], learning_rate: float) -> None:
        elapsed, waited, tokens = self._pace.restart()
        metrics = {f"train/{name}": value.item() for name, value in totals.items()}
        metrics["learning_rate"] = learning_rate
        metrics["speed/tokens_per_s"] = tokens / elapsed
        metrics["speed/data_wait_percent"] = 100 * waited / elapsed
        self.position.tokens += int(tokens)
        metrics["progress/tokens"] = self.position.tokens
        metrics |= self._teacher_metric()
        metrics["progress/epoch"] = self.position.step / self.steps_per_epoch
        means = summed(self._window.means())
        self._publish(metrics, means={f"train/{name}": value.item() for name, value in means.items()})

    def _teacher_metric(self) -> Terms:
        """How many rows teachers were run on, over all ranks, which all call it; nothing where there are none."""
        distiller = self.engine.distiller
        if self.spec.stored is None and not distiller.teachers:
            return {}
        rows = torch.tensor(distiller.teacher_rows - self._counted_rows, dtype=torch.float64, device=self.engine.device)
        add_up(rows)
        self.position.teacher_rows += int(rows)
        self._counted_rows = distiller.teacher_rows
        return {TEACHER_ROWS: float(self.position.teacher_rows)}

    def _publish(self, metrics: Terms, *, means: Terms | None = None) -> None:
        """Keep and track metrics, and show them; of what changes from step to step the ``means`` are shown."""
        self.position.metrics |= metrics
        if self.rank > 0:
            return
        append_history(self.output, self.position.step, metrics)
        self.tracker.log_metrics(self.run_key, metrics, self.position.step)
        remaining = (self.last_step - self.position.step) * self._pace.seconds_per_step
        self.board.post.remote(Record(self.position.step, self.last_step, metrics | (means or {}), remaining))

    def _check_finite(
        self, totals: dict[str, Tensor], batches: list[Batch], denominators: list[dict[str, Tensor]]
    ) -> None:
        def again() -> None:
            # One rank alone may fail at it, for which others would wait where weights are gathered.
            if self.spec.training.zero_stage < 3:
                self.engine.evaluate(batches, denominators, lambda _student, _batch: {})

        teachers = self.engine.distiller.teachers
        check_finite(totals, self.position.step, batches=batches, teachers=teachers, again=again)

    def _evaluate(self) -> Terms:
        """The method's loss and the task's metrics on the same validation rows and targets each time."""
        start = time.perf_counter()
        batches, denominators = self._validation_batches()
        totals, scores = self.engine.evaluate(
            batches,
            denominators,
            self.task.score,
            lambda done: self._activities.show(done, len(batches), name="evaluation"),
        )
        totals, scores = summed(totals), summed(scores)
        self._check_finite(totals, batches, denominators)
        try:
            found = self.task.metrics({name: value.cpu().numpy() for name, value in scores.items()})
            metrics = {f"{METHOD}{name}": value.item() for name, value in totals.items()}
            of_task = self.task.higher_is_better(self.task.config, self.task.labels)
            # Without labels there is nothing to compare with.
            metrics |= {f"{TASK}{name}": found[name] for name in of_task if name in found}
            self.bests.check(metrics)
        except UserError as error:
            raise EvaluationError(str(error)) from None
        self._publish(metrics | self._teacher_metric())
        self._activities.show(self.position.step, self.last_step)
        self._pace.exclude(time.perf_counter() - start)
        return metrics

    def _validation_batches(self) -> tuple[list[Batch], list[dict[str, Tensor]]]:
        """This rank's validation batches and their denominators, read and counted once."""
        if self._validation is None:
            self._activities.show(name="validation rows")
            found = validation_batches(
                self.validation_spec,
                micro_batch_size=self.spec.training.micro_batch_size,
                num_rows=self.spec.training.eval_rows,
                rank=self.rank,
                world_size=self.num_workers,
            )
            batches = [batch.to(self.engine.device) for batch in found]
            denominators, _ = self._denominators(batches)
            self._validation = batches, denominators
        return self._validation

    def _select(self, metrics: Terms) -> None:
        """Keep the student if this evaluation is the best so far, and stop when better ones fail to come."""
        start = time.perf_counter()
        position = self.position
        is_last = position.step >= self.last_step
        if self.bests.judge(position, metrics, device=self.engine.device, is_last=is_last):
            self._write_student(best_folder(self.output, position.step))
            self._prune_best()
        self._pace.exclude(time.perf_counter() - start)

    def _prune_best(self) -> None:
        if self.rank == 0:
            self.bests.prune(self.position)

    def _tell(self, found: Terms) -> None:
        """Let the session know of an evaluation after which training is to go on."""
        start = time.perf_counter()
        state = {"position": asdict(self.position)}
        self.session.evaluated(
            self.position.step, self.position.metrics | found, lambda folder: self.engine.save(folder, state)
        )
        self._pace.exclude(time.perf_counter() - start)

    def _save(self) -> None:
        start = time.perf_counter()
        position = self.position
        self.bests.remember(position, num_saves=self.spec.training.save_total_limit)
        self._teacher_metric()
        if self.rank == 0:
            storage_at(self.output / HISTORY).publish()
            # Training goes on from here and tracks none of the steps before again.
            self.tracker.wait_until_spooled()
        self.session.save(self.engine, position.metrics, {"position": asdict(position)})
        self._prune_best()
        self._pace.exclude(time.perf_counter() - start)

    def _finish(self) -> None:
        position, training = self.position, self.spec.training
        if not position.stopped and self.last_step < self.num_steps:
            position.stopped = f"training.{training.stop_key} is {getattr(training, training.stop_key)}"
        kept = position.standing.kept_step
        delivers_best = training.load_best_model_at_end and kept is not None
        if not delivers_best:
            self._write_student(self.output / "student")
        if self.rank == 0:
            result = self._result(delivers_best=delivers_best)
            if delivers_best:
                replace_by_copy(Path(result.student), storage_at(result.best).fetch())
                storage_at(Path(result.student)).publish()
            notes = self.bests.deliver_further(position, Path(result.student))
            for sentence in filter(None, (result.stopped, result.note, *notes)):
                self.board.post.remote(Record(position.step, self.last_step, {}, 0.0, note=sentence))
            storage_at(self.output / HISTORY).publish()
            result.write(self.output)

    def _result(self, *, delivers_best: bool) -> TrainResult:
        position, standing = self.position, self.position.standing
        kept, wants_best = standing.kept_step, self.spec.training.load_best_model_at_end
        return TrainResult(
            student=str(self.output / "student"),
            metrics=position.metrics | (position.best_metrics if delivers_best else {}),
            step=position.step,
            stopped=position.stopped,
            delivered="best" if delivers_best else "last",
            best_metric=self.bests.criterion.key,
            best_value=standing.best_value,
            best_step=standing.best_step,
            best="" if kept is None else str(best_folder(self.output, kept)),
            further=self.bests.shown_further(position),
            note=missing_note(standing, self.bests.criterion) if wants_best and kept is None else "",
        )

    def _write_student(self, folder: Path) -> None:
        write_student(self.engine, self.spec.student, folder, head=self.task.HEAD, lora=self.spec.lora)
