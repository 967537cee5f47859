"""Put a trained student into MLflow's model registry."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from raydistill.config.sections import ScalingConfig
from raydistill.stages import _base, _plans


class Config(_base.StageConfig):
    """Which student, under which name."""

    model: str
    """Name of an earlier training stage, or a checkpoint folder."""
    name: str = Field(min_length=1)
    """Name of the registered model."""
    alias: str = "candidate"
    """Alias that the new version gets."""
    metrics_from: str | None = None
    """Name of the evaluation stage whose figures go with the version."""
    best_by: str | None = None
    """Figure of that evaluation by which one run is chosen when ``model`` is a stage with several."""
    greater_is_better: bool = False
    """Whether the highest of these figures is the best, not the lowest."""
    tags: dict[str, str] = {}
    """Further version tags; what made the student is tagged anyway."""


class Stage(_base.Stage):
    """Registers a student with its lineage as version tags; one with a layer plan as a plain model of equal logits."""

    config_type = Config
    config: Config
    aggregates = True

    def references(self) -> dict[str, str]:
        found = {"model": self.config.model}
        if self.config.metrics_from is not None:
            found["metrics_from"] = self.config.metrics_from
        return found

    def check(self, scaling: ScalingConfig, earlier: Mapping[str, _base.Forecast]) -> _base.Forecast:
        made = earlier.get(_base.stage_of(self.config.model))
        if made is not None and not made.models:
            raise ValueError(f"model is {self.config.model!r}, which makes no model; name a training stage")
        if made is None and not (Path(self.config.model) / "config.json").is_file():
            raise ValueError(f"model is {self.config.model!r}, neither an earlier stage nor a checkpoint folder")
        if self.config.metrics_from is not None and self.config.metrics_from not in earlier:
            raise ValueError(f"metrics_from is {self.config.metrics_from!r}; name an earlier evaluation stage")
        if made is not None and made.num_runs > 1 and self.config.best_by is None:
            raise ValueError(
                f"model is {self.config.model!r}, which has {made.num_runs} runs; "
                "name one, such as stage[seed=1], or give metrics_from and best_by"
            )
        if self.config.best_by is not None and self.config.metrics_from is None:
            raise ValueError(
                f"best_by is {self.config.best_by!r}, but metrics_from is missing; name an evaluation stage"
            )
        return _base.Forecast(lines=[f"registers {self.config.name!r} with alias {self.config.alias!r}"])

    def run(self, context: _base.StageContext) -> dict[str, Any]:
        run = self._chosen_run(context)
        outputs = {} if run is None else {_base.stage_of(self.config.model): run.output}
        lineage = {} if run is None else {**run.summary.get("lineage", {}), "run": run.name}
        folder, tags = _plans.plain_folder(_base.model_folder(self.config.model, outputs), context.output)
        version = context.tracker.register_model(
            context.run_key,
            str(folder),
            name=self.config.name,
            tags={**lineage, **tags, "job": context.job_name, **self.config.tags},
            alias=self.config.alias,
            metrics={} if run is None else self._figures(run, context),
        )
        return {"name": self.config.name, "version": version, "uri": f"models:/{self.config.name}@{self.config.alias}"}

    def _chosen_run(self, context: _base.StageContext) -> _base.Run | None:
        """The run whose student is registered, None for a folder outside the job."""
        runs = context.runs.get(_base.stage_of(self.config.model), ())
        if len(runs) < 2:
            return runs[0] if runs else None
        key = self.config.best_by or ""
        found = [(self._figures(run, context).get(key), run) for run in runs]
        known = [(figure, run) for figure, run in found if figure is not None]
        if not known:
            raise ValueError(f"best_by is {key!r}, which {self.config.metrics_from!r} has for no run of the model")
        sign = 1 if self.config.greater_is_better else -1
        return max(known, key=lambda one: sign * one[0])[1]

    def _figures(self, run: _base.Run, context: _base.StageContext) -> dict[str, float]:
        """An evaluation's figures of the run's student; none when it did not evaluate that student."""
        evaluation = context.summaries.get(self.config.metrics_from or "", {})
        suffix = self.config.model.removeprefix(_base.stage_of(self.config.model))
        base = run.name.partition("[")[0]
        references = {base + suffix, run.name + suffix}
        for entry in evaluation.get("entries", []):
            if entry["reference"] in references and entry["assignment"] == dict(run.assignment):
                return dict(entry["figures"])
        return {}
