"""How a student starts: planned from the configuration of the model that it is made of, and made of its weights."""

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raydistill.atomic import atomic_folder
from raydistill.config.sections import StudentConfig
from raydistill.data.corpus import Corpus
from raydistill.data.mixture import Mixture
from raydistill.data.storages import storage_at
from raydistill.data.unit_scores import COMBINED, ScoreFacts, read_facts, read_scores
from raydistill.models import checks, layer_plan, layer_selection, slicing, student_shapes
from raydistill.models.blocks import family_of
from raydistill.models.classes import with_classes
from raydistill.models.kept_units import kept_of, num_neurons
from raydistill.models.load import CLASSIFIERS, load_config, load_model, load_tokenizer, save_model
from raydistill.models.padding import write_padding
from raydistill.stages import _models
from raydistill.stages._base import Inputs, ScoresFacts, folder_of
from raydistill.user_error import UserError, placed

if TYPE_CHECKING:
    from raydistill.stages.train import Config

_VOCABULARIES = ("masked_lm", "causal_lm")


def planned(section: StudentConfig, source: Any, labels: tuple[str, ...], *, head: str) -> Any:
    """The configuration of a student that starts from a model with the configuration ``source``.

    Raises ValueError for layers and plans that it cannot have.
    """
    return with_plan(section, _before_plan(section, source, labels, head=head), head=head)


def _before_plan(section: StudentConfig, source: Any, labels: tuple[str, ...], *, head: str) -> Any:
    if head in CLASSIFIERS:
        source = with_classes(source, labels)
    return source if section.init == "checkpoint" else _made(section, source, head=head)


def _made(section: StudentConfig, source: Any, *, head: str) -> Any:
    if kept_of(source) is not None:
        raise UserError(
            f"student.init is {section.init!r}, but the model that it starts from is pruned; name the one before "
            "pruning as student.checkpoint, or write init: checkpoint with a pruned one"
        )
    if section.init == "sliced":
        with placed("student"):
            return slicing.sliced_config(
                source,
                section.config,
                head=head,
                layers=layers_of(section, source),
                important=section.units == "important",
            )
    layers = layers_of(section, source) if section.init == "layers" else None
    if layers is not None:
        checks.check_layers(layers, source.num_hidden_layers, key="student.layers")
    num_layers = len(layers) if layers is not None else section.num_layers or len(section.layers or [])
    if section.config:
        with placed("student"):
            return student_shapes.shaped_config(source, section.config, head=head, num_layers=num_layers or None)
    return layer_selection.student_config(
        source, architecture=section.architecture, num_layers=num_layers, layers=layers, head=head
    )


def layers_of(section: StudentConfig, source: Any) -> list[int]:
    """Blocks that a student made from layers, or sliced, copies of the model with the configuration ``source``."""
    if section.layers is not None:
        return list(section.layers)
    depth = source.num_hidden_layers
    number = section.num_layers or student_shapes.depth_of(source, section.config) or depth
    if section.init == "sliced" and number == depth:
        return list(range(depth))
    return layer_selection.published_layers(number)


def check_scores(section: StudentConfig, model: _models.Model, inputs: Inputs) -> None:
    """Raise ValueError for scores of a student's start that are of another model than the one that is sliced."""
    if section.scores is None:
        return
    config, folder = model.config, folder_of(section.scores, inputs)
    if folder is None:
        facts = inputs[section.scores].facts
        if not isinstance(facts, ScoresFacts):
            raise UserError(f"student.scores is {section.scores!r}, which scores no model; name a score stage")
        sizes = [(one.num_hidden_layers, one.num_attention_heads, num_neurons(one)) for one in (config, facts.config)]
        is_other = sizes[0] != sizes[1]
    else:
        is_other = model.folder is not None and _models.content_of(model.folder) != _scored(folder).model_hash
    if is_other:
        raise UserError(
            f"student.scores is {section.scores!r}, which are of a different model from the one that is sliced; score "
            "that one"
        )


def _scored(folder: Path) -> ScoreFacts:
    with placed("student.scores"):
        return read_facts(storage_at(folder).fetch())


def with_plan(section: StudentConfig, model: Any, *, head: str) -> Any:
    """A student's configuration with the plan of its section; without one there, with the plan that it has.

    Raises ValueError for a plan that the student cannot have.
    """
    found = copy.deepcopy(model)
    _write_plan(section, found, head=head)
    return found


def _write_plan(section: StudentConfig, model: Any, *, head: str) -> None:
    try:
        if section.layer_plan is not None:
            plan = layer_plan.make_plan(
                section.layer_plan, model.num_hidden_layers, half_of_six=section.layer_plan_half_of_six
            )
            layer_plan.set_plan(model, plan)
        family_of(model).check_plan(model)
        if layer_plan.is_drawn(layer_plan.plan_of(model)) and head in _VOCABULARIES:
            raise UserError(f"layer_plan has drawn blocks, which a {head} head does not have; choose another plan")
    except UserError as error:
        raise UserError(f"student.{error}") from None


def lines(section: StudentConfig, student: Any, teachers: list[Any]) -> list[str]:
    """What a preflight tells of the layers of a student and of its plan, given the models' configurations."""
    return [*_layer_lines(section, teachers), *plan_lines(student)]


def plan_lines(model: Any) -> list[str]:
    """What a preflight tells of a student's plan, nothing of one without."""
    plan = layer_plan.plan_of(model)
    if plan is None:
        return []
    return [
        f"student runs {len(plan)} blocks with the weights of {model.num_hidden_layers}: {layer_plan.shown(plan)} "
        "(* query and key exchanged, ? drawn); plain transformers needs its unrolled copy, which register makes"
    ]


def _layer_lines(section: StudentConfig, teachers: list[Any]) -> list[str]:
    """A warning where the published list of layers is not spread over the teacher, which nobody would guess."""
    if section.init not in ("layers", "sliced") or section.layers is not None:
        return []
    if not teachers or section.checkpoint is not None:
        return []
    layers, depth = layers_of(section, teachers[0]), teachers[0].num_hidden_layers
    # A spread of n blocks reaches into the last of n equal parts.
    if (layers[-1] + 1) * len(layers) > depth * (len(layers) - 1):
        return []
    named = ", ".join(map(str, layers))
    return [f"student copies the published teacher blocks {named} of {depth}, not spread over them; see student.layers"]


def write_initial(
    config: "Config", folder: Path, origin: Path, corpus: Corpus | Mixture, *, seed: int, scores: Path | None = None
) -> None:
    """Build the student of the model in ``origin`` and save it with the corpus's tokenizer, in one rename.

    ``scores`` is where scores of the model's heads and neurons lie.
    """
    section, head = config.student, config.task.head
    labels = config.task.outputs(corpus.encoding.labels)
    reference = section.checkpoint or config.teachers[0]
    if section.init == "random":
        made = _before_plan(section, load_config(origin), labels, head=head)
        student = layer_selection.fresh_student(made, seed=seed, head=head)
    else:
        # Only a new head is drawn, by the run's own seed.
        student = load_model(
            origin,
            head=head,
            labels=labels,
            names=_models.names_of(reference, load_config(origin)),
            # A teacher that knows a part of the classes gives the student its blocks alone.
            allow_new_head=reference.head == "new"
            or (section.checkpoint is None and config.method.requirements.execution.partial_label_space),
            seed=seed,
        )
    if section.init == "layers":
        student = layer_selection.student_from_layers(
            student,
            architecture=section.architecture,
            layers=layers_of(section, student.config),
            vocab_transform=section.vocab_transform,
            seed=seed,
        )
    elif section.init == "sliced":
        student = slicing.sliced_student(
            student,
            section.config,
            layers=layers_of(section, student.config),
            scores=None if scores is None else read_scores(storage_at(scores).fetch())[COMBINED],
        )
    _write_plan(section, student.config, head=head)
    tokenizer = load_tokenizer(storage_at(corpus.tokenizer_uri).fetch())
    write_padding(student.config, tokenizer, head=head)
    with atomic_folder(folder) as temporary:
        save_model(student, tokenizer, temporary)


def freezes_positions(section: StudentConfig, student: Any) -> bool:
    """Whether position embeddings stay: a student that is made may keep them, one that is continued trains them."""
    if section.init == "checkpoint":
        return False
    wanted = section.freeze_position_embeddings
    return bool(student.model_type == "distilbert" if wanted is None else wanted)
