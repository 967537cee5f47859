"""Put a trained student into MLflow's model registry."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from raydistill import discovery
from raydistill.atomic import atomic_folder
from raydistill.config.directions import greater_is_better
from raydistill.config.sections import ScalingConfig
from raydistill.models import layer_plan
from raydistill.models.kept_units import kept_of
from raydistill.models.load import load_config
from raydistill.models.restored import save_restored
from raydistill.models.unrolled import save_unrolled
from raydistill.registry.card import model_card
from raydistill.registry.gate import GateConfig, gate_tag
from raydistill.registry.reference import ModelReference, check_alias, check_name, check_tag, is_registered
from raydistill.registry.student import (
    BYTES_TAG,
    COMPARED_TAG,
    GATE_TAG,
    LICENSE_TAG,
    PARAMETERS_TAG,
    figures_tag,
)
from raydistill.stages import _base, _kept_exports, _lineage, _models
from raydistill.stages._base import Decisions, Evaluated, Input, Inputs, ModelFacts, planned
from raydistill.user_error import UserError


class Config(_base.StageConfig):
    """Which student, under which name."""

    model: str
    """The name of an earlier training stage, or a checkpoint folder."""
    name: str
    """The name of the registered model."""
    alias: str = "candidate"
    """The alias that the new version gets."""
    evaluation: str | None = None
    """The name of the evaluation stage whose figures go with the version."""
    metric: str | None = None
    """The figure of that evaluation by which versions are compared, by default the task's own metric. If ``model`` is a
    stage with several runs, this figure chooses one of them."""
    greater_is_better: bool | None = None
    """Whether the highest of these figures is the best. By default the metric decides, and a contradiction is an
    error."""
    baseline: str | None = None
    """The evaluation's name for a model to compare with, such as one that was trained without a teacher."""
    exports: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """The name of the export stage whose exports of this student are kept with the version, one of each format."""
    license: str | None = Field(default=None, min_length=1)
    """The license of the student, such as ``Apache-2.0``. A version without a license is not promoted."""
    gate: GateConfig | None = None
    """What a version has to reach to be promoted; by default no figure counts."""
    tags: dict[str, str] = {}
    """Further tags of the version. What made the student is tagged in any case."""

    @model_validator(mode="after")
    def _is_taken(self) -> "Config":
        check_name(self.name)
        check_alias(self.alias)
        for name, text in self.tags.items():
            check_tag(name, text)
        if self.greater_is_better is not None and self.metric is None:
            raise UserError(f"greater_is_better is {self.greater_is_better}, but metric is missing; give both or none")
        return self


class Stage(_base.Stage):
    """Registers a student with its lineage as version tags; one with a layer plan as a plain model of equal logits."""

    config_type = Config
    config: Config
    aggregates = True

    def references(self) -> dict[str, str]:
        found = {"model": self.config.model}
        if self.config.evaluation is not None:
            found["evaluation"] = self.config.evaluation
        if self.config.exports is not None:
            found["exports"] = self.config.exports
        return found

    def plan(self, scaling: ScalingConfig, inputs: Inputs) -> Decisions:
        stage = _base.stage_of(self.config.model)
        made = None if is_registered(self.config.model) else inputs.get(stage)
        facts = planned(ModelFacts, stage, inputs)
        if made is not None and facts is None:
            raise UserError(f"model is {self.config.model!r}, which makes no model; name a training stage")
        if facts is not None and facts.exported_from is not None:
            raise UserError(
                f"model is {self.config.model!r}, an export; write model: {facts.exported_from} and "
                f"exports: {self.config.model}"
            )
        if made is None and not (Path(self.config.model) / "config.json").is_file():
            raise UserError(f"model is {self.config.model!r}, neither an earlier stage nor a checkpoint folder")
        evaluation = self._evaluated(inputs)
        if made is not None and made.num_runs > 1 and evaluation is None:
            raise UserError(
                f"model is {self.config.model!r}, which has {made.num_runs} runs; "
                "name one, such as stage[seed=1], or give evaluation"
            )
        if evaluation is not None:
            self._check_figures(evaluation, made)
        exports = self.config.exports
        if exports is not None:
            _kept_exports.check(exports, self.config.model, {} if made is None else made.runs, inputs)
        more = "" if exports is None else f", and the exports of {exports} with it"
        return Decisions([f"registers {self.config.name!r} with alias {self.config.alias!r}{more}"])

    def _evaluated(self, inputs: Inputs) -> Evaluated | None:
        """What the evaluation tells, None without one; raises ValueError where it has to be named, or is none."""
        config, name = self.config, self.config.evaluation
        if name is None:
            gate = None if config.gate is None else config.gate.metric
            for key, value in (("metric", config.metric), ("baseline", config.baseline), ("gate.metric", gate)):
                if value is not None:
                    raise UserError(f"{key} is {value!r}, but evaluation is missing; name an evaluation stage")
            if config.gate is not None:
                raise UserError("gate needs figures, but evaluation is missing; name an evaluation stage")
            return None
        found = planned(Evaluated, name, inputs)
        if found is None:
            raise UserError(f"evaluation is {name!r}; name an earlier evaluation stage")
        _lineage.check_one_evaluation(name, inputs)
        return found

    def _check_figures(self, evaluation: Evaluated, made: Input | None) -> None:
        """Raise ValueError for a student, a metric, a baseline or a gate that the evaluation has no figures for."""
        config = self.config
        runs = [] if made is None else [_base.Run(name, keys, Path(), {}) for name, keys in made.runs.items()]
        entries = evaluation.entries
        if runs and not any(_lineage.student_entry(entries, run, config.model) is not None for run in runs):
            raise UserError(
                f"evaluation is {config.evaluation!r}, which has no figures of {config.model!r}; add that to its "
                f"models, which are {', '.join(dict.fromkeys(entry['reference'] for entry in entries))}"
            )
        self._comparison(evaluation)
        if config.baseline is not None and config.baseline not in evaluation.models:
            raise UserError(discovery.unknown_choice("baseline", config.baseline, evaluation.models))
        self._gate(evaluation)

    def _comparison(self, evaluation: Evaluated) -> tuple[str, bool]:
        """The metric that versions compare by, and whether a greater value is better; raises ValueError for none."""
        metric = self.config.metric or evaluation.metrics[0]
        return metric, greater_is_better(metric, evaluation.directions, stated=self.config.greater_is_better)

    def _gate(self, evaluation: Evaluated) -> GateConfig | None:
        """The gate with its metric and direction; raises ValueError for a figure that the evaluation does not have."""
        gate = self.config.gate
        if gate is None:
            return None
        metric = gate.metric or self._comparison(evaluation)[0]
        greater = greater_is_better(
            metric,
            evaluation.directions,
            stated=gate.greater_is_better,
            key="gate.metric",
            stated_key="gate.greater_is_better",
        )
        return gate.model_copy(update={"metric": metric, "greater_is_better": greater})

    def run(self, context: _base.StageContext) -> dict[str, Any]:
        evaluated = self._evaluated(context.inputs)
        run = self._chosen_run(context, evaluated)
        made = Path(self.config.model) if run is None else _models.model_folder(self.config.model, run.output)
        lineage = {} if run is None else {**run.summary.get("lineage", {}), "run": run.name}
        folder, shape = _plain_folder(made, context.output)
        tags = {**lineage, **shape, "job": context.job_name, **self._stated(evaluated), **_lineage.weights_of(folder)}
        exports = _kept_exports.of_run(context.runs.get(self.config.exports or "", ()), run)
        tags |= self._measured(run, exports, context)
        tags |= self.config.tags
        version = context.tracker.register_model(
            context.run_key,
            str(folder),
            name=self.config.name,
            tags=tags,
            alias=self.config.alias,
            metrics={} if run is None else self._figures(run, context),
            card=model_card(self.config.name, tags, folder) if (folder / "config.json").is_file() else None,
            exports=_kept_exports.folders(exports),
        )
        uri = str(ModelReference(self.config.name, alias=self.config.alias))
        return {"name": self.config.name, "version": version, "uri": uri}

    def _chosen_run(self, context: _base.StageContext, evaluated: Evaluated | None) -> _base.Run | None:
        """The run whose student is registered, None for a folder outside the job."""
        runs = context.runs.get(_base.stage_of(self.config.model), ())
        if len(runs) < 2:
            return runs[0] if runs else None
        assert evaluated is not None, "plan has refused several runs without an evaluation"
        key, greater = self._comparison(evaluated)
        found = [(self._figures(run, context).get(key), run) for run in runs]
        known = [(figure, run) for figure, run in found if figure is not None]
        if not known:
            raise UserError(f"metric is {key!r}, which {self.config.evaluation!r} has for no run of the model")
        sign = 1 if greater else -1
        return max(known, key=lambda one: sign * one[0])[1]

    def _stated(self, evaluated: Evaluated | None) -> dict[str, str]:
        """What the configuration says of the student, as tags."""
        found = {} if self.config.license is None else {LICENSE_TAG: self.config.license}
        if evaluated is None:
            return found
        gate, (metric, greater) = self._gate(evaluated), self._comparison(evaluated)
        if gate is not None:
            found[GATE_TAG] = gate_tag(gate)
            metric, greater = gate.figure, bool(gate.greater_is_better)
        found[COMPARED_TAG] = _lineage.compared_by(metric, greater_is_better=greater)
        return found

    def _measured(
        self, run: _base.Run | None, exports: Sequence[_base.Run], context: _base.StageContext
    ) -> dict[str, str]:
        """Figures of student, teachers, baseline and exports as tags, none of what was not evaluated."""
        evaluation = self._evaluation(context)
        of_run = [] if run is None else _lineage.rows(evaluation, run, self.config.model, baseline=self.config.baseline)
        rows = [*of_run, *_kept_exports.rows(exports, self.config.exports or "", evaluation)]
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
    with atomic_folder(output / name) as made:
        if plan is not None:
            save_unrolled(folder, made)
            tags = {"layer_plan": layer_plan.shown(plan)}
        else:
            assert kept is not None
            save_restored(folder, made)
            tags = {"kept_units": kept.shown(), **_sizes(folder)}
    return output / name, tags


def _sizes(folder: Path) -> dict[str, str]:
    """Tags with the parameters and bytes of a pruned model, which its copy in full shape has not."""
    weights = _lineage.weights_of(folder)
    return {"pruned_parameters": weights[PARAMETERS_TAG], "pruned_bytes": weights[BYTES_TAG]}
