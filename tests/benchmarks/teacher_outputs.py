"""What stored teacher outputs save of an epoch, and what batches of similar lengths save of padding.

``epoch_by_stored``: seconds of an epoch of knowledge distillation with the teacher in each step, as multiple of those
with its outputs read from a store, in a plain loop in one process with 2 threads: batches built from the corpus,
method, backward pass, AdamW. The teacher is a BERT-base with fresh weights, the students have 3 or 6 of its blocks; an
epoch is 32 rows of 12 to 100 tokens in batches of 8.
``epoch_by_buckets``: seconds of an epoch of the 3-block student alone in batches that mix lengths and are padded to the
longest row of the corpus, as multiple of those in batches of similar lengths padded to their own; both by transformers'
own forward pass, since the method's own computes nothing for padding. ``padded_tokens`` are the places of both.

Both sides of a ratio run in turn; a figure is the median of their ratios. Takes under three minutes on idle cores.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, pad
from transformers import BertConfig, BertForSequenceClassification

sys.path.insert(0, str(Path(__file__).parents[1]))

from raydistill.batch import Batch
from raydistill.data.corpus import Corpus
from raydistill.data.plan import micro_batches
from raydistill.data.stored_outputs import StoredOutputs
from raydistill.data.stream import BatchBuilder, FeedSpec
from raydistill.methods import kd
from raydistill.models.classes import with_classes
from raydistill.models.layer_selection import student_from_layers
from raydistill.models.load import load_model, save_model
from raydistill.tasks import classification
from toys.corpus import write_corpus
from toys.stored_logits import stored_logits
from toys.words import make_tokenizer

BOUND = 1.5
ROUNDS, ROWS, BATCH_ROWS, VOCABULARY = 2, 32, 8, 30_522
LABELS = ("no", "yes")
TASK = {"name": "classification"}


def write_inputs(folder: Path) -> None:
    """A corpus of labelled rows and a teacher."""
    random = np.random.default_rng(0)
    rows = [np.array([2, *random.integers(5, VOCABULARY, length), 3]) for length in random.integers(10, 99, ROWS)]
    write_corpus(
        folder / "corpus",
        rows,
        vocabulary=VOCABULARY,
        encoding={"name": "classification", "labels": list(LABELS)},
        columns=classification.columns(classification.EncodeConfig(labels=LABELS)),
        values=[{"label": number % 2, "second": len(row)} for number, row in enumerate(rows)],
    )
    torch.manual_seed(0)
    teacher = BertForSequenceClassification(with_classes(BertConfig(vocab_size=VOCABULARY), LABELS))
    save_model(teacher, make_tokenizer(), folder / "teacher")


def steps(folder: Path, *, stored: StoredOutputs | None, group_by_length: bool = True) -> Iterable[Batch]:
    """An epoch's batches, built as they are asked for."""
    spec = FeedSpec.make(
        str(folder / "corpus"),
        TASK,
        {"name": "kd"},
        seed=1,
        batch_size=BATCH_ROWS,
        group_by_length=group_by_length,
        stored=stored,
    )
    builder = BatchBuilder(spec)
    for step in range(builder.plan.steps_per_epoch):
        [rows] = micro_batches(builder.plan.rows(step), rank=0, world_size=1, num_micro_batches=1)
        yield builder.batch(rows, epoch=0, step=step)


def epoch_seconds(
    folder: Path, student: nn.Module, teachers: Sequence[nn.Module], stored: StoredOutputs | None
) -> float:
    """Seconds of an epoch of distillation, batches included."""
    method = kd.Method(kd.Config(), student, teachers)
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-5)
    method.train()
    start = time.perf_counter()
    for batch in steps(folder, stored=stored):
        optimizer.zero_grad()
        method(batch, method.denominators(batch))[0].backward()
        optimizer.step()
    return time.perf_counter() - start


def plain_seconds(student: nn.Module, batches: Sequence[Batch], width: int) -> float:
    """Seconds of an epoch of fine-tuning by transformers' own forward pass, rows padded to at least ``width``."""
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5)
    student.train()
    start = time.perf_counter()
    for batch in batches:
        extra = (0, max(0, width - batch["input_ids"].shape[1]))
        ids, mask = pad(batch["input_ids"], extra), pad(batch["attention_mask"], extra)
        optimizer.zero_grad()
        cross_entropy(student(input_ids=ids, attention_mask=mask).logits, batch["labels"]).backward()
        optimizer.step()
    return time.perf_counter() - start


def ratios(slow: Callable[[], float], fast: Callable[[], float]) -> list[tuple[float, float]]:
    """Seconds of both sides, run in turn, after one round that allocates buffers."""
    found = [(slow(), fast()) for _ in range(ROUNDS + 1)]
    return found[1:]


def report(name: str, value: float, unit: str, *, bound: float | None = None) -> None:
    """Print a figure."""
    figure: dict[str, Any] = {"name": f"teacher_outputs.{name}", "value": round(value, 3), "unit": unit}
    if bound is not None:
        figure |= {"bound": bound, "met": value >= bound}
    print(json.dumps(figure), flush=True)  # noqa: T201


def tell(
    name: str, sides: tuple[str, str], seconds: Sequence[tuple[float, float]], *, bound: float | None = None
) -> None:
    """Print a ratio and its two sides."""
    report(name, statistics.median(slow / fast for slow, fast in seconds), "x", bound=bound)
    for side, values in zip(sides, zip(*seconds, strict=True), strict=True):
        report(f"{name}.{side}", statistics.median(values), "s")


def main() -> None:
    """Print the figures."""
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder)
        teacher = load_model(folder / "teacher", head="sequence_classification", labels=LABELS)
        stored = stored_logits(
            folder / "corpus", folder / "teacher", folder / "stored", labels=LABELS, batch_size=BATCH_ROWS
        )
        students = {}
        for layers in ([0, 4, 8], [0, 2, 4, 7, 9, 11]):
            student = student_from_layers(teacher, architecture="bert", layers=layers, vocab_transform=False)
            students[len(layers)] = student
            seconds = ratios(
                lambda student=student: epoch_seconds(folder, student, [teacher], None),
                lambda student=student: epoch_seconds(folder, student, [], stored),
            )
            tell(f"epoch_by_stored.{len(layers)}_blocks", ("live", "stored"), seconds, bound=BOUND)
        mixed, grouped = (list(steps(folder, stored=None, group_by_length=grouping)) for grouping in (False, True))
        longest = int(Corpus.open(str(folder / "corpus")).lengths[:].max())
        seconds = ratios(
            lambda: plain_seconds(students[3], mixed, longest), lambda: plain_seconds(students[3], grouped, 0)
        )
        tell("epoch_by_buckets", ("to_the_longest", "to_their_own"), seconds)
        report("padded_tokens.to_the_longest", ROWS * longest, "tokens")
        report("padded_tokens.to_their_own", sum(batch["input_ids"].numel() for batch in grouped), "tokens")
        report("padded_tokens.real", sum(len(batch["token_index"]) for batch in grouped), "tokens")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    main()
