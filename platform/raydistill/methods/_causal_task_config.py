"""Options of method ``causal_task``."""

from dataclasses import dataclass
from typing import Any

from raydistill.interventions.sites import load_mapping, resolve_mapping
from raydistill.methods._base import check_choice, check_interchange, check_temperature, check_weight
from raydistill.user_error import UserError

FULL = "full"
"""Name of the mapping that is made for the depths of teacher and student."""

COUNTERFACTUAL, PAIR = "causal_", "pair_"
"""Prefixes of the terms of the second pass: under intervention, and of the same rows again."""

CHOICES: dict[str, tuple[Any, ...]] = {
    "reduction": ("mean", "batchmean"),
    "interchange_mode": ("random", "consecutive"),
    "site_offset": (1, 0),
}


@dataclass(frozen=True)
class Config:
    """Weights of the terms, and the intervention; the defaults are the published ones."""

    alpha: float = 0.95
    """The fraction of the base pass's loss that the soft labels have. The true labels have the rest."""
    temperature: float = 10.0
    """Logits are divided by it before the softmax, in the counterfactual pass too."""
    reduction: str = "mean"
    """``mean`` also divides a divergence by the number of classes, as published; ``batchmean`` sums it over them."""
    gamma: float = 1.0
    """The weight of the soft labels under intervention. With 0 no counterfactual pass runs."""
    beta: float = 0.0
    """The weight of the ``pkd`` terms, the squared error of the rows' pooled states, in each pass."""
    patience_layers: tuple[int, ...] | None = None
    """The teacher's blocks, from 0, whose outputs are compared with those of all the student's blocks but the last.
    None spreads them evenly: 1, 3, 5, 7, 9 for 12 and 6 blocks."""
    normalize_patience: bool = False
    """Whether states are divided by their norm before they are compared."""
    mapping: str | dict[str, Any] = FULL
    """Which activations are interchanged: ``full``, each student block with the same fraction of the teacher's blocks;
    a preset; the path of a ``.nm`` file, which is read immediately; or such a file's content."""
    site_offset: int = 1
    """1 reads the output of the block whose output is written, as published; 0 reads its input."""
    interchange_mode: str = "random"
    """Which positions are interchanged: single positions (``random``) or one span (``consecutive``) of real tokens."""
    interchange_proportion: float = 0.3
    """The fraction of positions that is interchanged, of the shorter of a row and its partner."""
    max_tokens: int | None = None
    """The maximum number of interchanged positions of a row; None for no limit."""
    share_student_prefix: bool = False
    """Let the student's counterfactual pass resume from its base pass, which is its source pass too. It is cheaper, but
    the passes share their dropout, which is published as independent."""
    data_augment: bool = False
    """Interchange the tokens themselves instead of activations, an ablation. No site is read or drawn."""
    data_pair: bool = False
    """Instead of intervening, add the loss of the base pass on the partners, an ablation. ``gamma`` is ignored."""

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise UserError(f"alpha is {self.alpha}; it must be between 0 and 1")
        for name in ("gamma", "beta"):
            check_weight(name, getattr(self, name))
        check_temperature("temperature", self.temperature)
        check_interchange(self.interchange_proportion, self.max_tokens)
        for name, choices in CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        if self.data_augment and self.data_pair:
            raise UserError("data_augment and data_pair are true; set one of them to false")
        if self.share_student_prefix and (self.data_augment or self.data_pair):
            ablation = "data_augment" if self.data_augment else "data_pair"
            raise UserError(f"share_student_prefix is true, but with {ablation} no pass resumes; set it to false")
        object.__setattr__(self, "mapping", resolve_mapping(self.mapping, generated=(FULL,)))
        if self.mapping != FULL:
            load_mapping(self.mapping)

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each term that has one, by the term's name, with ``label`` for that of the true labels."""
        found = {"label": 1 - self.alpha, "kd": self.alpha, "pkd": self.beta}
        if self.data_pair:
            found |= {PAIR + name: weight for name, weight in found.items()}
        elif self.gamma > 0:
            found |= {COUNTERFACTUAL + "kd": self.gamma, COUNTERFACTUAL + "pkd": self.beta}
        return {name: weight for name, weight in found.items() if weight > 0}

    @property
    def intervenes(self) -> bool:
        """Whether there is a counterfactual pass, of interchanged activations or tokens."""
        return self.gamma > 0 and not self.data_pair

    @property
    def swaps_states(self) -> bool:
        """Whether activations are interchanged."""
        return self.intervenes and not self.data_augment
