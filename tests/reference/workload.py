"""The workload of the causal step's benchmarks: BERT-base teacher, 6-layer student with its published dropout of 0.1,
8 x 128 tokens, rows 60 to 100 % filled, fp32. Weights are random, which changes no time.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from transformers import BertConfig, BertForMaskedLM

from raydistill.batch import Batch, add_partners, collate
from raydistill.interventions.sites import draw, load_mapping
from raydistill.methods.causal import Config, Method
from raydistill.models.layer_selection import published_layers, student_from_layers
from raydistill.tasks._base import Encoding
from raydistill.tasks.mlm import Config as MaskConfig
from raydistill.tasks.mlm import Task
from reference import six_pass
from reference.of_batch import as_example, columns_of

ROWS, WIDTH, VOCABULARY = 8, 128, 30522

PUBLISHED = Config(mapping="middle_6")
SHARED_PREFIX = Config(mapping="middle_6", pairing="in_batch", share_student_prefix=True)
MASKED = Config(mapping="middle_6", pairing="in_batch", share_student_prefix=True, kd_positions="masked")


def make_models() -> tuple[nn.Module, nn.Module]:
    """Teacher and student."""
    torch.manual_seed(0)
    teacher = BertForMaskedLM(BertConfig()).eval()
    student = student_from_layers(teacher, architecture="distilbert", layers=published_layers(6), vocab_transform=False)
    return teacher, student.train()


def make_batch(settings: Config, step: int) -> Batch:
    """Rows 60 to 100 % filled, with partners, masks and interchange positions."""
    random = np.random.default_rng(step)
    lengths = np.maximum(random.integers(int(0.6 * WIDTH), WIDTH + 1, (2, ROWS)), 12)
    lengths[:, 0] = WIDTH
    rows, partners = ([random.integers(1000, VOCABULARY, length) for length in part] for part in lengths)
    ids = np.arange(ROWS)
    batch = collate(rows, ids, pad_id=0, step=step)
    if settings.pairing == "corpus":
        batch = add_partners(batch, partners, ids, pad_id=0)
    special = {"pad": 0, "unk": 100, "cls": 101, "sep": 102, "mask": 103}
    encoding = Encoding(VOCABULARY, special, tuple(special.values()), WIDTH, np.ones(VOCABULARY, dtype=np.int64))
    return Method.prepare_batch(settings, Task(MaskConfig(), encoding).prepare_batch(batch))


def our_step(settings: Config, teacher: nn.Module, student: nn.Module, step: int) -> Callable[[], torch.Tensor]:
    """The loss of one batch as the package computes it."""
    method = Method(settings, student, [teacher]).train()
    batch = make_batch(settings, step)
    return lambda: method(batch, method.denominators(batch))[0]


def reference_step(teacher: nn.Module, student: nn.Module, step: int) -> Callable[[], torch.Tensor]:
    """The published objective on the same rows by six whole passes, heads at all positions."""
    batch = make_batch(PUBLISHED, step)
    sites = draw(load_mapping(PUBLISHED.mapping), batch.seed, batch.step)
    variables = columns_of(sites[0], teacher), columns_of(sites[1], student)
    setting = six_pass.Setting(PUBLISHED.alphas, temperature=PUBLISHED.temperature)
    example = as_example(batch)
    return lambda: six_pass.causal_loss(student, teacher, example, variables, setting)[0]
