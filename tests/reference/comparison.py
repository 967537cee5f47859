"""Method ``causal`` beside the six-pass reference, on toy models of each family and real task preparation."""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from raydistill import draws
from raydistill.batch import add_partners, collate
from raydistill.methods.causal import Config, Method
from raydistill.tasks import clm, mlm
from raydistill.tasks._base import Encoding
from reference import six_pass
from reference.of_batch import as_example, as_setting, variables_of
from toys.families import toy_gpt2, toy_llama, toy_roberta
from toys.models import MASK, PAD, VOCABULARY, parameter_gradients, toy_bert, toy_distilbert

TERMS = ("ce", "mlm", "clm", "mse", "cos", "causal_ce", "causal_cos")
ALPHAS = {"ce": 0.25, "mlm": 0.3, "mse": 0.01, "cos": 0.4, "causal_ce": 0.5, "causal_cos": 0.35}
"""All terms of a masked model at once."""

LENGTHS = (9, 14, 11, 17, 10, 13)
PARTNER_LENGTHS = (16, 8, 12, 13, 19, 9)
"""Padded to other widths than the rows."""

FAMILIES = {
    "bert": (toy_bert, toy_bert),
    "distilbert": (toy_bert, toy_distilbert),
    "roberta": (toy_roberta, toy_roberta),
    "gpt2": (toy_gpt2, toy_gpt2),
    "llama": (toy_llama, toy_llama),
}
"""Teacher and student of each pair of families."""

DECODERS = ("gpt2", "llama")

_SPECIAL = {"pad": PAD, "unk": 1, "cls": 2, "sep": 3, "mask": MASK}
_COUNTS = 1 + np.arange(VOCABULARY, dtype=np.int64) % 7
_ENCODING = Encoding(VOCABULARY, _SPECIAL, tuple(_SPECIAL.values()), 40, _COUNTS)


def weights(**alphas):
    return {f"alpha_{name}": alphas.get(name, 0.0) for name in TERMS}


def mapping(*groups):
    keys = ("teacher_variable_names", "student_variable_names")
    return {"interchange_variable_mappings": [dict(zip(keys, group, strict=True)) for group in groups]}


ONE_SITE = mapping((["$L:2"], ["$L:1"]))


def config(family="distilbert", **options):
    """All terms at once, of the kind that the family has, and one whole vector of one block."""
    alphas = dict(ALPHAS)
    if family in DECODERS:
        alphas["clm"] = alphas.pop("mlm")
    return Config(**{**weights(**alphas), "mapping": ONE_SITE, **options})


@cache
def models(family="distilbert", *, student_blocks=3, teacher_blocks=4, hidden_size=16, dropout=0.0):
    """Student and teacher in float64, of one width; the same objects for equal arguments, so change none of them."""
    make_teacher, make_student = FAMILIES[family]
    student = make_student(student_blocks, seed=1, hidden_size=hidden_size, dropout=dropout)
    return wide_norms(student), wide_norms(make_teacher(teacher_blocks, seed=10, hidden_size=hidden_size))


def wide_norms(model):
    """The model with RMS norms in its own precision: Llama's are in float32 whatever the model is in."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LlamaRMSNorm):
            norm = nn.RMSNorm(module.weight.shape[0], eps=module.variance_epsilon)
            norm.weight = module.weight
            model.set_submodule(name, norm)
    return model


def make_batch(settings, family="distilbert", *, rows=range(6), seed=3, epoch=0, step=0, micro_batch=0, task=None):
    """Rows, and partners where the method needs them, labelled by the family's task; a row's tokens depend on its
    number alone.
    """
    batch = collate([_ids("base", row, LENGTHS) for row in rows], list(rows), pad_id=PAD, seed=seed, epoch=epoch)
    batch = replace(batch, step=step, micro_batch=micro_batch)
    if Method.requirements(settings).partners:
        partners = [_ids("partner", row, PARTNER_LENGTHS) for row in rows]
        batch = add_partners(batch, partners, np.asarray(rows) + 100, pad_id=PAD)
    return Method.prepare_batch(settings, (task or task_of(family)).prepare_batch(batch))


def task_of(family, **options):
    if family in DECODERS:
        return clm.Task(clm.Config(), _ENCODING)
    return mlm.Task(mlm.Config(**{"mask_probability": 0.3, **options}), _ENCODING)


def _ids(stream, row, lengths):
    row %= len(lengths)
    return 5 + draws.integers(stream, row, np.arange(lengths[row]), high=VOCABULARY - 5)


@dataclass(frozen=True)
class Result:
    """Loss, terms and all gradients of a student."""

    loss: torch.Tensor
    terms: dict[str, torch.Tensor]
    gradients: dict[str, torch.Tensor]

    @property
    def largest(self) -> float:
        """Largest absolute entry of all gradients."""
        return max(gradient.abs().max().item() for gradient in self.gradients.values())


def of_package(settings, student, teacher, batch):
    method = Method(settings, student, [teacher])
    loss, terms = method(batch, method.denominators(batch))
    return Result(loss, terms, parameter_gradients(loss, student))


@torch.no_grad()
def loss_of_package(settings, student, teacher, batch):
    method = Method(settings, student, [teacher])
    return method(batch, method.denominators(batch))[0].item()


def of_reference(settings, student, teacher, batch, **controls):
    variables = variables_of(settings, batch, teacher, student)
    setting = as_setting(settings, **controls)
    loss, terms = six_pass.causal_loss(student, teacher, as_example(batch), variables, setting)
    return Result(loss, terms, parameter_gradients(loss, student))


def gradient_difference(first, second):
    """Largest absolute difference of any entry of any gradient."""
    assert first.gradients.keys() == second.gradients.keys()
    pairs = [(first.gradients[name], second.gradients[name]) for name in first.gradients]
    return max((one.double() - other.double()).abs().max().item() for one, other in pairs)


def assert_equal(found, expected, *, tolerance=1e-9):
    """Loss, terms and every gradient are equal; gradients that are all tiny would be no evidence."""
    assert found.terms.keys() == expected.terms.keys()
    assert abs(found.loss.item() - expected.loss.item()) < tolerance
    differences = {name: abs(found.terms[name].item() - expected.terms[name].item()) for name in found.terms}
    assert max(differences.values()) < tolerance, differences
    assert gradient_difference(found, expected) < tolerance
    assert found.largest > 1e-2
