"""Train a student: by its task alone, or distilled from teachers."""

import json
import shutil
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from raydistill.config.named import MethodSpec, TaskSpec
from raydistill.config.sections import (
    CorpusField,
    OptimizerConfig,
    ScalingConfig,
    StudentConfig,
    TeacherConfig,
    TrainingConfig,
)
from raydistill.data import mirror
from raydistill.data.corpus import Corpus
from raydistill.data.mixture import CorpusPart, Mixture, open_mixture
from raydistill.data.stored_outputs import StoredOutputs
from raydistill.methods._teacher_scores import DROPOUT_SCORES
from raydistill.models import layer_selection
from raydistill.models.classes import with_classes
from raydistill.models.load import CLASSIFIERS, load_config, load_model, load_tokenizer, save_model
from raydistill.stages import (
    _base,
    _captured,
    _checkpoints,
    _choice,
    _classes,
    _corpora,
    _encodings,
    _fit,
    _placement,
    _plans,
    _stored,
)
from raydistill.store_paths import local_path
from raydistill.training.placement import Plan
from raydistill.training.spec import TeacherSpec, TrainSpec
from raydistill.training.trainer import train

_HOW_ONLY = {"zero_stage", "logging_steps", "checkpoint_steps", "keep_checkpoints", "max_failures"}
"""Keys of ``training`` on which the trained student does not depend."""

_DRAWING = threading.Lock()

_OUTCOME = ("step", "stopped", "delivered", "best_metric", "best_value", "best_step", "note")
"""What a ``TrainResult`` tells of how training ended; kept in the summary and as tags."""


class Config(_base.StageConfig):
    """Data, models, method and loop of one training."""

    corpus: CorpusField
    """Name of an earlier binarize stage or its folder, or a list of them with weights."""
    task: TaskSpec = TaskSpec.parse("mlm")
    """What an example means: the name of a task and its options."""
    method: MethodSpec
    """The loss: the name of a method and its options."""
    teachers: list[TeacherConfig] = []
    """Frozen teachers, in the order that the method numbers them."""
    teacher_outputs: str = _stored.AUTO
    """``live`` runs the teachers in each step. ``stored`` runs them over the corpus once and reads what they said, from
    below the job's storage, where other trainings find it: of classifiers of sequences the same, and faster. ``auto``
    takes ``stored`` where the method can and the training reads as many rows as that takes, else ``live``. The name of
    an earlier capture stage, or its folder, reads what that stored."""
    student: StudentConfig
    training: TrainingConfig = TrainingConfig()
    optimizer: OptimizerConfig = OptimizerConfig()


class Stage(_base.Stage):
    """Leaves the student before training in ``initial`` and after it in ``student``."""

    config_type = Config
    config: Config

    def references(self) -> dict[str, str]:
        found = _corpora.references(self.config.corpus)
        for position, teacher in enumerate(self.config.teachers):
            found[f"teachers.{position}"] = teacher.checkpoint or ""
        if self.config.student.checkpoint is not None:
            found["student.checkpoint"] = self.config.student.checkpoint.checkpoint or ""
        if self.config.teacher_outputs not in _stored.KEYWORDS:
            found["teacher_outputs"] = self.config.teacher_outputs
        return found

    def identity(self, scaling: ScalingConfig) -> dict[str, Any]:
        """The configuration without what decides only how fast, on what and how visibly the student is made."""
        found = super().identity(scaling)
        ignored = _HOW_ONLY
        if self._row_coupled():
            # Which rows are together depends on it too.
            found["num_workers"] = scaling.num_workers
        else:
            ignored = {*_HOW_ONLY, "micro_batch_size"}
        found["training"] = {key: value for key, value in found["training"].items() if key not in ignored}
        for teacher in found["teachers"]:
            del teacher["placement"]
        if self.config.teacher_outputs in _stored.KEYWORDS and DROPOUT_SCORES not in _stored.kinds_of(self.config):
            # Stored or not, teachers say the same, unless something of them is drawn.
            del found["teacher_outputs"]
        return found

    def check(self, scaling: ScalingConfig, earlier: Mapping[str, _base.Forecast]) -> _base.Forecast:
        if self._row_coupled() and scaling.fewest_workers < scaling.num_workers:
            raise ValueError(
                f"scaling.min_workers is {scaling.min_workers}, but the loss of a row depends on the rows beside it "
                "here, so the number of workers is a part of what is learned; leave min_workers out"
            )
        forecast = _fit.check_training(self.config, scaling, earlier)
        if forecast.captures:
            forecast.lines.extend(_captured.lines(self.config, earlier, forecast.models[""]))
        if self._row_coupled(is_stored=forecast.captures):
            rows, workers = self.config.training.micro_batch_size, scaling.num_workers
            forecast.lines.append(
                f"the size of micro-batches, {rows}, and the number of workers, {workers}, are a part of what is "
                "learned; others make another student"
            )
        return forecast

    def run(self, context: _base.StageContext) -> dict[str, Any]:
        resolved = [_checkpoints.resolve(teacher, context.outputs) for teacher in self.config.teachers]
        teachers = [_checkpoints.for_workers(folder, context.storage) for folder in resolved]
        initial = context.output / "initial"
        corpus = _corpora.train_parts(self.config.corpus, context.outputs, seed=context.seed)
        # Runs of a matrix share this process, and torch draws fresh weights from one generator for all threads.
        with _DRAWING:
            if not initial.is_dir():
                self._write_initial(initial, teachers, context, open_mixture(corpus))
        mirror.publish(initial)
        held_out = _corpora.held_out_parts(self.config.corpus, context.outputs)
        choice, plan = self._decided(initial, teachers, corpus, context)
        stored, ran = self._joined(choice, initial, teachers, {"train": corpus, "held_out": held_out}, context)
        spec = TrainSpec(
            name=self.name,
            corpus=corpus,
            held_out=held_out,
            stored=stored.get("train"),
            held_out_stored=stored.get("held_out"),
            teacher_rows=ran,
            student=str(initial),
            freeze_position_embeddings=self._freezes_positions(initial),
            freeze_layers=self.config.student.freeze_layers,
            freeze_embeddings=self.config.student.freeze_embeddings,
            teachers=[
                TeacherSpec.model_validate(
                    {
                        "folder": str(folder),
                        "placement": plan.placements[number],
                        "head": teacher.head,
                        "labels": list(_classes.names_of(teacher, load_config(folder))),
                        "encoding": _encodings.of_folder(f"teachers.{number}", folder, Corpus.open(corpus[0].uri)),
                    }
                )
                for number, (folder, teacher) in enumerate(zip(teachers, self.config.teachers, strict=True))
                if plan is not None
            ],
            task=self.config.task,
            method=self.config.method,
            training=self.config.training,
            optimizer=self.config.optimizer,
            scaling=context.scaling,
            seed=context.seed,
        )
        lineage = self._lineage(spec, teachers if self.config.method.distils else [])
        context.tracker.set_tags(context.run_key, lineage)
        launch = context.launch or train
        result = launch(spec, str(context.output), context.tracker, context.run_key, parallel=context.parallel)
        outcome = {
            name: value for name, value in asdict(result).items() if name in _OUTCOME and value not in ("", None)
        }
        context.tracker.set_tags(context.run_key, outcome)
        return {"student": result.student, "metrics": result.metrics, "lineage": lineage, **outcome}

    def _row_coupled(self, *, is_stored: bool = False) -> bool:
        """Whether rows of one micro-batch change each other's loss, so that its size decides what is learned.

        ``is_stored`` tells that outputs of teachers will be stored, where that is the training's own choice.
        """
        if self.config.training.loss_normalization == "per_micro_batch":
            return True
        method, task = self.config.method, self.config.task
        requirements = method.requirements
        if requirements.coupled_live and not is_stored and self.config.teacher_outputs in (_stored.AUTO, _stored.LIVE):
            return True
        return bool(requirements.row_coupled or task.row_coupled)

    def _freezes_positions(self, initial: Path) -> bool:
        """A student that is made here may keep its positions; one that continues a checkpoint trains them."""
        wanted = self.config.student.freeze_position_embeddings
        if self.config.student.init == "checkpoint":
            return False
        return load_config(initial).model_type == "distilbert" if wanted is None else wanted

    def _write_initial(
        self, folder: Path, teachers: list[Path], context: _base.StageContext, corpus: Corpus | Mixture
    ) -> None:
        """Build the student and save it with the tokenizer of the corpus, in one rename."""
        config, task = self.config.student, self.config.task
        head, labels = task.head, task.outputs(corpus.encoding.labels)
        reference = config.checkpoint or self.config.teachers[0]
        origin = _checkpoints.resolve(reference, context.outputs) if config.checkpoint else teachers[0]
        if config.init == "random":
            source_config = load_config(origin)
            student = layer_selection.random_student(
                with_classes(source_config, labels) if head in CLASSIFIERS else source_config,
                architecture=config.architecture,
                num_layers=config.num_layers or len(config.layers or []),
                seed=context.seed,
                head=head,
            )
        else:
            # Only a new head is drawn, by the run's own seed.
            student = load_model(
                origin,
                head=head,
                labels=labels,
                names=_classes.names_of(reference, load_config(origin)),
                # A teacher that knows a part of the classes gives the student its blocks alone.
                allow_new_head=reference.head == "new"
                or (config.checkpoint is None and _classes.know_parts(self.config)),
                seed=context.seed,
            )
        if config.init == "layers":
            student = layer_selection.student_from_layers(
                student,
                architecture=config.architecture,
                layers=_fit.student_layers(config),
                vocab_transform=config.vocab_transform,
                seed=context.seed,
            )
        _plans.write_plan(config, student.config, head=head)
        temporary = folder.with_name(".initial")
        shutil.rmtree(temporary, ignore_errors=True)
        save_model(student, load_tokenizer(mirror.fetch(corpus.tokenizer_uri)), temporary)
        temporary.rename(folder)

    def _decided(
        self, initial: Path, teachers: list[Path], corpus: list[CorpusPart], context: _base.StageContext
    ) -> tuple[_choice.Choice, Plan | None]:
        """Where the teachers' outputs come from and where those that run lie, told as tags."""
        models = list(map(load_config, [initial, *teachers]))
        choice = _choice.of_corpus(self.config, corpus)
        choice, plan = _placement.decided(self.config, context.scaling, models, choice)
        if self.config.method.distils:
            tags = {"teacher_outputs": f"{choice.source}, because {choice.why}" if choice.why else choice.source}
            tags |= {} if plan is None else {"placement": plan.summary}
            context.tracker.set_tags(context.run_key, tags)
        return choice, plan

    def _joined(
        self,
        choice: _choice.Choice,
        initial: Path,
        teachers: list[Path],
        corpora: Mapping[str, list[CorpusPart]],
        context: _base.StageContext,
    ) -> tuple[dict[str, StoredOutputs], int]:
        """What is joined to each of the corpora, nothing where teachers run live; rows that teachers ran on for it."""
        if not choice.is_stored:
            return {}, 0
        configs = [load_config(folder) for folder in teachers]
        reading = _stored.Reading(
            _stored.kinds_of(self.config),
            _stored.layers_of(self.config, load_config(initial), configs),
            _stored.labels_of(self.config, open_mixture(corpora["train"]).encoding.labels, configs),
        )
        # Those of a method that does not distil are where the student starts; then a task reads the outputs.
        named = [
            (folder, _classes.names_of(teacher, config))
            for folder, teacher, config in zip(teachers, self.config.teachers, configs, strict=True)
        ]
        read = named if self.config.method.distils else []
        ran = 0
        if choice.is_own:
            found, ran = _captured.sets_of(self.config, reading.layers, context)
        else:
            found = list(_stored.sets_below(context.outputs.get(choice.source, local_path(choice.source))))
        return _stored.stored_outputs(choice.source, found, reading, corpora=corpora, teachers=read), ran

    def _lineage(self, spec: TrainSpec, folders: list[Path]) -> dict[str, str]:
        teachers = ", ".join(_checkpoints.describe(teacher) for teacher in self.config.teachers)
        options = {key: value for key, value in self.config.method.dump().items() if key != "name"}
        return {
            "method": self.config.method.name,
            "method_options": json.dumps(options),
            "teacher": teachers or "none",
            "teacher_hash": ", ".join(map(_checkpoints.content_of, folders)) or "none",
            "corpus": ", ".join(_corpora.references(self.config.corpus).values()),
            "corpus_hash": open_mixture(spec.corpus).hash,
        }
