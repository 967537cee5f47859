"""Whether the loop of a training suits corpus, method and machine: batches, widths of rows, optimizer, precision."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from raydistill.config.sections import ScalingConfig
from raydistill.models import checks, compiling
from raydistill.optim.optimizers import CLIP_PER_TENSOR
from raydistill.stages._base import CorpusFacts
from raydistill.user_error import UserError

if TYPE_CHECKING:
    from raydistill.stages.train import Config


def check_batches(config: "Config", scaling: ScalingConfig, corpus: CorpusFacts) -> None:
    """Raise ValueError for batches that cannot be divided among any number of workers that there may be."""
    for num_workers in range(scaling.fewest_workers, scaling.num_workers + 1):
        _check_division(config, num_workers, corpus)


def _check_division(config: "Config", num_workers: int, corpus: CorpusFacts) -> None:
    training = config.training
    parts = num_workers * training.num_micro_batches(num_workers)
    if training.batch_size < num_workers:
        raise UserError(
            f"training.batch_size is {training.batch_size}, fewer rows than the {num_workers} workers; raise it"
        )
    # An epoch's batches differ by at most one row; none may leave a micro-batch empty.
    smallest = training.batch_size - 1
    if corpus.rows == 0:
        raise UserError("the corpora have no row at these weights; raise weight or few_shot")
    if corpus.rows is not None:
        smallest = corpus.rows // training.steps_per_epoch(corpus.rows)
    min_rows = config.method.requirements.min_rows
    if corpus.rows is not None and corpus.rows < min(training.batch_size, parts * min_rows):
        raise UserError(
            f"training.batch_size is {training.batch_size}, but an epoch has {corpus.rows} rows, fewer than the "
            f"{parts * min_rows} that the micro-batches of a step need; lower training.batch_size to {corpus.rows}"
        )
    if smallest < parts * min_rows:
        needed = "" if min_rows == 1 else f", at least {min_rows} for each with these options of {config.method.name}"
        raise UserError(
            f"training.micro_batch_size is {training.micro_batch_size}: with {num_workers} workers an optimizer step "
            f"has {parts} micro-batches, and some steps only {smallest} rows{needed}; raise it, or lower "
            "training.batch_size or scaling.num_workers"
        )


def check_width(config: "Config", models: Sequence[Any], corpus: CorpusFacts) -> None:
    """Refuse a width of rows that the corpus's longest row or a model's positions do not suit."""
    pad_to = config.method.requirements.execution.pad_to
    if pad_to is None:
        return
    most = min(map(checks.max_length, models))
    if not corpus.max_length <= pad_to <= most:
        raise UserError(
            f"method.pad_to is {pad_to}; the corpus has rows of up to {corpus.max_length} tokens, and the models have "
            f"{most} positions; choose a width between"
        )


def check_optimizer(config: "Config") -> None:
    """An optimizer that clips each tensor by itself must see whole ones, which sharding cuts or lays end to end."""
    name, stage = config.optimizer.name, config.training.zero_stage
    if name in CLIP_PER_TENSOR and stage != 0:
        raise UserError(
            f"optimizer.name is {name!r}, which clips the gradient of each whole tensor, but training.zero_stage is "
            f"{stage}; set zero_stage to 0, or choose adamw or adamw_hf4"
        )


def check_compilation(config: "Config", scaling: ScalingConfig, models: Sequence[Any]) -> None:
    """Blocks that are compiled have whole weights and run as one, and something compiles them."""
    training = config.training
    if not training.compile_blocks:
        return
    if training.zero_stage == 3:
        raise UserError(
            "training.compile_blocks is true, but zero_stage is 3, which gathers weights while a block runs; choose a "
            "lower stage, or set compile_blocks to false"
        )
    obstacles = [compiling.refusal(model, config.task.head) for model in models]
    missing = compiling.missing_compiler(use_gpu=scaling.use_gpu)
    obstacles += [missing and f"this machine lacks {missing}, which makes kernels of them"]
    for obstacle in filter(None, obstacles):
        raise UserError(f"training.compile_blocks is true, but {obstacle}; set it to false")


def check_precision(config: "Config", scaling: ScalingConfig) -> None:
    """DeepSpeed trains in half precision on GPUs alone, and CPUs are slow at it."""
    for key, what in (("precision", "train"), ("teacher_precision", "run teachers")):
        if getattr(config.training, key) == "fp16" and not scaling.use_gpu:
            raise UserError(
                f"training.{key} is 'fp16', which CPUs do not {what} in; write auto, fp32 or bf16, or set "
                "scaling.use_gpu"
            )


def precision_lines(config: "Config", scaling: ScalingConfig) -> list[str]:
    """What is told of a precision that a measurement will choose."""
    if config.training.precision != "auto" or scaling.use_gpu:
        return []
    return ["precision: fp32 or bf16, by a short measurement when the training starts; name one to repeat it elsewhere"]
