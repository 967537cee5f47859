"""The layer plan of a student: checked before a run, written into the student that a run starts from, unrolled where
a model leaves the system, as a pruned model is put into the shape before pruning.
"""

import copy
import shutil
from pathlib import Path
from typing import Any

from raydistill.config.sections import StudentConfig
from raydistill.models import layer_plan
from raydistill.models.blocks import family_of
from raydistill.models.kept_units import kept_of
from raydistill.models.load import load_config
from raydistill.models.restored import save_restored
from raydistill.models.unrolled import save_unrolled
from raydistill.registry.student import BYTES_TAG, PARAMETERS_TAG
from raydistill.stages import _lineage

_VOCABULARIES = ("masked_lm", "causal_lm")


def planned(section: StudentConfig, model: Any, *, head: str) -> Any:
    """A student's configuration with the plan of its section; without one there, with the plan that it has.

    Raises ValueError for a plan that the student cannot have.
    """
    found = copy.deepcopy(model)
    write_plan(section, found, head=head)
    return found


def write_plan(section: StudentConfig, model: Any, *, head: str) -> None:
    """Write the plan of a section, where it has one, into a student's configuration; raises ValueError as above."""
    try:
        if section.layer_plan is not None:
            plan = layer_plan.make_plan(
                section.layer_plan, model.num_hidden_layers, half_of_six=section.layer_plan_half_of_six
            )
            layer_plan.set_plan(model, plan)
        family_of(model.model_type).check_plan(model)
        if layer_plan.is_drawn(layer_plan.plan_of(model)) and head in _VOCABULARIES:
            raise ValueError(f"layer_plan has drawn blocks, which a {head} head does not have; choose another plan")
    except ValueError as error:
        raise ValueError(f"student.{error}") from None


def plan_lines(model: Any) -> list[str]:
    """What a forecast tells of a student's plan, nothing of one without."""
    plan = layer_plan.plan_of(model)
    if plan is None:
        return []
    return [
        f"student runs {len(plan)} blocks with the weights of {model.num_hidden_layers}: {layer_plan.shown(plan)} "
        "(* query and key exchanged, ? drawn); plain transformers needs its unrolled copy, which register makes"
    ]


def plain_folder(folder: Path, output: Path) -> tuple[Path, dict[str, str]]:
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
