"""Put a trained student into MLflow's model registry."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from raydistill import discovery
from raydistill.config.sections import ScalingConfig
from raydistill.models import layer_plan
from raydistill.models.kept_units import kept_of
from raydistill.models.load import load_config
from raydistill.models.restored import save_restored
from raydistill.models.unrolled import save_unrolled
from raydistill.registry.card import model_card
from raydistill.registry.gate import Gate, GateConfig, gate_tag
from raydistill.registry.reference import ModelReference, is_registered
from raydistill.registry.student import (
    BYTES_TAG,
    COMPARED_TAG,
    GATE_TAG,
    LICENSE_TAG,
    PARAMETERS_TAG,
    figures_tag,
)
from raydistill.stages import _base, _lineage, _models
from raydistill.stages._base import Decisions, Evaluated, Inputs, ModelFacts, planned
from raydistill.user_error import UserError


class Config(_base.StageConfig):
    """Which student, under which name."""

    model: str
    """Name of an earlier training stage, or a checkpoint folder."""
    name: str = Field(min_length=1)
    """Name of the registered model."""
    alias: str = "candidate"
    """Alias that the new version gets."""
    evaluation: str | None = None
    """Name of the evaluation stage whose figures go with the version."""
    metric: str | None = None
    """Figure of that evaluation by which versions compare, by default the task's own metric. By it one run is chosen
    where ``model`` is a stage with several."""
    greater_is_better: bool | None = None
    """Whether the highest of these figures is the best, not the lowest; by default as the task says of it."""
    baseline: str | None = None
    """Name that the evaluation has for a model to compare with, such as one that was trained without a teacher."""
    license: str | None = Field(default=None, min_length=1)
    """License of the student, such as ``Apache-2.0``; without one no version is promoted."""
    gate: GateConfig | None = None
    """What a version has to reach to be promoted; by default figures do not count."""
    tags: dict[str, str] = {}
    """Further version tags; what made the student is tagged anyway."""


class Stage(_base.Stage):
    """Registers a student with its lineage as version tags; one with a layer plan as a plain model of equal logits."""

    config_type = Config
    config: Config
    aggregates = True

    def references(self) -> dict[str, str]:
        found = {"model": self.config.model}
        if self.config.evaluation is not None:
            found["evaluation"] = self.config.evaluation
        return found

    def plan(self, scaling: ScalingConfig, inputs: Inputs) -> Decisions:
        stage = _base.stage_of(self.config.model)
        made = None if is_registered(self.config.model) else inputs.get(stage)
        if made is not None and planned(ModelFacts, stage, inputs) is None:
            raise UserError(f"model is {self.config.model!r}, which makes no model; name a training stage")
        if made is None and not (Path(self.config.model) / "config.json").is_file():
            raise UserError(f"model is {self.config.model!r}, neither an earlier stage nor a checkpoint folder")
        if self.config.evaluation is not None and self.config.evaluation not in inputs:
            raise UserError(f"evaluation is {self.config.evaluation!r}; name an earlier evaluation stage")
        if self.config.metric is not None and self.config.evaluation is None:
            raise UserError(f"metric is {self.config.metric!r}, but evaluation is missing; name an evaluation stage")
        if made is not None and made.num_runs > 1 and self.config.evaluation is None:
            raise UserError(
                f"model is {self.config.model!r}, which has {made.num_runs} runs; "
                "name one, such as stage[seed=1], or give evaluation"
            )
        self._check_figures(inputs)
        return Decisions([f"registers {self.config.name!r} with alias {self.config.alias!r}"])

    def _check_figures(self, inputs: Inputs) -> None:
        """Raise ValueError for a baseline or a gate that the evaluation has no figures for."""
        name = self.config.evaluation
        evaluation = None if name is None else planned(Evaluated, name, inputs) or Evaluated((), {})
        baseline, gate = self.config.baseline, self.config.gate
        for key, value in (("baseline", baseline), ("gate.metric", None if gate is None else gate.metric)):
            if value is not None and evaluation is None:
                raise UserError(f"{key} is {value!r}, but evaluation is missing; name an evaluation stage")
        if evaluation is None:
            if gate is not None:
                raise UserError("gate needs figures, but evaluation is missing; name an evaluation stage")
            return
        if baseline is not None and baseline not in evaluation.models:
            raise UserError(discovery.unknown_choice("baseline", baseline, list(evaluation.models)))
        if gate is not None and gate.metric is not None and gate.metric not in evaluation.metrics:
            raise UserError(discovery.unknown_choice("gate.metric", gate.metric, list(evaluation.metrics)))

    def run(self, context: _base.StageContext) -> dict[str, Any]:
        run = self._chosen_run(context)
        made = Path(self.config.model) if run is None else _models.model_folder(self.config.model, run.output)
        lineage = {} if run is None else {**run.summary.get("lineage", {}), "run": run.name}
        folder, shape = _plain_folder(made, context.output)
        tags = {**lineage, **shape, "job": context.job_name, **self._stated(context), **_lineage.weights_of(folder)}
        tags |= {} if run is None else self._measured(run, context)
        tags |= self.config.tags
        version = context.tracker.register_model(
            context.run_key,
            str(folder),
            name=self.config.name,
            tags=tags,
            alias=self.config.alias,
            metrics={} if run is None else self._figures(run, context),
            card=model_card(self.config.name, tags, folder) if (folder / "config.json").is_file() else None,
        )
        uri = str(ModelReference(self.config.name, alias=self.config.alias))
        return {"name": self.config.name, "version": version, "uri": uri}

    def _chosen_run(self, context: _base.StageContext) -> _base.Run | None:
        """The run whose student is registered, None for a folder outside the job."""
        runs = context.runs.get(_base.stage_of(self.config.model), ())
        if len(runs) < 2:
            return runs[0] if runs else None
        comparison = self._comparison(context)
        if comparison is None:
            raise UserError(f"evaluation is {self.config.evaluation!r}, which has several runs; name one of them")
        found = [(self._figures(run, context).get(comparison.metric), run) for run in runs]
        known = [(figure, run) for figure, run in found if figure is not None]
        if not known:
            raise UserError(
                f"metric is {comparison.metric!r}, which {self.config.evaluation!r} has for no run of the model"
            )
        sign = 1 if comparison.greater_is_better else -1
        return max(known, key=lambda one: sign * one[0])[1]

    def _comparison(self, context: _base.StageContext, gate: GateConfig | None = None) -> _lineage.Comparison | None:
        """By what versions compare, or what a gate reads; None where no evaluation tells."""
        metrics, config = self._evaluation(context).get("metrics", {}), self.config
        found = _lineage.Comparison.of(metrics, config.metric, greater_is_better=config.greater_is_better)
        if gate is None or (gate.metric is None and gate.greater_is_better is None):
            return found
        metric = gate.metric or (found and found.metric)
        return _lineage.Comparison.of(metrics, metric, greater_is_better=gate.greater_is_better)

    def _stated(self, context: _base.StageContext) -> dict[str, str]:
        """What the configuration says of the student, as tags."""
        found = {} if self.config.license is None else {LICENSE_TAG: self.config.license}
        gate, comparison = self.config.gate, self._comparison(context, self.config.gate)
        if comparison is not None:
            found[COMPARED_TAG] = comparison.tag()
        if gate is not None:
            if comparison is None:
                raise UserError(f"gate.metric is missing, and {self.config.evaluation!r} has several runs; give it")
            found[GATE_TAG] = gate_tag(Gate(**{**gate.model_dump(), **comparison._asdict()}))
        return found

    def _measured(self, run: _base.Run, context: _base.StageContext) -> dict[str, str]:
        """Figures of student, teachers and baseline as tags, none when the student was not evaluated."""
        evaluation = self._evaluation(context)
        rows = _lineage.rows(evaluation, run, self.config.model, baseline=self.config.baseline)
        return {**figures_tag(rows), **_lineage.figures_note(evaluation)} if rows else {}

    def _evaluation(self, context: _base.StageContext) -> Mapping[str, Any]:
        """What the evaluation returned, nothing without one."""
        runs = context.runs.get(self.config.evaluation or "", ())
        return runs[0].summary if len(runs) == 1 else {}

    def _figures(self, run: _base.Run, context: _base.StageContext) -> dict[str, float]:
        """An evaluation's figures of the run's student; none when it did not evaluate that student."""
        evaluation = self._evaluation(context)
        entry = _lineage.student_entry(evaluation.get("entries", []), run, self.config.model)
        return {} if entry is None else dict(entry["figures"])


def _plain_folder(folder: Path, output: Path) -> tuple[Path, dict[str, str]]:
    """A checkpoint folder that plain transformers runs as it was trained, and tags that tell of it.

    The checkpoint itself if it has no plan and is not pruned; else its unrolled copy, or its copy in the shape before
    pruning, written below ``output`` in one rename.
    """
    # What is no checkpoint is refused where it is read.
    config = load_config(folder) if (folder / "config.json").is_file() else None
    if config is None:
        return folder, {}
    plan, kept = layer_plan.plan_of(config), kept_of(config)
    if plan is None and kept is None:
        return folder, {}
    name = "full_shape" if plan is None else "unrolled"
    target, temporary = output / name, output / f".{name}"
    for left_over in (target, temporary):
        shutil.rmtree(left_over, ignore_errors=True)
    if plan is not None:
        save_unrolled(folder, temporary)
        tags = {"layer_plan": layer_plan.shown(plan)}
    else:
        assert kept is not None
        save_restored(folder, temporary)
        tags = {"kept_units": kept.shown(), **_sizes(folder)}
    temporary.rename(target)
    return target, tags


def _sizes(folder: Path) -> dict[str, str]:
    """Tags with the parameters and bytes of a pruned model, which its copy in full shape has not."""
    weights = _lineage.weights_of(folder)
    return {"pruned_parameters": weights[PARAMETERS_TAG], "pruned_bytes": weights[BYTES_TAG]}
