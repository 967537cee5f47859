"""Train a student: by its task alone, or distilled from teachers."""

import json
import threading
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from raydistill.config.named import MethodSpec, TaskSpec
from raydistill.config.sections import CorpusField, ScalingConfig, StudentConfig, TeacherConfig
from raydistill.config.training import OptimizerConfig, TrainingConfig
from raydistill.data.mixture import CorpusPart, open_mixture
from raydistill.data.storages import storage_at
from raydistill.data.stored_outputs import StoredOutputs
from raydistill.methods.muki import DROPOUT_SCORES
from raydistill.models.load import load_config
from raydistill.stages import (
    _base,
    _corpora,
    _models,
    _precision,
    _stored_outputs,
    _student,
    _teacher_cache,
    _teacher_plan,
)
from raydistill.stages._base import INITIAL, Inputs
from raydistill.stages._teacher_plan import Choice
from raydistill.stages._training_plan import TrainDecisions, plan_training
from raydistill.stages._tuning import tuned
from raydistill.training.placement import CAPTURED
from raydistill.training.selection import best_folders
from raydistill.training.spec import TeacherSpec, TrainSpec
from raydistill.training.trainer import CHECKPOINTS, train
from raydistill.user_error import UserError

_HOW_ONLY = {
    "zero_stage",
    "gradient_checkpointing",
    "compile_blocks",
    "logging_steps",
    "save_steps",
    "save_total_limit",
    "keep_checkpoints",
    "max_failures",
}
"""Keys of ``training`` on which the trained student does not depend."""

_LATER = ("config", "units", "scores", "lora")
"""Keys of ``student`` that are a part of its hash only where they are set."""

_DRAWING = threading.Lock()

_OUTCOME = ("step", "stopped", "delivered", "best_metric", "best_value", "best_step", "note")
"""What a ``TrainResult`` tells of how training ended; kept in the summary and as tags."""


class Config(_base.StageConfig):
    """Data, models, method and loop of one training."""

    corpus: CorpusField
    """The name of an earlier binarize stage, its folder, or a list of these with weights."""
    task: TaskSpec = TaskSpec.parse("mlm")
    """What an example means: the name of a task and its options."""
    method: MethodSpec
    """The loss: the name of a method and its options."""
    teachers: list[TeacherConfig] = []
    """Frozen teachers, in the order in which the method numbers them."""
    teacher_outputs: str = _teacher_plan.AUTO
    """``live`` runs the teachers in each step. ``stored`` runs them over the corpus once and reads their outputs from
    the job's storage, where other trainings find them too; for classifiers of sequences the losses are the same.
    ``auto`` takes ``stored`` if the method can read stored outputs, the training reads at least as many rows as would
    be stored, and the storage has room; otherwise ``live``. The name of an earlier capture stage, or its folder, reads
    what that stage stored."""
    # Not written where it is not given, so that hashes of stages stay what they were.
    tuned_by: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """The name of an earlier choose stage. The numbers in the matrix of the run that it chose, such as
    ``optimizer.learning_rate``, replace those of this stage; its seed does not. In this way a stage with a matrix of
    seeds trains with what the trials of another stage found."""
    student: StudentConfig
    """How the student starts, and which of its weights train."""
    training: TrainingConfig = TrainingConfig()
    """The loop: how long, how large its batches are, how often it evaluates and saves."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """The optimizer and the schedule of its rate."""


class Stage(_base.Stage):
    """Leaves the student in ``student``, and in ``initial`` as it was before, where the job names that."""

    config_type = Config
    trains = True
    config: Config

    def references(self) -> dict[str, str]:
        found = _corpora.references(self.config.corpus)
        for position, teacher in enumerate(self.config.teachers):
            found[f"teachers.{position}"] = teacher.checkpoint or ""
        if self.config.student.checkpoint is not None:
            found["student.checkpoint"] = self.config.student.checkpoint.checkpoint or ""
        if self.config.student.scores is not None:
            found["student.scores"] = self.config.student.scores
        if self.config.teacher_outputs not in _teacher_plan.KEYWORDS:
            found["teacher_outputs"] = self.config.teacher_outputs
        if self.config.tuned_by is not None:
            found["tuned_by"] = self.config.tuned_by
        return found

    def identity(self, scaling: ScalingConfig) -> dict[str, Any]:
        """The configuration without what decides only how fast, on what and how visibly the student is made."""
        found = super().identity(scaling)
        ignored = _HOW_ONLY
        if self._batch_dependent():
            # Which rows are together depends on it too.
            found["num_workers"] = scaling.num_workers
        else:
            ignored = {*_HOW_ONLY, "micro_batch_size"}
        found["training"] = {key: value for key, value in found["training"].items() if key not in ignored}
        for teacher in found["teachers"]:
            del teacher["placement"]
        # Students keep the hashes that they had before there were these keys.
        unset = StudentConfig(init="random", num_layers=1).model_dump(mode="json", include={*_LATER})
        found["student"] = {key: value for key, value in found["student"].items() if (key, value) not in unset.items()}
        for section, key, default in (
            (found["training"], "teacher_precision", "auto"),
            *((teacher, "quantization", None) for teacher in found["teachers"]),
        ):
            if section[key] == default:
                del section[key]
        if self.config.teacher_outputs in _teacher_plan.KEYWORDS and DROPOUT_SCORES not in _teacher_plan.kinds_of(
            self.config
        ):
            # Stored or not, teachers say the same, unless something of them is drawn.
            del found["teacher_outputs"]
        return found

    def leftovers(self, output: Path, named: Collection[str]) -> list[Path]:
        if self.config.training.keep_checkpoints:
            return []
        lora = self.config.student.lora
        # An adapter alone is nothing without the weights that it was trained on.
        is_read = INITIAL in named or (lora is not None and lora.save == "adapter")
        return [output / CHECKPOINTS, *best_folders(output), *([] if is_read else [output / _models.BEFORE])]

    def restore(self, named: Collection[str], context: _base.StageContext) -> None:
        if INITIAL in named:
            self._initial(context)

    def plan(self, scaling: ScalingConfig, inputs: Inputs) -> TrainDecisions:
        if self.config.tuned_by is not None:
            config, chosen = tuned(self.config, inputs)
            found = Stage(self.name, config).plan(scaling, inputs)
            found.lines.append(f"takes {', '.join(chosen)} from {self.config.tuned_by}")
            return found
        if self._batch_dependent() and scaling.fewest_workers < scaling.num_workers:
            raise UserError(
                f"scaling.min_workers is {scaling.min_workers}, but the loss of a row depends on the rows beside it "
                "here, so the number of workers is a part of what is learned; leave min_workers out"
            )
        decisions = plan_training(self.config, scaling, inputs)
        if self._batch_dependent(is_stored=decisions.choice.is_own):
            rows, workers = self.config.training.micro_batch_size, scaling.num_workers
            decisions.lines.append(
                f"the size of micro-batches, {rows}, and the number of workers, {workers}, are a part of what is "
                "learned; others make another student"
            )
        return decisions

    def run(self, context: _base.StageContext) -> dict[str, Any]:
        if self.config.tuned_by is not None:
            config, chosen = tuned(self.config, context.inputs)
            context.tracker.set_tags(context.run_key, {f"tuned.{key}": value for key, value in chosen.items()})
            return {**Stage(self.name, config).run(context), "tuned": chosen}
        decisions = self.plan(context.scaling, context.inputs)
        if decisions.unreached_limit:
            # The plan before the job may not have known the rows yet.
            context.echo(decisions.unreached_limit)
        config, precision = _precision.settled(self.config, decisions.student, context, row_tokens=decisions.row_tokens)
        decisions = self._with_room(config, decisions, context)
        student = self._initial(context)
        corpora = {
            "train": _corpora.train_parts(config.corpus, context.outputs, seed=context.seed),
            "validation": _corpora.validation_parts(config.corpus, context.outputs),
        }
        context.tracker.set_tags(context.run_key, _told(decisions, precision, distils=config.method.distils))
        stored, ran = self._joined(config, decisions, corpora, context)
        spec = TrainSpec(
            name=self.name,
            corpus=corpora["train"],
            validation=corpora["validation"],
            stored=stored.get("train"),
            validation_stored=stored.get("validation"),
            teacher_rows=ran,
            student=str(student),
            freeze_position_embeddings=_student.freezes_positions(config.student, load_config(student)),
            freeze_layers=config.student.freeze_layers,
            freeze_embeddings=config.student.freeze_embeddings,
            lora=config.student.lora,
            teachers=self._teachers(decisions, context),
            task=config.task,
            method=config.method,
            training=config.training,
            optimizer=config.optimizer,
            scaling=context.scaling,
            seed=context.seed,
        )
        lineage = self._lineage(spec, decisions)
        context.tracker.set_tags(context.run_key, lineage)
        launch = context.launch or train
        result = launch(spec, str(context.output), context.tracker, context.run_key, parallel=context.parallel)
        outcome = {
            name: value for name, value in asdict(result).items() if name in _OUTCOME and value not in ("", None)
        }
        context.tracker.set_tags(context.run_key, outcome)
        chosen = {"precision": precision} if precision else {}
        return {"student": result.student, "metrics": result.metrics, "lineage": lineage, **chosen, **outcome}

    def _initial(self, context: _base.StageContext) -> Path:
        """The student before training, made of what it starts from unless it is there; the same whenever it is made."""
        config, folder = self.config, context.output / _models.BEFORE
        # Runs of a matrix share this process, and torch draws fresh weights from one generator for all threads.
        with _DRAWING:
            if not folder.is_dir():
                origin = _models.resolve(config.student.checkpoint or config.teachers[0], context.inputs)
                scores = config.student.scores and _base.folder_of(config.student.scores, context.inputs)
                corpus = open_mixture(_corpora.train_parts(config.corpus, context.outputs, seed=context.seed))
                _student.write_initial(config, folder, origin, corpus, seed=context.seed, scores=scores or None)
        storage_at(folder).publish()
        return folder

    def _with_room(self, config: Config, decisions: TrainDecisions, context: _base.StageContext) -> TrainDecisions:
        """The decisions, with live teachers in place of outputs for which the storage turns out to have no room.

        Only where the outputs are stored by the choice of ``auto``, and live teachers teach the same.
        """
        execution = config.method.requirements.execution
        is_asked = any(teacher.placement == CAPTURED for teacher in config.teachers)
        if config.teacher_outputs != _teacher_plan.AUTO or not decisions.choice.is_own or is_asked:
            return decisions
        if execution.batch_dependent_when_live or DROPOUT_SCORES in decisions.reading.kinds:
            return decisions
        shortage = _teacher_cache.shortage(config, decisions.reading, decisions.teachers, context)
        if shortage is None:
            return decisions
        live = Stage(self.name, config.model_copy(update={"teacher_outputs": _teacher_plan.LIVE}))
        return replace(live.plan(context.scaling, context.inputs), choice=Choice(_teacher_plan.LIVE, shortage))

    def _teachers(self, decisions: TrainDecisions, context: _base.StageContext) -> list[TeacherSpec]:
        """The teachers that run."""
        if decisions.placement is None:
            return []
        found = zip(self.config.teachers, decisions.teachers, decisions.placement.placements, strict=True)
        return [
            TeacherSpec.model_validate(
                {
                    "folder": teacher.for_workers(context.storage),
                    "placement": placement,
                    "head": reference.head,
                    "labels": list(teacher.names),
                    "encoding": teacher.encoding,
                    "quantization": reference.quantization,
                }
            )
            for reference, teacher, placement in found
        ]

    def _joined(
        self,
        config: Config,
        decisions: TrainDecisions,
        corpora: Mapping[str, list[CorpusPart]],
        context: _base.StageContext,
    ) -> tuple[dict[str, StoredOutputs], int]:
        """What is joined to each of the corpora, nothing where teachers run live; rows that teachers ran on for it."""
        choice, ran = decisions.choice, 0
        if not choice.is_stored:
            return {}, ran
        if choice.is_own:
            found, ran = _teacher_cache.sets_of(config, decisions.reading, decisions.teachers, context)
        else:
            folder = _base.folder_of(choice.source, context.inputs)
            assert folder is not None, "a capture has run before what reads it"
            found = list(_stored_outputs.sets_below(folder))
        # Those of a method that does not distil are where the student starts; then a task reads the outputs.
        teachers = decisions.teachers if self.config.method.distils else ()
        joined = _stored_outputs.stored_outputs(
            choice.source, found, decisions.reading, corpora=corpora, teachers=teachers
        )
        return joined, ran

    def _batch_dependent(self, *, is_stored: bool = False) -> bool:
        """Whether rows of one micro-batch change each other's loss, so that its size decides what is learned.

        ``is_stored`` tells that outputs of teachers will be stored, where that is the training's own choice.
        """
        if self.config.training.loss_normalization == "per_micro_batch":
            return True
        execution = self.config.method.requirements.execution
        may_run = not is_stored and self.config.teacher_outputs in (_teacher_plan.AUTO, _teacher_plan.LIVE)
        if execution.batch_dependent_when_live and may_run:
            return True
        return execution.batch_dependent or self.config.task.batch_dependent

    def _lineage(self, spec: TrainSpec, decisions: TrainDecisions) -> dict[str, str]:
        teachers = ", ".join(_models.describe(teacher) for teacher in self.config.teachers)
        distilled = decisions.teachers if self.config.method.distils else ()
        hashes = [_models.content_of(teacher.folder) for teacher in distilled]
        options = {key: value for key, value in self.config.method.dump().items() if key != "name"}
        return {
            "method": self.config.method.name,
            "method_options": json.dumps(options),
            "teacher": teachers or "none",
            "teacher_hash": ", ".join(hashes) or "none",
            "corpus": ", ".join(_corpora.references(self.config.corpus).values()),
            "corpus_hash": open_mixture(spec.corpus).hash,
        }


def _told(decisions: TrainDecisions, precision: str, *, distils: bool) -> dict[str, str]:
    """Tags of a precision that was chosen, of where outputs of teachers come from and where those lie that run."""
    tags = {"precision": precision} if precision else {}
    if not distils:
        return tags
    choice = decisions.choice
    tags["teacher_outputs"] = f"{choice.source}, because {choice.why}" if choice.why else choice.source
    return tags if decisions.placement is None else {**tags, "placement": decisions.placement.summary}
