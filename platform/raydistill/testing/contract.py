"""What every method keeps, as checks that each take a case: a method, its options and toy models of a family."""

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, cast
from unittest import SkipTest

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from raydistill import discovery, plugins
from raydistill.batch import Batch
from raydistill.methods._base import Denominators, Distiller, LossAndTerms
from raydistill.models.blocks import blocks_of
from raydistill.models.checkpointing import use_checkpointing
from raydistill.optim.parameter_groups import parameter_groups
from raydistill.tasks import clm
from raydistill.tasks._base import Encoding
from raydistill.testing.classifiers import CLASSES, CLASSIFIERS, toy_labelled_batch, toy_shared_classifier
from raydistill.testing.families import toy_gpt2, toy_llama, toy_roberta
from raydistill.testing.models import (
    VOCABULARY,
    largest_difference,
    pad_further,
    parameter_gradients,
    perturb,
    toy_batch,
    toy_bert,
    toy_distilbert,
)

_KINDS = {"sequence_classification": "classes", "token_classification": "tokens", "question_answering": "spans"}
MODELS: dict[str, tuple[Any, Any]] = {
    "distilbert": (toy_bert, toy_distilbert),
    "roberta": (toy_roberta, toy_roberta),
    "gpt2": (toy_gpt2, toy_gpt2),
    "llama": (toy_llama, toy_llama),
    **{name: (make, make) for name, make in CLASSIFIERS.items()},
    "bert_narrow": (CLASSIFIERS["bert_classes"], partial(CLASSIFIERS["bert_classes"], hidden_size=8)),
    "distilbert_narrow": (toy_bert, partial(toy_distilbert, hidden_size=8)),
    "bert_shared": (CLASSIFIERS["bert_classes"], toy_shared_classifier),
}
"""Teacher and student of each family."""
_COLOURS = (*CLASSES, "grey", "pink")
EXPERTS: dict[str, tuple[list[Any], dict[str, Any]]] = {
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


@cache
def _made_once(make: Any, num_blocks: int, **options: Any) -> Any:
    """A toy model to copy: making one takes longer than a step."""
    return make(num_blocks, **options)


@dataclass(frozen=True)
class Case:
    """A method with options, and toy models of a family, a key of ``MODELS`` or ``EXPERTS``."""

    module: ModuleType
    """The method's."""
    options: Mapping[str, Any] = field(default_factory=dict)
    family: str = "bert_classes"

    def build(self, *, dropout: float = 0.0) -> Any:
        """The method with a student of 3 blocks and teachers of 4, as many as it needs or all experts."""
        config = self.module.Config(**self.options)
        needed = self.module.Method.requirements(config)
        if self.family in EXPERTS:
            experts, of_student = EXPERTS[self.family]
            teachers = [_made_once(CLASSIFIERS[kind], 4, labels=labels, **own) for kind, labels, own in experts]
            make: Any = CLASSIFIERS["bert_classes"]
            student = _made_once(make, 3, labels=_COLOURS, dropout=dropout, **of_student)
        else:
            make_teacher, make_student = MODELS[self.family]
            teachers = [_made_once(make_teacher, 4, seed=10 + number) for number in range(needed.min_teachers)]
            student = _made_once(make_student, 3, dropout=dropout)
        method = self.module.Method(config, copy.deepcopy(student), copy.deepcopy(teachers))
        if hasattr(method, "adapters"):
            # They start too small for models so narrow: what is aligned would be next to nothing.
            with torch.no_grad():
                perturb(method.adapters, 0, torch.float64)
                for linear in method.adapters.modules():
                    if isinstance(linear, torch.nn.Linear):
                        linear.weight *= 15
        return method


def method_case(method: str | Path, options: Mapping[str, Any] | None = None, family: str = "bert_classes") -> Case:
    """The case of a method's name, or of the file of a plug-in, which ends in ``.py``.

    ``family``: a key of ``MODELS``, toy models of one type and kind of labels, or of ``EXPERTS``.
    Raises ValueError for a name that there is not, and for a file that is no method.
    """
    if str(method).endswith(".py"):
        module = plugins.of_file(str(method), Path(method).read_text(encoding="utf-8")).load()
    else:
        module = discovery.load(plugins.METHODS, str(method))
    return Case(module, options or {}, family)


def prepared_batch(method: Distiller[Any], **keys: Any) -> Batch:
    """A batch of 6 toy rows for a method; without labels where it must do without."""
    head, student_config = method.head, cast(Any, method.student.config)
    if head in _KINDS:
        scores = head == "sequence_classification" and student_config.num_labels == 1
        batch = method.prepare_batch(method.config, toy_labelled_batch("scores" if scores else _KINDS[head], **keys))
        return batch if method.requirements(method.config).labels else unlabelled(batch)
    batch = toy_batch(**keys)
    if blocks_of(method.student).HEAD == "causal_lm":
        batch = clm.Task(clm.Config(), Encoding(VOCABULARY, {}, (), 40)).prepare_batch(batch)
    return method.prepare_batch(method.config, batch)


def unlabelled(batch: Batch) -> Batch:
    """The batch without its labels."""
    return replace(batch, columns={name: column for name, column in batch.columns.items() if name != "labels"})


def _evaluate(method: Distiller[Any], batch: Batch, denominators: Denominators | None = None) -> LossAndTerms:
    found: LossAndTerms = method(batch, denominators or method.denominators(batch))
    return found


def loss_is_a_finite_scalar_and_terms_are_detached_scalars(case: Case) -> None:
    """Shapes (), and every term's direction is known before the method runs."""
    method = case.build()
    batch = prepared_batch(method)
    loss, terms = _evaluate(method, batch)
    assert loss.shape == ()
    assert torch.isfinite(loss)
    assert terms.keys() <= method.denominators(batch).keys()
    # Their directions are known before the method runs.
    assert {re.sub(r"teacher_\d+", "teacher_#", term) for term in terms} <= method.directions.keys()
    assert all(term.shape == () and torch.isfinite(term) and not term.requires_grad for term in terms.values())


def every_declared_term_is_returned_and_a_batch_alone_has_its_own_denominators(case: Case) -> None:
    """``terms(batch)`` declares what a call without denominators returns."""
    method = case.build()
    batch = prepared_batch(method)
    loss, terms = method(batch)
    assert terms.keys() == method.terms(batch).keys()
    expected = _evaluate(method, batch)
    assert loss == expected[0]
    assert terms == expected[1]


def gradient_reaches_every_student_parameter_and_no_teacher(case: Case) -> None:
    """No parameter of the student is left out, and teachers are frozen."""
    method = case.build()
    _evaluate(method, prepared_batch(method))[0].backward()
    assert [key for key, parameter in method.student.named_parameters() if parameter.grad is None] == []
    assert sum(parameter.grad.abs().sum() for parameter in method.student.parameters()) > 0
    for teacher in method.teachers:
        assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())


def teachers_are_in_eval_mode_and_outside_parameters_state_and_train(case: Case) -> None:
    """Teachers are neither trained nor saved."""
    method = case.build().train()
    held = {id(parameter) for parameter in method.parameters()}
    assert all(id(parameter) not in held for teacher in method.teachers for parameter in teacher.parameters())
    own = {f"{name}." for name, child in method.named_children() if child.state_dict()}
    assert own <= {"student.", "projection.", "adapters."}
    assert all(key.startswith(tuple(own)) for key in method.state_dict())
    assert not any(module.training for teacher in method.teachers for module in teacher.modules())


def every_trainable_parameter_is_in_exactly_one_optimizer_group(case: Case) -> None:
    """Frozen ones are in none."""
    method = case.build()
    next(method.student.parameters()).requires_grad_(False)
    groups = parameter_groups(method, weight_decay=0.1, learning_rate=1e-3)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    trainable = [id(parameter) for parameter in method.parameters() if parameter.requires_grad]
    assert sorted(grouped) == sorted(trainable)


def a_seed_repeats_the_loss(case: Case) -> None:
    """With dropout, equal seeds give equal losses and others do not."""
    method = case.build(dropout=0.2)
    losses = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        losses.append(_evaluate(method, prepared_batch(method, step=5))[0].item())
    assert losses[0] == losses[1] != losses[2]


def gradient_checkpointing_changes_no_bit(case: Case) -> None:
    """With dropout, loss and gradients are the same where blocks of the student keep their inputs alone."""
    method, results = case.build(dropout=0.2), []
    for _ in range(2):
        torch.manual_seed(0)
        loss, _ = _evaluate(method, prepared_batch(method, step=5))
        results.append({"loss": loss.detach(), **parameter_gradients(loss, method)})
        use_checkpointing(method.student)
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())


def teachers_of_another_precision_give_nearly_the_same_gradients(case: Case) -> None:
    """A student in float64 learns from teachers in float32 as from teachers in float64."""
    method, results = case.build(), []
    if not method.teachers:
        raise SkipTest("the method has no teacher")
    for dtype in (torch.float64, torch.float32):
        for teacher in method.teachers:
            teacher.to(dtype)
        results.append(parameter_gradients(_evaluate(method, prepared_batch(method))[0], method))
    assert all(gradient.dtype == torch.float64 for gradient in results[1].values())
    scale = max(gradient.abs().max() for gradient in results[0].values())
    assert largest_difference(*results) < 1e-3 * scale


def ten_steps_on_one_batch_lower_the_loss(case: Case) -> None:
    """By a tenth at least."""
    method = case.build()
    batch = prepared_batch(method)
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-2)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss, _ = _evaluate(method, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def a_batch_of_one_row_has_a_finite_loss(case: Case) -> None:
    """The last batch of an epoch may be so small."""
    method = case.build()
    loss, _ = _evaluate(method, prepared_batch(method, rows=[2]))
    assert torch.isfinite(loss)


def padding_changes_nothing(case: Case) -> None:
    """More columns of padding give equal losses and gradients."""
    if case.options.get("mask_padding") is False:
        raise SkipTest("the method was told to align padding")
    method = case.build()
    batch = prepared_batch(method)
    padded = pad_further(batch, 5)
    results = [_evaluate(method, candidate) for candidate in (batch, padded)]
    assert abs(results[0][0] - results[1][0]) < 1e-11
    gradients = [parameter_gradients(loss, method) for loss, _ in results]
    assert largest_difference(*gradients) < 1e-10


def distillation_terms_vanish_when_the_student_equals_its_teacher(case: Case) -> None:
    """Those of ``vanishes_for_identical_models``, and of other models they do not."""
    method = case.build()
    if not method.teachers:
        raise SkipTest("the method has no teacher")
    # Experts lack classes of the student; it then equals several teachers that have all.
    teachers = [copy.deepcopy(method.student) for _ in method.teachers] if case.family in EXPERTS else method.teachers
    student = copy.deepcopy(teachers[0]).requires_grad_(True).train()
    method = type(method)(method.config, student, teachers)
    for step in range(4):
        _, terms = _evaluate(method, prepared_batch(method, step=step))
        vanishing = {key: term.item() for key, term in terms.items() if key in method.vanishes_for_identical_models}
        assert vanishing
        assert max(abs(term) for term in vanishing.values()) < 1e-11
    different = case.build()
    _, terms = _evaluate(different, prepared_batch(different))
    assert min(terms[key].item() for key in vanishing) > 1e-3


def gradient_does_not_depend_on_how_a_global_batch_is_cut(case: Case, sizes: Sequence[int] = (1, 2, 3)) -> None:
    """``sizes``: rows of each part, 6 together; denominators are those of all."""
    method = case.build()
    if method.requirements(method.config).execution.batch_dependent:
        raise SkipTest("the unit of a batch-dependent method is the micro-batch")
    whole = prepared_batch(method)
    totals = method.denominators(whole)
    expected = parameter_gradients(_evaluate(method, whole, totals)[0], method)
    bounds = [sum(sizes[:part]) for part in range(len(sizes) + 1)]
    parts = [prepared_batch(method, rows=range(*bound)) for bound in pairwise(bounds)]
    assert {key: sum(method.denominators(part)[key] for part in parts) for key in totals} == totals
    loss = torch.stack([_evaluate(method, part, totals)[0] for part in parts]).sum()
    assert largest_difference(parameter_gradients(loss, method), expected) < 1e-10


_COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class _NothingCrosses(TorchDispatchMode):
    """Refuses copies between the host and tensors on "meta", which on a GPU would wait for all that was asked of it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func in _COPIES:
            sources = [made, *(one for one in args if isinstance(one, torch.Tensor))]
            assert len({one.is_meta for one in sources}) == 1, f"{func} copies values between the host and the device"
        return made


_OF_NUMBERS = (torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor)


class _NoNumbers(TorchFunctionMode):
    """Refuses tensors on "meta" that are made of numbers of the host, which are copied too, but before any dispatch."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        given = args and isinstance(args[0], torch.Tensor) and func is not torch.Tensor.new_tensor
        assert func not in _OF_NUMBERS or given or not made.is_meta, f"{func} copies numbers to the device"
        return made


def a_step_needs_no_values_on_the_host_so_it_never_waits_for_the_device(case: Case) -> None:
    """No ``item()``, ``nonzero()`` or boolean indexing, and no values of the host that are not in the batch."""
    method = case.build()
    batch = prepared_batch(method)
    # Tensors on "meta" have shapes and no values: item(), nonzero() and boolean indexing fail on them.
    method.to("meta")
    for teacher in method.teachers:
        teacher.to("meta")
    batch = batch.to("meta")
    with _NoNumbers(), _NothingCrosses():
        loss, _ = _evaluate(method, batch)
        loss.backward()
    assert loss.is_meta


METHOD_CHECKS: tuple[Callable[[Case], None], ...] = (
    loss_is_a_finite_scalar_and_terms_are_detached_scalars,
    every_declared_term_is_returned_and_a_batch_alone_has_its_own_denominators,
    gradient_reaches_every_student_parameter_and_no_teacher,
    teachers_are_in_eval_mode_and_outside_parameters_state_and_train,
    every_trainable_parameter_is_in_exactly_one_optimizer_group,
    a_seed_repeats_the_loss,
    gradient_checkpointing_changes_no_bit,
    teachers_of_another_precision_give_nearly_the_same_gradients,
    ten_steps_on_one_batch_lower_the_loss,
    a_batch_of_one_row_has_a_finite_loss,
    padding_changes_nothing,
    distillation_terms_vanish_when_the_student_equals_its_teacher,
    gradient_does_not_depend_on_how_a_global_batch_is_cut,
    a_step_needs_no_values_on_the_host_so_it_never_waits_for_the_device,
)
"""All that is checked of a method; each raises AssertionError, or SkipTest for a case that it does not apply to."""
