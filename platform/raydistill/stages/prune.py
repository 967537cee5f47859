"""Remove the attention heads and neurons of a model with the lowest scores, so that it is smaller and faster."""

import json
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from raydistill.atomic import atomic_folder
from raydistill.config.sections import ModelRef, ScalingConfig
from raydistill.data.storages import storage_at
from raydistill.data.unit_scores import COMBINED, ScoreFacts, read_facts, read_scores
from raydistill.models import checks
from raydistill.models.kept_units import KeptUnits, head_size, num_neurons, set_kept
from raydistill.models.load import head_in, load_config, load_model, load_tokenizer, save_model, stored_head
from raydistill.models.pruning import kept_units, pruned
from raydistill.models.unit_masks import check_units
from raydistill.registry.student import BYTES_TAG, PARAMETERS_TAG
from raydistill.stages import _base, _lineage, _models
from raydistill.stages._base import Decisions, Inputs, ModelFacts, ScoresFacts, folder_of
from raydistill.user_error import UserError

_STUDENT = "student"


class Config(_base.StageConfig):
    """Which model, by which scores, and how much of it goes."""

    scores: str
    """The name of an earlier score stage, or its folder."""
    model: ModelRef | None = None
    """The model that was scored; by default the one that the score stage read."""
    sparsity: float
    """The percentage of all heads, and of all neurons, that is removed: those with the lowest scores over all blocks. 0
    leaves the model as it is. Several levels are a matrix, ``matrix: {sparsity: [0, 10, 20]}``, with one model each."""
    multiple_of: Annotated[int, Field(ge=1)] = 1
    """The width that a block loses is rounded to a multiple of this, which some hardware needs; published as 8."""

    @field_validator("sparsity")
    @classmethod
    def _is_level(cls, value: float) -> float:
        if not 0 <= value < 100:
            raise UserError(f"sparsity is {value:g}; give a percentage from 0 to less than 100")
        return value


class Stage(_base.Stage):
    """Leaves the pruned model in ``student``; what it keeps of each block is recorded in its configuration."""

    config_type = Config
    config: Config

    def references(self) -> dict[str, str]:
        found = {"scores": self.config.scores}
        if self.config.model is not None:
            found["model"] = self.config.model.checkpoint or ""
        return found

    def plan(self, scaling: ScalingConfig, inputs: Inputs) -> Decisions:
        scored = self._scored(inputs)
        config = scored.config
        check_units(config)
        if self.config.model is not None:
            self._check_same(scored, inputs)
        scores = folder_of(self.config.scores, inputs)
        reference = self.config.model
        if scores is not None and (reference is None or _models.model_of("", reference, inputs).folder is not None):
            self._model_folder(read_facts(storage_at(scores).fetch()), inputs)
        size = head_size(config)
        if self.config.sparsity and size % self.config.multiple_of:
            raise UserError(
                f"multiple_of is {self.config.multiple_of}, but heads of {scored.model!r} are {size} wide, and one "
                "would be cut; set multiple_of to 1"
            )
        made = _about(config, self.config.sparsity)
        before, after = (checks.num_parameters(one, head=scored.head) for one in (config, made))
        line = f"takes away {self.config.sparsity:g} % of heads and neurons: about {after:,} of {before:,} parameters"
        return Decisions([line], ModelFacts({"": made}, scored.tokenizer_hash))

    def _scored(self, inputs: Inputs) -> ScoresFacts:
        """What was, or will be, scored."""
        name = self.config.scores
        folder = folder_of(name, inputs)
        if folder is None:
            scores = inputs[name].facts
            if not isinstance(scores, ScoresFacts):
                raise UserError(f"scores is {name!r}, which scores no model; name a score stage")
            return scores
        try:
            facts = read_facts(storage_at(folder).fetch())
            reference = self.config.model or ModelRef(checkpoint=facts.model_folder)
            model = _models.model_of("", reference, inputs)
            head = stored_head(model.config) if model.folder is None else head_in(model.folder)
        except UserError as error:
            raise error.at("scores") from None
        return ScoresFacts(facts.model, model.config, head)

    def _check_same(self, scored: ScoresFacts, inputs: Inputs) -> None:
        """Raise ValueError for a model of other sizes than the one that was scored."""
        assert self.config.model is not None
        model = _models.model_of("", self.config.model, inputs).config
        check_units(model)
        sizes = [(one.num_hidden_layers, one.num_attention_heads, num_neurons(one)) for one in (scored.config, model)]
        if sizes[0] != sizes[1]:
            raise UserError(
                f"model is {_models.describe(self.config.model)!r}, but {self.config.scores!r} has scores of "
                f"{scored.model!r}, which has other heads or neurons; name that one"
            )

    def run(self, context: _base.StageContext) -> dict[str, Any]:
        left = folder_of(self.config.scores, context.inputs)
        assert left is not None, "scores are there when a model is pruned by them"
        scores_folder = storage_at(left).fetch()
        facts, scores = read_facts(scores_folder), read_scores(scores_folder)[COMBINED]
        folder = self._model_folder(facts, context.inputs)
        config = load_config(folder)
        kept = kept_units(
            scores, self.config.sparsity, head_size=head_size(config), multiple_of=self.config.multiple_of
        )
        target = context.output / _STUDENT
        self._write(folder, kept, target)
        weights = _lineage.weights_of(target)
        found = {
            "parameters": int(weights[PARAMETERS_TAG]),
            "size_mb": int(weights[BYTES_TAG]) / 1e6,
            "heads": kept.num_heads,
            "neurons": kept.num_neurons,
        }
        context.tracker.log_metrics(context.run_key, {**found, "sparsity": self.config.sparsity}, 0)
        lineage = {
            "method": "prune",
            "method_options": json.dumps(
                {"sparsity": self.config.sparsity, "multiple_of": self.config.multiple_of, "lam": facts.lam}
            ),
            "teacher": facts.model,
            "teacher_hash": facts.model_hash,
            "corpus_hash": facts.corpus_hash,
        }
        context.tracker.set_tags(context.run_key, {**lineage, "kept": kept.shown()})
        return {"student": str(target), **found, "kept": kept.shown(), "lineage": lineage}

    def _model_folder(self, facts: ScoreFacts, inputs: Inputs) -> Path:
        """Where the scored model lies; raises ValueError for another, or one that was changed since."""
        if self.config.model is None:
            folder = storage_at(facts.model_folder).fetch()
            remedy = "name where it lies as model, or score it again"
            if not folder.is_dir():
                raise UserError(f"scores are of {facts.model!r} in {str(folder)!r}, which is gone; {remedy}")
        else:
            folder = _models.resolve(self.config.model, inputs)
            remedy = "name the model that was scored, or score this one"
        if _models.content_of(folder) != facts.model_hash:
            raise UserError(f"scores are of {facts.model!r}, but the model in {str(folder)!r} is another; {remedy}")
        return folder

    def _write(self, folder: Path, kept: KeptUnits, target: Path) -> None:
        """The pruned model in one rename; the model's own files where nothing goes."""
        config = load_config(folder)
        everything = (
            config.num_hidden_layers * config.num_attention_heads,
            config.num_hidden_layers * num_neurons(config),
        )
        with atomic_folder(target) as made:
            if (kept.num_heads, kept.num_neurons) == everything:
                # Bit for bit, so that outputs that are stored of the one serve for the other.
                shutil.copytree(folder, made, dirs_exist_ok=True)
            else:
                model = load_model(folder, head=head_in(folder))
                save_model(pruned(model, kept), load_tokenizer(folder), made)


def _about(config: Any, sparsity: float) -> Any:
    """The configuration of a model that keeps equally many units of each block, in place of what scores will say."""
    made = deepcopy(config)
    if not sparsity:
        return made
    shares = [
        tuple(range(round(units * (1 - sparsity / 100)))) for units in (made.num_attention_heads, num_neurons(made))
    ]
    heads, neurons = ((share,) * made.num_hidden_layers for share in shares)
    set_kept(made, KeptUnits(heads, neurons))
    return made
