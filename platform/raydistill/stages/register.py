"""Put a trained student into MLflow's model registry."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from raydistill.config.sections import ScalingConfig
from raydistill.stages import _base


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
    tags: dict[str, str] = {}
    """Further version tags; what made the student is tagged anyway."""


class Stage(_base.Stage):
    """Registers a student with its lineage as version tags."""

    config_type = Config
    config: Config

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
        return _base.Forecast(lines=[f"registers {self.config.name!r} with alias {self.config.alias!r}"])

    def run(self, context: _base.StageContext) -> dict[str, Any]:
        source = _base.stage_of(self.config.model)
        folder = _base.model_folder(self.config.model, context.outputs)
        lineage = context.summaries.get(source, {}).get("lineage", {})
        assignment = next((run.assignment for run in context.runs.get(source, ())), {})
        metrics = self._metrics(context.summaries.get(self.config.metrics_from or "", {}), assignment)
        version = context.tracker.register_model(
            context.run_key,
            str(folder),
            name=self.config.name,
            tags={**lineage, "job": context.job_name, **self.config.tags},
            alias=self.config.alias,
            metrics=metrics,
        )
        return {"name": self.config.name, "version": version, "uri": f"models:/{self.config.name}@{self.config.alias}"}

    def _metrics(self, evaluation: Mapping[str, Any], assignment: Mapping[str, Any]) -> dict[str, float]:
        """The figures of an evaluation's model that is the one being registered, made with these matrix values."""
        wanted = (self.config.model, dict(assignment))
        entries = evaluation.get("entries", [])
        found = [one["figures"] for one in entries if (one["reference"], one["assignment"]) == wanted]
        return dict(found[0]) if found else {}
