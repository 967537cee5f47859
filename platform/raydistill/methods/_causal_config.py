"""Options of method ``causal``."""

from dataclasses import dataclass
from typing import Any

from raydistill.interventions.positions import MODES
from raydistill.interventions.sites import PRESETS, load_mapping, resolve_mapping
from raydistill.losses.divergences import NAMES, Divergence
from raydistill.methods._base import check_choice, check_interchange, check_temperature, check_weight
from raydistill.methods._vocabulary_kd import measure_of
from raydistill.user_error import UserError

CHOICES: dict[str, tuple[Any, ...]] = {
    "divergence": NAMES,
    "kd_positions": ("all", "masked"),
    "site_offset": (0, 1),
    "site_draw": ("step", "micro_batch"),
    "interchange_mode": MODES,
    "positions": ("valid", "padded"),
    "pairing": ("corpus", "in_batch"),
    "partner_width": ("bucket", "batch"),
}


@dataclass(frozen=True)
class Config:
    """Weights of the terms, and the intervention; the defaults are the published ones unless a key says otherwise."""

    alpha_ce: float = 0.25
    """The weight of the KL divergence to the teacher."""
    alpha_mlm: float = 0.25
    """The weight of the masked-LM cross-entropy; 0 for decoders."""
    alpha_clm: float = 0.0
    """The weight of the next-token cross-entropy of decoders, in place of ``alpha_mlm``."""
    alpha_cos: float = 0.25
    """The weight of the cosine distance of the last hidden states, over all tokens."""
    alpha_causal_ce: float = 0.25
    """The weight of the KL divergence under intervention."""
    alpha_causal_cos: float = 0.0
    """The weight of the cosine distance of the last hidden states under intervention, over all tokens."""
    alpha_mse: float = 0.0
    """The weight of the squared error of the logits."""
    temperature: float = 2.0
    """The temperature of both KL divergences, which are multiplied by its square."""
    divergence: str = "forward_kl"
    """What replaces both KL divergences: ``forward_kl``, ``reverse_kl``, ``jsd``, ``skew_kl``, ``skew_reverse_kl`` or
    ``tvd``. The squared error of the logits is a term of its own, ``alpha_mse``."""
    beta: float = 0.5
    """For ``jsd``: the teacher's share of the mixture. 0 is the forward and 1 the reverse KL divergence."""
    skew: float = 0.1
    """For ``skew_kl``: the teacher's share of the second distribution. For ``skew_reverse_kl``: the student's."""
    kd_positions: str = "all"
    """Where logits are compared with the teacher's: at ``all`` tokens, as published, or only where there is a label
    (``masked``), which is several times cheaper."""
    mapping: str | dict[str, Any] | None = None
    """Which activations are interchanged: a preset (``middle_6``), the path of a ``.nm`` file, which is read
    immediately, or such a file's content. Needed if a causal weight is positive, unless ``data_augment`` is set."""
    site_offset: int = 0
    """0 reads the input of the block whose output is written, as published; 1 reads its output."""
    site_draw: str = "step"
    """When the group of the mapping is drawn: once per optimizer ``step``, or as published once per ``micro_batch``."""
    interchange_mode: str = "consecutive"
    """Which positions are interchanged: one span (``consecutive``), single positions (``random``), or the masked tokens
    of the base with single positions of the partner (``masked``). In the mode ``masked`` no option changes their
    number."""
    interchange_proportion: float = 0.3
    """The fraction of positions that is interchanged, of the shorter of a row and its partner."""
    max_tokens: int | None = None
    """The maximum number of interchanged positions of a row; None for no limit."""
    positions: str = "valid"
    """Where the modes ``random`` and ``masked`` draw: among real tokens (``valid``), or as published among padding too
    (``padded``), which is then computed."""
    pairing: str = "corpus"
    """Which row is the partner of a row: any row of the ``corpus``, the same in every epoch, as published; or another
    row of its micro-batch (``in_batch``), which saves the teacher's source pass."""
    partner_width: str = "bucket"
    """A partner from the corpus is cut to the longest length in the base row's length bucket, or as published to the
    padded width of its ``batch``."""
    data_augment: bool = False
    """Interchange the tokens themselves instead of activations, the published ablation. No site is read or drawn."""
    crossway: bool = False
    """Take the mean of both directions: base and partner also exchange their roles and positions. It costs twice as
    much."""
    share_student_prefix: bool = False
    """Let the student's counterfactual pass resume from its base pass, and with ``in_batch`` use that as its source
    pass too. It is cheaper, but the passes share their dropout, which is published as independent."""

    def __post_init__(self) -> None:
        for name, weight in self.alphas.items():
            check_weight(f"alpha_{name}", weight)
        if not any(self.alphas.values()):
            raise UserError("all alphas are 0, so there is no loss; give at least one a positive weight")
        if self.alpha_mlm and self.alpha_clm:
            raise UserError("alpha_mlm and alpha_clm are positive; set alpha_clm to 0, or alpha_mlm for decoders")
        check_temperature("temperature", self.temperature)
        check_interchange(self.interchange_proportion, self.max_tokens)
        for name, choices in CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        measure_of(self.divergence, beta=self.beta, skew=self.skew)
        if self.crossway and not self.intervenes:
            raise UserError("crossway is true, but no causal weight is positive; set it to false")
        if self.data_augment and self.share_student_prefix:
            raise UserError(
                "share_student_prefix is true, but with data_augment the passes share no prefix; set it to false"
            )
        self._resolve_mapping()

    def _resolve_mapping(self) -> None:
        if self.mapping is not None:
            object.__setattr__(self, "mapping", resolve_mapping(self.mapping))
            load_mapping(self.mapping)
        elif self.intervenes and not self.data_augment:
            raise UserError(
                "mapping is missing while alpha_causal_ce or alpha_causal_cos is positive; give a preset "
                f"({', '.join(sorted(PRESETS))}) or a .nm file, or set both weights to 0"
            )

    @property
    def measure(self) -> Divergence | None:
        """The divergence of the soft terms; None for the forward KL divergence, which has code of its own."""
        return measure_of(self.divergence, beta=self.beta, skew=self.skew)

    @property
    def alphas(self) -> dict[str, float]:
        """Weight of each term, by the term's name."""
        names = ("ce", "mlm", "clm", "mse", "cos", "causal_ce", "causal_cos")
        return {name: getattr(self, f"alpha_{name}") for name in names}

    @property
    def active(self) -> frozenset[str]:
        """Names of the terms with a positive weight; the others cost nothing."""
        return frozenset(name for name, weight in self.alphas.items() if weight > 0)

    @property
    def intervenes(self) -> bool:
        """Whether any term needs the counterfactual passes."""
        return bool(self.active & {"causal_ce", "causal_cos"})

    @property
    def computes_padding(self) -> bool:
        """Whether states at padding enter the loss, which they do only as published."""
        return self.intervenes and self.positions == "padded" and self.interchange_mode != "consecutive"

    @property
    def batch_dependent(self) -> bool:
        """Whether the loss of a row depends on the other rows of its micro-batch, or on the micro-batch's number."""
        reads_neighbours = self.pairing == "in_batch" or self.partner_width == "batch"
        draws_sites = self.site_draw == "micro_batch" and not self.data_augment
        return self.intervenes and (reads_neighbours or self.computes_padding or draws_sites)
