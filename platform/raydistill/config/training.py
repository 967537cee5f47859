"""The loop of a training and its optimizer; defaults are as in ``transformers.TrainingArguments`` where it has them."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from raydistill.config.section import Section
from raydistill.user_error import UserError


class OptimizerConfig(Section):
    """The optimizer and its schedule; defaults are those of ``transformers.TrainingArguments``, with a warm-up."""

    name: Literal["adamw", "adamw_hf4", "bert_adam"] = "adamw"
    """``adamw``: the one of PyTorch. ``adamw_hf4``: the one of transformers 4, which adds epsilon before it corrects
    the bias of the moments, and decays after the update. ``bert_adam``: no bias correction, and each tensor's gradient
    is clipped by itself; it needs ``training.zero_stage: 0``. Published recipes with ``bert_adam`` have betas of 0.9
    and 0.999, an epsilon of 1e-6, a weight decay of 0.01 and a ``max_grad_norm`` of 1.0."""
    learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    """The highest rate of the schedule. The default suits a classifier; language models of a few layers take about ten
    times as much."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """The fractions of the running means of gradients and of squared gradients that stay at each step."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """The number that is added to the square root of the mean of squared gradients."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """The decoupled weight decay; biases and layer norms never have one."""
    warmup_proportion: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """The fraction of the steps over which the rate rises from 0. The first step's rate is 0, as published. ``schedule:
    constant`` has no warm-up."""
    schedule: Literal[
        "linear",
        "linear_published",
        "linear_squared",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
        "constant",
        "constant_with_warmup",
    ] = "linear"
    """How the rate changes after the warm-up. ``linear``: it falls to 0 at the last step, and the warm-up is rounded up
    to whole steps. ``linear_published``: the same with a warm-up that is not rounded, as in the first BERT code.
    ``linear_squared``: the square of that, which is what Pea-KD's published fine-tuning amounts to."""
    schedule_power: Annotated[float, Field(gt=0)] = 1.0
    """The power of ``schedule: polynomial``; 1 is linear."""
    schedule_cycles: Annotated[int, Field(ge=1)] = 1
    """How many times ``schedule: cosine_with_restarts`` falls from the full rate to 0."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """The largest norm of the gradients; larger ones are scaled down to it. It is the norm of all gradients together,
    or with ``bert_adam`` that of each tensor."""

    @model_validator(mode="after")
    def _leaves_weights(self) -> "OptimizerConfig":
        share = self.learning_rate * self.weight_decay
        if share >= 1:
            raise UserError(
                f"weight_decay is {self.weight_decay:g}, which with learning_rate {self.learning_rate:g} removes all "
                "of each weight in a step; lower it, published recipes have 0.01 to 0.1"
            )
        return self

    @model_validator(mode="after")
    def _options_of_the_schedule(self) -> "OptimizerConfig":
        for key, schedule in (("schedule_power", "polynomial"), ("schedule_cycles", "cosine_with_restarts")):
            if getattr(self, key) != 1 and self.schedule != schedule:
                raise UserError(
                    f"{key} is {getattr(self, key)}, which only schedule: {schedule} reads, but schedule is "
                    f"{self.schedule!r}; choose that one or leave {key} out"
                )
        return self


def _steps_or_share(value: object) -> object:
    """A whole number of steps, or a share of them below 1; raises ValueError for any other number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError("write a number of steps, or a fraction of them below 1, such as 0.1")
    if not (0 < value < 1 or (1 <= value < 2**63 and value == int(value))):
        raise UserError("a number of steps is whole and positive, a fraction of them lies between 0 and 1")
    return value if value < 1 else int(value)


class FurtherBest(Section):
    """One more best student that a training keeps."""

    metric: str
    """The metric that chooses it, as in ``metric_for_best_model``."""
    greater_is_better: bool | None = None
    """As ``training.greater_is_better``, for this metric."""
    saving_criterion: float | None = None
    """The value that the metric has to beat before the student is kept. If no evaluation beats it, the trained student
    takes its place."""


class TrainingConfig(Section):
    """The loop: how much, how often."""

    num_epochs: Annotated[int, Field(ge=1)] = 3
    """Passes over the rows."""
    max_steps: Annotated[int, Field(ge=1)] | None = None
    """Optimizer steps after which the training and its schedule end, whatever ``num_epochs`` says."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Rows per optimizer step, over all workers."""
    micro_batch_size: Annotated[int, Field(ge=1)] = 8
    """The maximum number of rows in one forward pass of one worker."""
    group_by_length: bool = True
    """Whether the rows of a batch have similar lengths, so that little is padded."""
    # Not written where it is true, so that hashes of stages stay what they were.
    shuffle: bool = Field(default=True, exclude_if=lambda value: value is True)
    """Whether rows come in another order in each epoch; false keeps the corpus's own order, as some published code
    does."""
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 0
    """The ZeRO stage of DeepSpeed: 1 divides the optimizer state over the workers, 2 also gradients, 3 also weights."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """``auto``: bf16 if the hardware is fast at it, else fp32. On a CPU that is measured, once for each shape."""
    teacher_precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """The precision of live teachers, also while their outputs are stored. ``auto``: that of the student."""
    gradient_checkpointing: bool = False
    """Whether the student's layers keep only their inputs and run again in the backward pass. The numbers are the same,
    with less memory and about a third more time."""
    # Not written where it is false, so that hashes of stages stay what they were.
    compile_blocks: bool = Field(default=False, exclude_if=lambda value: not value)
    """Whether ``torch.compile`` makes kernels of the blocks of the student and of replicated teachers. Values differ by
    rounding alone, and the first steps take minutes longer. It needs a C++ compiler, on GPUs Triton too, and a
    ``zero_stage`` below 3."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """The student's dropout; None keeps that of its checkpoint."""
    loss_normalization: Literal["global", "per_micro_batch"] = "global"
    """What the mean of a term is taken over: the whole optimizer step, or each micro-batch, as published."""
    logging_steps: Annotated[int, Field(ge=1)] = 10
    """Optimizer steps between two logging lines."""
    eval_steps: Annotated[int | float, BeforeValidator(_steps_or_share)] | None = 0.1
    """Steps between evaluations. A number below 1 is a fraction of the training, so that 0.1 makes about ten of them.
    None evaluates once per epoch."""
    eval_rows: Annotated[int, Field(ge=1)] = 512
    """The maximum number of validation rows that such an evaluation reads."""
    save_steps: Annotated[int, Field(ge=1)] | None = None
    """Steps between checkpoints; None saves once per epoch."""
    save_total_limit: Annotated[int, Field(ge=1)] = 2
    """How many of the latest checkpoints are kept during the training. The best student is kept beside them."""
    keep_checkpoints: bool = False
    """Whether the checkpoints of a finished training stay, and with them the student before training and the best ones
    along the way. By default they are deleted, because the student is saved and a checkpoint with its optimizer state
    is three to four times as large."""
    max_failures: Annotated[int, Field(ge=0)] = 1
    """How many times the worker group is restarted after a failure."""
    stop_after_steps: Annotated[int, Field(ge=1)] | None = None
    """Optimizer steps after which the training ends, on the schedule of the full run, unlike ``max_steps``."""
    stop_after_epochs: Annotated[int, Field(ge=1)] | None = None
    """Epochs after which the training ends, on a schedule that spans all ``num_epochs``."""
    metric_for_best_model: str = "loss"
    """What chooses the best student: ``loss``, the method's loss on validation rows; a metric of the task, such as
    ``accuracy``; ``agreement`` with the teachers, for methods that join several, which needs no labels; or the name of
    a logged figure, such as ``eval/loss`` for the task's loss or ``validation/ce`` for a term. The evaluation before
    the first step does not count."""
    greater_is_better: bool | None = None
    """Whether the greatest value of that metric is the best. By default the metric decides, and a contradiction is an
    error. A term such as ``validation/margin``, for which neither direction is better, needs this key."""
    saving_criterion: float | None = None
    """The value that the metric has to beat before a best student is kept."""
    # Not written where there is none, so that hashes of stages stay what they were.
    also_best: dict[Annotated[str, Field(pattern="^[a-z][a-z0-9_]*$")], FurtherBest] = Field(
        default={}, exclude_if=lambda value: not value
    )
    """Further best students to keep, by their names: later stages read ``STAGE@best_NAME``."""
    load_best_model_at_end: bool = False
    """Whether the trained student is the best one instead of the last. If no evaluation beats the criterion, it is the
    last one, with a note."""
    early_stopping_patience: Annotated[int, Field(ge=1)] | None = None
    """The number of evaluations in a row without an improvement after which the training ends."""
    early_stopping_threshold: Annotated[float, Field(ge=0)] = 0.0
    """By how much an evaluation has to beat the best one before it to count as an improvement."""

    @model_validator(mode="after")
    def _consistent(self) -> "TrainingConfig":
        if self.early_stopping_threshold and self.early_stopping_patience is None:
            raise UserError(
                f"early_stopping_threshold is {self.early_stopping_threshold}, which does nothing without "
                "early_stopping_patience; give both or neither"
            )
        if self.group_by_length and not self.shuffle:
            raise UserError("shuffle is false, but group_by_length orders rows anew; set group_by_length to false too")
        if self.max_steps is not None and (self.stop_after_steps or 0) > self.max_steps:
            raise UserError(
                f"stop_after_steps is {self.stop_after_steps}, beyond max_steps, {self.max_steps}; lower it or leave "
                "it out"
            )
        if self.stop_after_steps is not None and self.stop_after_epochs is not None:
            raise UserError(
                f"stop_after_epochs is {self.stop_after_epochs} beside stop_after_steps, {self.stop_after_steps}; "
                "give one of them"
            )
        if (self.stop_after_epochs or 0) > self.num_epochs:
            raise UserError(
                f"stop_after_epochs is {self.stop_after_epochs}, beyond num_epochs, {self.num_epochs}; lower it or "
                "leave it out"
            )
        for key in ("load_best_model_at_end", "early_stopping_patience", "also_best"):
            if getattr(self, key) and self.evaluates_only_at_the_end:
                value = ", ".join(self.also_best) if key == "also_best" else getattr(self, key)
                raise UserError(
                    f"{key} is {value}, but the only evaluation is the one at the end; set eval_steps lower"
                )
        return self

    @property
    def precision_of_teachers(self) -> str:
        """A precision, or ``auto`` for what the hardware is fast at."""
        return self.precision if self.teacher_precision == "auto" else self.teacher_precision

    @property
    def evaluates_at_whole_steps(self) -> bool:
        """Whether the steps between evaluations are told, and do not follow from the number of rows."""
        return self.eval_steps is not None and self.eval_steps >= 1

    @property
    def evaluates_only_at_the_end(self) -> bool:
        """Whether no evaluation comes before the last step, as far as that shows without the number of rows."""
        limits = [steps for steps in (self.max_steps, self.stop_after_steps) if steps is not None]
        if self.eval_steps is None:
            return 1 in (self.num_epochs, self.stop_after_epochs)
        return bool(limits) and self.eval_steps >= min(limits)

    @property
    def stop_key(self) -> str:
        """The key that ends training before its schedule does, where one does."""
        return "stop_after_epochs" if self.stop_after_steps is None else "stop_after_steps"

    def steps_per_epoch(self, rows: int) -> int:
        """Optimizer steps of one pass over so many rows."""
        return -(-rows // self.batch_size)

    def num_steps(self, steps_per_epoch: int) -> int:
        """Optimizer steps that the schedule spans."""
        steps = self.num_epochs * steps_per_epoch
        return steps if self.max_steps is None else min(steps, self.max_steps)

    def unreached_limit(self, steps_per_epoch: int) -> str:
        """What to tell of a ``max_steps`` that the epochs never reach; nothing where they do."""
        steps = self.num_epochs * steps_per_epoch
        if self.max_steps is None or self.max_steps <= steps:
            return ""
        epochs = "1 epoch has" if self.num_epochs == 1 else f"{self.num_epochs} epochs have"
        return (
            f"max_steps is {self.max_steps:,}, but {epochs} {steps:,} steps, after which training ends; "
            "raise num_epochs for more"
        )

    def last_step(self, steps_per_epoch: int) -> int:
        """Step after which training ends; that of the schedule without a stop before it."""
        epochs = self.num_epochs if self.stop_after_epochs is None else self.stop_after_epochs
        last = min(self.num_steps(steps_per_epoch), epochs * steps_per_epoch)
        return last if self.stop_after_steps is None else min(last, self.stop_after_steps)

    def steps_between_evaluations(self, steps_per_epoch: int) -> int:
        """Optimizer steps from one evaluation to the next."""
        if self.eval_steps is None:
            return steps_per_epoch
        if self.eval_steps < 1:
            return max(1, round(self.eval_steps * self.last_step(steps_per_epoch)))
        return int(self.eval_steps)

    def num_micro_batches(self, num_workers: int) -> int:
        """Forward passes of each worker in one optimizer step."""
        rows_per_worker = -(-self.batch_size // num_workers)
        return -(-rows_per_worker // self.micro_batch_size)
