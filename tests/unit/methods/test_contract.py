"""What every method keeps, over all methods found and the model families they are run on.

A new method adds its configurations to ``CASES``; a new family adds itself to ``MODELS``.
"""

import copy
import re
from functools import cache, partial
from itertools import pairwise

import pytest
import torch

from raydistill import discovery
from raydistill.models.blocks import blocks_of
from raydistill.models.load import head_of
from raydistill.optim.parameter_groups import parameter_groups
from raydistill.tasks import clm
from raydistill.tasks._base import Encoding
from toys.classifiers import CLASSES, CLASSIFIERS, toy_labelled_batch, toy_shared_classifier
from toys.families import toy_gpt2, toy_llama, toy_roberta
from toys.integration import unlabelled
from toys.models import (
    VOCABULARY,
    largest_difference,
    pad_further,
    parameter_gradients,
    perturb,
    toy_batch,
    toy_bert,
    toy_distilbert,
)

PACKAGE = "raydistill.methods"
KINDS = {"sequence_classification": "classes", "token_classification": "tokens", "question_answering": "spans"}
SITES = {
    "interchange_variable_mappings": [
        {"teacher_variable_names": ["$L:1"], "student_variable_names": ["$L:1"]},
        {"teacher_variable_names": ["$L:[0:2]$H:1$[2:6]"], "student_variable_names": ["$L:[0:2]$H:1$[2:6]"]},
    ]
}
MODELS = {
    "distilbert": (toy_bert, toy_distilbert),
    "roberta": (toy_roberta, toy_roberta),
    "gpt2": (toy_gpt2, toy_gpt2),
    "llama": (toy_llama, toy_llama),
    **{name: (make, make) for name, make in CLASSIFIERS.items()},
    "bert_narrow": (CLASSIFIERS["bert_classes"], partial(CLASSIFIERS["bert_classes"], hidden_size=8)),
    "bert_shared": (CLASSIFIERS["bert_classes"], toy_shared_classifier),
}
"""Teacher and student of each family."""
COLOURS = (*CLASSES, "grey", "pink")
EXPERTS = {
    "two_experts": ([("bert_classes", ("green", "red"), {}), ("bert_classes", ("grey", "pink", "blue"), {})], {}),
    "three_experts": (
        [
            ("bert_classes", ("red", "grey"), {"hidden_size": 24}),
            ("distilbert_classes", ("green", "blue", "grey"), {}),
            ("roberta_classes", ("pink", "red"), {"hidden_size": 8}),
        ],
        {"hidden_size": 8},
    ),
}
"""Teachers that know some of the student's classes each, disjoint or overlapping, and the student's options."""
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


@cache
def made_once(make, num_blocks, **options):
    """A toy model to copy: making one takes longer than a step."""
    return make(num_blocks, **options)


def build(name, options, family, *, dropout=0.0):
    """A method with a student of 3 blocks and teachers of 4, as many as it needs or all experts."""
    module = discovery.load(PACKAGE, name)
    config = module.Config(**options)
    needed = module.Method.requirements(config)
    if family in EXPERTS:
        experts, of_student = EXPERTS[family]
        teachers = [made_once(CLASSIFIERS[kind], 4, labels=labels, **own) for kind, labels, own in experts]
        student = made_once(CLASSIFIERS["bert_classes"], 3, labels=COLOURS, dropout=dropout, **of_student)
    else:
        make_teacher, make_student = MODELS[family]
        teachers = [made_once(make_teacher, 4, seed=10 + number) for number in range(needed.min_teachers)]
        student = made_once(make_student, 3, dropout=dropout)
    method = module.Method(config, copy.deepcopy(student), copy.deepcopy(teachers))
    if hasattr(method, "adapters"):
        # They start too small for models so narrow: what is aligned would be next to nothing.
        with torch.no_grad():
            perturb(method.adapters, 0, torch.float64)
            for linear in method.adapters.modules():
                if isinstance(linear, torch.nn.Linear):
                    linear.weight *= 15
    return method


def prepared(method, **keys):
    """A batch for a method; without labels where it must do without."""
    head = head_of(method.student)
    if head in KINDS:
        kind = "scores" if head == "sequence_classification" and method.student.config.num_labels == 1 else KINDS[head]
        batch = method.prepare_batch(method.config, toy_labelled_batch(kind, **keys))
        return batch if method.requirements(method.config).labels else unlabelled(batch)
    batch = toy_batch(**keys)
    if blocks_of(method.student).HEAD == "causal_lm":
        batch = clm.Task(clm.Config(), Encoding(VOCABULARY, {}, (), 40)).prepare_batch(batch)
    return method.prepare_batch(method.config, batch)


def evaluate(method, batch, denominators=None):
    return method(batch, denominators or method.denominators(batch))


def test_every_method_has_cases():
    assert sorted(CASES) == discovery.names(PACKAGE)


@every_option_and_family
def test_loss_is_a_finite_scalar_and_terms_are_detached_scalars(name, options, family):
    method = build(name, options, family)
    batch = prepared(method)
    loss, terms = evaluate(method, batch)
    assert loss.shape == ()
    assert torch.isfinite(loss)
    assert terms.keys() <= method.denominators(batch).keys()
    # Their directions are known before the method runs.
    assert {re.sub(r"teacher_\d+", "teacher_#", term) for term in terms} <= method.directions.keys()
    assert all(term.shape == () and torch.isfinite(term) and not term.requires_grad for term in terms.values())


@every_method
def test_every_declared_term_is_returned_and_a_batch_alone_has_its_own_denominators(name, options, family):
    method = build(name, options, family)
    batch = prepared(method)
    loss, terms = method(batch)
    assert terms.keys() == method.terms(batch).keys()
    expected = evaluate(method, batch)
    assert loss == expected[0]
    assert terms == expected[1]


@every_method
def test_gradient_reaches_every_student_parameter_and_no_teacher(name, options, family):
    method = build(name, options, family)
    evaluate(method, prepared(method))[0].backward()
    assert [key for key, parameter in method.student.named_parameters() if parameter.grad is None] == []
    assert sum(parameter.grad.abs().sum() for parameter in method.student.parameters()) > 0
    for teacher in method.teachers:
        assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())


@every_method
def test_teachers_are_in_eval_mode_and_outside_parameters_state_and_train(name, options, family):
    method = build(name, options, family).train()
    held = {id(parameter) for parameter in method.parameters()}
    assert all(id(parameter) not in held for teacher in method.teachers for parameter in teacher.parameters())
    own = {f"{name}." for name, child in method.named_children() if child.state_dict()}
    assert own <= {"student.", "projection.", "adapters."}
    assert all(key.startswith(tuple(own)) for key in method.state_dict())
    assert not any(module.training for teacher in method.teachers for module in teacher.modules())


@every_method
def test_every_trainable_parameter_is_in_exactly_one_optimizer_group(name, options, family):
    method = build(name, options, family)
    next(method.student.parameters()).requires_grad_(False)
    groups = parameter_groups(method, weight_decay=0.1, learning_rate=1e-3)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    trainable = [id(parameter) for parameter in method.parameters() if parameter.requires_grad]
    assert sorted(grouped) == sorted(trainable)


@every_option_and_family
def test_a_seed_repeats_the_loss(name, options, family):
    method = build(name, options, family, dropout=0.2)
    losses = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        losses.append(evaluate(method, prepared(method, step=5))[0].item())
    assert losses[0] == losses[1] != losses[2]


@every_method
def test_ten_steps_on_one_batch_lower_the_loss(name, options, family):
    method = build(name, options, family)
    batch = prepared(method)
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-2)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss, _ = evaluate(method, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@every_method
def test_a_batch_of_one_row_has_a_finite_loss(name, options, family):
    method = build(name, options, family)
    loss, _ = evaluate(method, prepared(method, rows=[2]))
    assert torch.isfinite(loss)


@every_option_and_family
def test_padding_changes_nothing(name, options, family):
    if options.get("mask_padding") is False:
        pytest.skip("the method was told to align padding")
    method = build(name, options, family)
    batch = prepared(method)
    padded = pad_further(batch, 5)
    results = [evaluate(method, candidate) for candidate in (batch, padded)]
    assert abs(results[0][0] - results[1][0]) < 1e-11
    gradients = [parameter_gradients(loss, method) for loss, _ in results]
    assert largest_difference(*gradients) < 1e-10


@every_option_and_family
def test_distillation_terms_vanish_when_the_student_equals_its_teacher(name, options, family):
    method = build(name, options, family)
    if not method.teachers:
        pytest.skip("the method has no teacher")
    # Experts lack classes of the student; it then equals several teachers that have all.
    teachers = [copy.deepcopy(method.student) for _ in method.teachers] if family in EXPERTS else method.teachers
    student = copy.deepcopy(teachers[0]).requires_grad_(True).train()
    method = type(method)(method.config, student, teachers)
    for step in range(4):
        _, terms = evaluate(method, prepared(method, step=step))
        vanishing = {key: term.item() for key, term in terms.items() if key in method.vanishes_for_identical_models}
        assert vanishing
        assert max(abs(term) for term in vanishing.values()) < 1e-11
    different = build(name, options, family)
    _, terms = evaluate(different, prepared(different))
    assert min(terms[key].item() for key in vanishing) > 1e-3


@every_option_and_family
@pytest.mark.parametrize("sizes", [(3, 3), (1, 2, 3)])
def test_gradient_does_not_depend_on_how_a_global_batch_is_cut(name, options, family, sizes):
    method = build(name, options, family)
    if method.requirements(method.config).execution.batch_dependent:
        pytest.skip("the unit of a batch-dependent method is the micro-batch")
    whole = prepared(method)
    totals = method.denominators(whole)
    expected = parameter_gradients(evaluate(method, whole, totals)[0], method)
    bounds = [sum(sizes[:part]) for part in range(len(sizes) + 1)]
    parts = [prepared(method, rows=range(*bound)) for bound in pairwise(bounds)]
    assert {key: sum(method.denominators(part)[key] for part in parts) for key in totals} == totals
    loss = sum(evaluate(method, part, totals)[0] for part in parts)
    assert largest_difference(parameter_gradients(loss, method), expected) < 1e-10


@every_method
def test_a_step_needs_no_values_on_the_host_so_it_never_waits_for_the_device(name, options, family):
    method = build(name, options, family)
    batch = prepared(method)
    # Tensors on "meta" have shapes and no values: item(), nonzero() and boolean indexing fail on them.
    method.to("meta")
    for teacher in method.teachers:
        teacher.to("meta")
    loss, _ = evaluate(method, batch.to("meta"))
    loss.backward()
    with pytest.raises(RuntimeError, match="meta"):
        loss.item()
