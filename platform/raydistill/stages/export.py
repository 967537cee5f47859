"""Write a student for another runtime: ONNX in float32 or int8, or OpenVINO in int8."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from raydistill.atomic import atomic_folder
from raydistill.batch import Batch
from raydistill.config.directions import greater_is_better
from raydistill.config.named import TaskSpec
from raydistill.config.sections import CorpusField, CorpusRef, ModelRef, ScalingConfig, Section
from raydistill.data.stream import FeedSpec, validation_batches
from raydistill.deploy.exported import missing_packages, size_mb
from raydistill.deploy.exporting import CALIBRATED, FORMATS, export_model
from raydistill.evaluation import Checkpoints, evaluate_models
from raydistill.models.load import head_in
from raydistill.stages import _base, _corpora, _models
from raydistill.stages._base import CorpusFacts, Decisions, Inputs, ModelFacts
from raydistill.stages._models import Fitted
from raydistill.user_error import UserError

_STUDENT = "student"


class ExportGate(Section):
    """How much worse than the model its export may be, on the same validation rows."""

    metric: str | None = None
    """A metric of the task; by default its first."""
    within_of_unquantized: Annotated[float, Field(ge=0)]
    """The most that the metric may be worse, in its own unit."""


class Config(_base.StageConfig):
    """Which model, in which format, and what it is calibrated and checked on."""

    model: ModelRef
    """A checkpoint, as evaluations name one."""
    format: Literal["onnx", "onnx-int8", "onnx-int8-static", "openvino-int8"] = "onnx-int8"
    """``onnx``: float32. ``onnx-int8``: int8 weights, and activations that are quantized as they come.
    ``onnx-int8-static`` and ``openvino-int8``: activations are quantized in ranges that calibration rows show. For
    several formats write a matrix."""
    corpus: CorpusField | None = None
    """The corpora whose training rows calibrate the export and whose validation rows the gate reads."""
    task: TaskSpec | None = None
    """What the model is asked on them: the name of a task and its options."""
    calibration_rows: Annotated[int, Field(ge=1)] = 256
    """The number of rows for calibration, drawn with the stage's seed."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Rows per forward pass."""
    gate: ExportGate | None = None
    """What the export has to reach; otherwise the stage fails. By default nothing."""
    max_rows: Annotated[int, Field(ge=1)] | None = None
    """The maximum number of validation rows that the gate reads; None reads all."""

    @model_validator(mode="after")
    def _go_together(self) -> "Config":
        needs = "gate" if self.gate is not None else f"format {self.format}" if self.format in CALIBRATED else None
        for key in ("corpus", "task"):
            if needs is not None and getattr(self, key) is None:
                raise UserError(f"{key} is missing, which {needs} needs; name it")
        if (self.corpus is None) != (self.task is None):
            raise UserError("corpus and task go together; give both or none")
        return self


class Stage(_base.Stage):
    """Leaves in ``student`` a folder that evaluations, ``predict`` and ``serve`` take in place of the model."""

    config_type = Config
    config: Config
    FORMAT = 2

    def references(self) -> dict[str, str]:
        corpora = {} if self.config.corpus is None else _corpora.references(self.config.corpus)
        return {**corpora, "model": self.config.model.checkpoint or ""}

    def plan(self, scaling: ScalingConfig, inputs: Inputs) -> Decisions:
        missing = missing_packages(self.config.format)
        if missing:
            raise UserError(f"format is {self.config.format!r}, which needs {missing}")
        if self.config.model.head == "new":
            raise UserError("model.head is 'new', which would be exported untrained; train it first")
        model = _models.model_of("model", self.config.model, inputs)
        if model.exported:
            raise UserError("model is an export already; name the model that it was made from")
        if self.config.task is not None:
            self._fitted(inputs)
            self._gate_metric(self._corpus(inputs))
        elif model.folder is not None:
            # One without a head has nothing to export; that of a training is not known before it ran.
            head_in(model.folder)
        name = _models.describe(self.config.model)
        line = f"exports {name} as {FORMATS[self.config.format]}"
        return Decisions([line], ModelFacts({"": model.config}, model.tokenizer_hash, exported_from=name))

    def _asked(self) -> tuple[Sequence[CorpusRef], TaskSpec]:
        """Corpora and task of a stage that has both."""
        corpus, task = self.config.corpus, self.config.task
        assert corpus is not None
        assert task is not None
        return corpus, task

    def _corpus(self, inputs: Inputs) -> CorpusFacts:
        corpus, task = self._asked()
        return _corpora.read_by(task, corpus, inputs)

    def _fitted(self, inputs: Inputs) -> Fitted:
        """The model, which fits task and corpus; raises UserError for one that does not."""
        task, corpus = self._asked()[1], self._corpus(inputs)
        return _models.fitted("model", self.config.model, inputs, task=task, corpus=corpus)

    def _gate_metric(self, corpus: CorpusFacts) -> tuple[str, bool] | None:
        """The gate's metric, and whether a greater value is better; raises UserError for one that there is not."""
        gate = self.config.gate
        if gate is None:
            return None
        _, task = self._asked()
        metric = gate.metric or next(iter(task.higher_is_better(corpus.labels)))
        return metric, greater_is_better(metric, task.figures(corpus.labels), stated=None, key="gate.metric")

    def run(self, context: _base.StageContext) -> dict[str, Any]:
        folder = _models.model_of("model", self.config.model, context.inputs).folder
        assert folder is not None, "a stage runs after those that make what it reads"
        target = context.output / _STUDENT
        with atomic_folder(target) as made:
            export_model(folder, made, self.config.format, rows=self._calibration(context))
            figures = self._checked(folder, made, context)
        size = size_mb(target)
        context.tracker.log_metrics(context.run_key, {"size_mb": size, **figures}, 0)
        lineage = {"method": "export", "format": self.config.format, "teacher": _models.describe(self.config.model)}
        context.tracker.set_tags(context.run_key, lineage)
        return {"student": str(target), "format": self.config.format, "size_mb": size, **figures, "lineage": lineage}

    def _calibration(self, context: _base.StageContext) -> Sequence[Batch]:
        if self.config.format not in CALIBRATED:
            return ()
        corpus, task = self._asked()
        has_train = self._corpus(context.inputs).has_train
        parts = (_corpora.train_parts if has_train else _corpora.validation_parts)(corpus, context.outputs)
        spec = FeedSpec.make(parts, task, None, seed=context.seed)
        return list(
            validation_batches(spec, micro_batch_size=self.config.batch_size, num_rows=self.config.calibration_rows)
        )

    def _checked(self, folder: Path, made: Path, context: _base.StageContext) -> dict[str, float]:
        """The gate's metric of the model and of its export; raises UserError where the export is too much worse."""
        gate = self.config.gate
        if gate is None:
            return {}
        corpus, task = self._asked()
        found = self._gate_metric(self._corpus(context.inputs))
        assert found is not None
        metric, greater = found
        names = self._fitted(context.inputs).names
        each = evaluate_models(
            {"model": Checkpoints((str(folder),), (names,)), "export": Checkpoints((str(made),), (names,))},
            _corpora.validation_parts(corpus, context.outputs),
            task=task,
            seed=context.seed,
            max_rows=self.config.max_rows,
            batch_size=self.config.batch_size,
        )
        before, after = (each[name].figures[metric] for name in ("model", "export"))
        worse = before - after if greater else after - before
        if worse > gate.within_of_unquantized:
            raise UserError(
                f"{metric} of the export is {after:.4g}, of the model {before:.4g}: {worse:.4g} worse, more than "
                f"gate.within_of_unquantized, which is {gate.within_of_unquantized:g}; try another format, more "
                "calibration_rows, or a wider gate"
            )
        return {metric: after, f"{metric}_unquantized": before}
