"""What every method keeps, over all methods found and the model families they are run on.

A new method adds its configurations to ``CASES``; a new family adds itself to ``MODELS`` of the checks.
"""

import pytest
import torch

from raydistill import discovery
from raydistill.plugins import METHODS
from raydistill.testing import contract, method_case
from raydistill.testing.contract import EXPERTS, MODELS

SITES = {
    "interchange_variable_mappings": [
        {"teacher_variable_names": ["$L:1"], "student_variable_names": ["$L:1"]},
        {"teacher_variable_names": ["$L:[0:2]$H:1$[2:6]"], "student_variable_names": ["$L:[0:2]$H:1$[2:6]"]},
    ]
}
PAIRS = {"student_layers": (0, 1), "teacher_layers": (1, 2)}
SEQUENCES = ["bert_classes", "bert_scores"]
ALIGNED = [
    ({}, list(EXPERTS)),
    ({"temperature": 5.0, "align_alpha": 0.1, "num_aligned_layers": 2}, ["three_experts"]),
    ({"mask_padding": False}, ["two_experts"]),
    ({"parity_optimizer_groups": True}, ["two_experts"]),
]
CASES = {
    "vkd": [({}, list(EXPERTS)), ({"temperature": 5.0, "kd_alpha": 0.5}, ["three_experts"])],
    "uhc": [({}, list(EXPERTS)), ({"temperature": 5.0, "kd_alpha": 0.5}, ["three_experts"])],
    "muki": [
        ({}, list(EXPERTS)),
        ({"teacher_choice": "hard"}, list(EXPERTS)),
        ({"margin_reweighting": False, "temperature": 2.0}, ["three_experts"]),
    ],
    "dfa": ALIGNED,
    "cfl": ALIGNED,
    "finetune": [({}, list(MODELS))],
    "kd": [
        ({}, [*SEQUENCES, "distilbert_classes", "bert_tokens", "bert_spans"]),
        ({"alpha": 0.3, "temperature": 2.0, "reduction": "mean"}, ["roberta_classes", "gpt2_classes"]),
        ({"alpha": 1.0}, ["bert_classes"]),
        ({"divergence": "jsd"}, ["distilbert", "bert_classes"]),
        ({"divergence": "reverse_kl", "temperature": 2.0}, ["gpt2", "llama"]),
        ({"divergence": "skew_kl", "positions": "masked"}, ["roberta"]),
    ],
    "dynamic_teacher": [
        ({}, ["bert_classes"]),
        ({"objective": "kl", "mode": "soft"}, ["bert_classes", "gpt2_classes"]),
        ({"mode": "soft_instance", "temperature": 2.0}, ["distilbert_classes", "bert_classes"]),
        ({"mode": "soft_instance", "objective": "kl", "detach_weight": True}, ["roberta_classes"]),
        ({"mode": "static", "teacher_alphas": (0.5, 1.0, 0.3)}, SEQUENCES),
        ({"mode": "hard", "teacher_alphas": (1.0, 0.5, 0.7)}, ["roberta_classes"]),
    ],
    "dynamic_data": [
        ({}, ["bert_classes", "distilbert_classes", "gpt2_classes"]),
        ({"selection": "entropy_r", "ratio": 0.1, "objective": "kl"}, ["bert_classes"]),
        ({"selection": "random"}, [*SEQUENCES, "roberta_classes"]),
        ({"selection": "none"}, SEQUENCES),
    ],
    "dynamic_objective": [
        ({}, ["bert_classes", "distilbert_classes", "gpt2_classes"]),
        ({"strategy": "uncertainty_r", "objective": "kl", "detach_weight": True}, ["bert_classes"]),
        ({"strategy": "static", "rep_norm_dim": "tokens"}, SEQUENCES),
        ({"rep_norm_dim": "tokens", "kd_alpha": 0.5}, ["bert_classes"]),
    ],
    "patient_kd": [
        (PAIRS, [*SEQUENCES, "roberta_classes", "bert_shared"]),
        ({**PAIRS, "projection": True, "normalize": False, "beta": 2.0}, ["bert_narrow", "gpt2_classes"]),
    ],
    "causal_task": [
        ({}, ["bert_classes", "distilbert_classes", "gpt2_classes"]),
        # With the published alpha the toy's score is at its least from the start, and a rate of 0.01 overshoots.
        ({"alpha": 0.3, "beta": 0.5, "normalize_patience": True, "share_student_prefix": True}, SEQUENCES),
        ({"alpha": 0.3, "temperature": 2.0, "interchange_mode": "consecutive", "mapping": SITES}, ["roberta_classes"]),
        ({"data_augment": True, "reduction": "batchmean"}, SEQUENCES),
        ({"data_pair": True, "beta": 0.5}, SEQUENCES),
        ({"alpha": 1.0, "gamma": 0.0}, ["bert_classes"]),
    ],
    "causal": [
        ({"mapping": SITES}, ["distilbert", "roberta"]),
        ({"mapping": SITES, "alpha_mse": 0.1, "alpha_causal_cos": 0.2, "site_offset": 1}, ["distilbert"]),
        ({"alpha_causal_ce": 0.0}, ["distilbert"]),
        ({"mapping": SITES, "alpha_mlm": 0.0, "alpha_clm": 0.25, "kd_positions": "masked"}, ["gpt2"]),
        ({"mapping": SITES, "crossway": True, "share_student_prefix": True, "kd_positions": "masked"}, ["roberta"]),
        ({"mapping": SITES, "pairing": "in_batch", "interchange_mode": "random", "positions": "padded"}, ["roberta"]),
        ({"data_augment": True, "interchange_mode": "masked"}, ["distilbert"]),
    ],
}
"""Configurations of each method, and the families that each is run on."""


def parameters(*kinds):
    """Every configuration on every family, all but some kinds of which are left to the full product.

    A ``method`` is the first configuration on its first family, an ``option`` any further configuration on its first
    family, a ``family`` the first use of one by the method, and all else is a ``repetition``.
    """
    found = []
    for name, cases in CASES.items():
        used = {families[0] for _, families in cases}
        for number, (options, families) in enumerate(cases):
            for place, family in enumerate(families):
                kind = "family" if family not in used else "repetition"
                if place == 0:
                    kind = "option" if number else "method"
                used.add(family)
                marks = () if kind in kinds else pytest.mark.exhaustive
                found.append(pytest.param(name, options, family, id=f"{name}-{number}-{family}", marks=marks))
    return found


every_method = pytest.mark.parametrize(("name", "options", "family"), parameters("method"))
"""For what hardly depends on options and families."""
every_option_and_family = pytest.mark.parametrize(
    ("name", "options", "family"), parameters("method", "option", "family")
)
"""For what is computed: an option or a family can have a fault of its own in it."""


def test_every_method_has_cases():
    assert sorted(CASES) == discovery.names(METHODS)


@every_option_and_family
def test_loss_is_a_finite_scalar_and_terms_are_detached_scalars(name, options, family):
    contract.loss_is_a_finite_scalar_and_terms_are_detached_scalars(method_case(name, options, family))


@every_method
def test_every_declared_term_is_returned_and_a_batch_alone_has_its_own_denominators(name, options, family):
    contract.every_declared_term_is_returned_and_a_batch_alone_has_its_own_denominators(
        method_case(name, options, family)
    )


@every_method
def test_gradient_reaches_every_student_parameter_and_no_teacher(name, options, family):
    contract.gradient_reaches_every_student_parameter_and_no_teacher(method_case(name, options, family))


@every_method
def test_teachers_are_in_eval_mode_and_outside_parameters_state_and_train(name, options, family):
    contract.teachers_are_in_eval_mode_and_outside_parameters_state_and_train(method_case(name, options, family))


@every_method
def test_every_trainable_parameter_is_in_exactly_one_optimizer_group(name, options, family):
    contract.every_trainable_parameter_is_in_exactly_one_optimizer_group(method_case(name, options, family))


@every_option_and_family
def test_a_seed_repeats_the_loss(name, options, family):
    contract.a_seed_repeats_the_loss(method_case(name, options, family))


@every_option_and_family
def test_gradient_checkpointing_changes_no_bit(name, options, family):
    contract.gradient_checkpointing_changes_no_bit(method_case(name, options, family))


@every_option_and_family
def test_teachers_of_another_precision_give_nearly_the_same_gradients(name, options, family):
    contract.teachers_of_another_precision_give_nearly_the_same_gradients(method_case(name, options, family))


@every_method
def test_ten_steps_on_one_batch_lower_the_loss(name, options, family):
    contract.ten_steps_on_one_batch_lower_the_loss(method_case(name, options, family))


@every_method
def test_a_batch_of_one_row_has_a_finite_loss(name, options, family):
    contract.a_batch_of_one_row_has_a_finite_loss(method_case(name, options, family))


@every_option_and_family
def test_padding_changes_nothing(name, options, family):
    contract.padding_changes_nothing(method_case(name, options, family))


@every_option_and_family
def test_distillation_terms_vanish_when_the_student_equals_its_teacher(name, options, family):
    contract.distillation_terms_vanish_when_the_student_equals_its_teacher(method_case(name, options, family))


@every_option_and_family
@pytest.mark.parametrize("sizes", [(3, 3), (1, 2, 3)])
def test_gradient_does_not_depend_on_how_a_global_batch_is_cut(name, options, family, sizes):
    contract.gradient_does_not_depend_on_how_a_global_batch_is_cut(method_case(name, options, family), sizes)


@every_method
def test_a_step_needs_no_values_on_the_host_so_it_never_waits_for_the_device(name, options, family):
    contract.a_step_needs_no_values_on_the_host_so_it_never_waits_for_the_device(method_case(name, options, family))


WAITS = {
    "item": lambda batch: batch["labels"].float().mean().item(),
    "truth": lambda batch: bool(batch["attention_mask"].all()),
    "nonzero": lambda batch: batch["attention_mask"].nonzero(),
    "choice": lambda batch: batch["labels"][batch["labels"] > 0],
    "list": lambda batch: batch["lengths"].tolist(),
    "numbers": lambda batch: torch.tensor([1.0, 2.0], device=batch["labels"].device),
    "copy": lambda batch: torch.ones(2).to(batch["labels"].device),
    "written": lambda batch: torch.empty(2, device=batch["labels"].device).copy_(torch.ones(2)),
    "back": lambda batch: batch["lengths"].cpu(),
}
"""What waits for a device."""


@pytest.mark.parametrize("wait", WAITS)
def test_a_method_that_waits_for_the_device_breaks_the_contract(wait, monkeypatch):
    case = method_case("finetune", {}, "bert_classes")
    contract.a_step_needs_no_values_on_the_host_so_it_never_waits_for_the_device(case)
    add_terms = case.module.Method.add_terms

    def waiting(self, terms, batch):
        WAITS[wait](batch)
        add_terms(self, terms, batch)

    monkeypatch.setattr(case.module.Method, "add_terms", waiting)
    with pytest.raises((AssertionError, RuntimeError)):
        contract.a_step_needs_no_values_on_the_host_so_it_never_waits_for_the_device(case)
