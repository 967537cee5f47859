"""What a training computes in where its job does not say it: decided once, when it starts, and kept with its output."""

import json
from typing import TYPE_CHECKING, Any

from raydistill import cluster
from raydistill.atomic import write_json
from raydistill.data.storages import storage_at
from raydistill.models import layer_plan
from raydistill.models.heads import VOCABULARY_HEADS
from raydistill.stages._base import StageContext
from raydistill.training.precision import FILE, Choice, Shape, choose

if TYPE_CHECKING:
    from raydistill.stages.train import Config


def settled(config: "Config", student: Any, context: StageContext, *, row_tokens: int) -> tuple["Config", str]:
    """The configuration with the precision of a training on CPUs decided, and what was chosen and why.

    ``student`` is its configuration, ``row_tokens`` the most tokens of a row. What was decided before, of a training
    that is continued, stays. GPUs decide by themselves; nothing is said where the job names a precision.
    """
    if config.training.precision != "auto" or context.scaling.use_gpu:
        return config, ""
    path = context.output / FILE
    storage_at(path).fetch()
    if path.is_file():
        choice = Choice(**json.loads(path.read_text(encoding="utf-8")))
    else:
        shape = _shape_of(config, student, row_tokens=row_tokens)
        threads = cluster.threads_per_worker(context.scaling, parallel=context.parallel)
        choice = _measured_on_a_worker(shape, threads)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, choice._asdict())
        storage_at(path).publish()
    told = f"{choice.precision}, because {choice.why}"
    context.echo(f"precision: {told}")
    training = config.training.model_copy(update={"precision": choice.precision})
    return config.model_copy(update={"training": training}), told


def _measured_on_a_worker(shape: Shape, threads: int) -> Choice:
    """The choice of a machine that trains: this one, or one of the cluster's."""
    import ray

    if not ray.is_initialized() or sum(node["Alive"] for node in ray.nodes()) < 2:
        return choose(shape, num_threads=threads)
    found: Choice = ray.get(ray.remote(choose).options(num_cpus=threads).remote(shape, num_threads=threads))
    return found


def _shape_of(config: "Config", student: Any, *, row_tokens: int) -> Shape:
    hidden = int(student.hidden_size)
    return Shape(
        rows=config.training.micro_batch_size,
        tokens=row_tokens,
        hidden=hidden,
        intermediate=int(getattr(student, "intermediate_size", None) or 4 * hidden),
        heads=int(getattr(student, "num_attention_heads", 1)),
        blocks=layer_plan.num_steps(student),
        vocabulary=int(student.vocab_size) if config.task.head in VOCABULARY_HEADS else 0,
    )
