"""One causal step against the six-pass reference: BERT-base teacher, 6-layer student, 8 x 128 tokens, fp32, 2 threads.

The two run in turn in one process, since machines are noisy; the figure is the median ratio of their times over
``ROUNDS`` rounds, with forward and backward pass each. Takes about five minutes.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertForMaskedLM

sys.path.insert(0, str(Path(__file__).parents[1]))

from raydistill.batch import Batch, add_partners, collate
from raydistill.interventions.sites import draw, load_mapping
from raydistill.methods.causal import Config, Method
from raydistill.models.layer_selection import published_layers, student_from_layers
from raydistill.tasks._base import Encoding
from raydistill.tasks.mlm import Config as MaskConfig
from raydistill.tasks.mlm import Task
from reference import six_pass
from reference.of_batch import as_example, columns_of

ROUNDS = 5
ROWS, WIDTH, VOCABULARY = 8, 128, 30522
BOUND = 1.6


def make_batch(settings: Config, step: int) -> Batch:
    """Rows 60 to 100 % filled, with partners, masks and interchange positions."""
    random = np.random.default_rng(step)
    lengths = np.maximum(random.integers(int(0.6 * WIDTH), WIDTH + 1, (2, ROWS)), 12)
    lengths[:, 0] = WIDTH
    rows, partners = ([random.integers(1000, VOCABULARY, length) for length in part] for part in lengths)
    ids = np.arange(ROWS)
    batch = add_partners(collate(rows, ids, pad_id=0, step=step), partners, ids, pad_id=0)
    special = {"pad": 0, "unk": 100, "cls": 101, "sep": 102, "mask": 103}
    encoding = Encoding(VOCABULARY, special, tuple(special.values()), WIDTH, np.ones(VOCABULARY, dtype=np.int64))
    return Method.prepare_batch(settings, Task(MaskConfig(), encoding).prepare_batch(batch))


def seconds(step: Callable[[], torch.Tensor]) -> float:
    """Time of a forward and backward pass."""
    start = time.perf_counter()
    step().backward()
    return time.perf_counter() - start


def main() -> None:
    """Print the figure."""
    torch.set_num_threads(2)
    torch.manual_seed(0)
    teacher = BertForMaskedLM(BertConfig(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)).eval()
    student = student_from_layers(teacher, architecture="distilbert", layers=published_layers(6), vocab_transform=False)
    settings = Config(mapping="middle_6")
    method = Method(settings, student, [teacher]).train()
    reference = six_pass.Setting(settings.alphas, temperature=settings.temperature)
    ratios = []
    for step in range(ROUNDS + 1):
        batch = make_batch(settings, step)
        sites = draw(load_mapping(settings.mapping), batch.seed, batch.step)
        variables = columns_of(sites[0], teacher), columns_of(sites[1], student)
        example = as_example(batch)
        theirs = seconds(lambda: six_pass.causal_loss(student, teacher, example, variables, reference)[0])  # noqa: B023
        ours = seconds(lambda: method(batch, method.denominators(batch))[0])  # noqa: B023
        student.zero_grad()
        if step > 0:
            ratios.append(theirs / ours)
    value = statistics.median(ratios)
    figure = {"name": "causal_step.speedup", "value": round(value, 3), "unit": "x", "bound": BOUND}
    print(json.dumps({**figure, "met": value >= BOUND}))  # noqa: T201


if __name__ == "__main__":
    main()
