"""The workload of the causal step's benchmarks: BERT-base teacher, 6-layer student with its published dropout of 0.1,
8 x 128 tokens, rows 60 to 100 % filled, fp32. Weights are random, which changes no time.
"""

from collections.abc import Callable
from typing import NamedTuple

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


class Size(NamedTuple):
    """Rows of a batch, places of the longest, and where they are computed."""

    rows: int = ROWS
    width: int = WIDTH
    vocabulary: int = VOCABULARY
    device: torch.device = torch.device("cpu")


FULL = Size()
PUBLISHED = Config(mapping="middle_6")
SHARED_PREFIX = Config(mapping="middle_6", pairing="in_batch", share_student_prefix=True)
MASKED = Config(mapping="middle_6", pairing="in_batch", share_student_prefix=True, kd_positions="masked")


def make_models(**shape: int) -> tuple[nn.Module, nn.Module]:
    """Teacher and student; ``shape`` has keys of the teacher's configuration, whose 12 blocks stay."""
    torch.manual_seed(0)
    teacher = BertForMaskedLM(BertConfig(**shape)).eval()
    student = student_from_layers(teacher, architecture="distilbert", layers=published_layers(6), vocab_transform=False)
    return teacher, student.train()


def make_batch(settings: Config, step: int, size: Size = FULL) -> Batch:
    """Rows 60 to 100 % filled, with partners, masks and interchange positions."""
    random = np.random.default_rng(step)
    lengths = np.maximum(random.integers(int(0.6 * size.width), size.width + 1, (2, size.rows)), 12)
    lengths[:, 0] = size.width
    rows, partners = ([random.integers(1000, size.vocabulary, length) for length in part] for part in lengths)
    ids = np.arange(size.rows)
    batch = collate(rows, ids, pad_id=0, step=step)
    if settings.pairing == "corpus":
        batch = add_partners(batch, partners, ids, pad_id=0)
    special = {"pad": 0, "unk": 100, "cls": 101, "sep": 102, "mask": 103}
    counts = np.ones(size.vocabulary, dtype=np.int64)
    encoding = Encoding(size.vocabulary, special, tuple(special.values()), size.width, counts)
    return Method.prepare_batch(settings, Task(MaskConfig(), encoding).prepare_batch(batch)).to(size.device)


def our_step(
    settings: Config, teacher: nn.Module, student: nn.Module, step: int, size: Size = FULL
) -> Callable[[], torch.Tensor]:
    """The loss of one batch as the package computes it."""
    method = Method(settings, student, [teacher]).train()
    batch = make_batch(settings, step, size)
    return lambda: method(batch, method.denominators(batch))[0]


def reference_step(teacher: nn.Module, student: nn.Module, step: int, size: Size = FULL) -> Callable[[], torch.Tensor]:
    """The published objective on the same rows by six whole passes, heads at all positions."""
    batch = make_batch(PUBLISHED, step, size)
    sites = draw(load_mapping(PUBLISHED.mapping), batch.seed, batch.step)
    variables = columns_of(sites[0], teacher), columns_of(sites[1], student)
    setting = six_pass.Setting(PUBLISHED.alphas, temperature=PUBLISHED.temperature)
    example = as_example(batch)
    return lambda: six_pass.causal_loss(student, teacher, example, variables, setting)[0]
