"""A step of ``kd`` on stored top-k, with a live teacher, and by transformers' Trainer on whole logits.

Student and teacher are GPT-2's size, 12 blocks of width 768 over 50,257 ids, with fresh weights, in float32 on two
threads; a step is forward and backward pass and AdamW, at 8 rows of 512 tokens. The Trainer computes the same formulas
with its teacher live. Each of the three runs in a fresh process and in turn, since machines are noisy; figures are
medians over rounds. Memory is the peak of the whole process, and how far it is above what was held before the first
step. ``--rows``, ``--tokens``, ``--blocks`` and ``--rounds`` make it smaller.
"""

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

from raydistill.batch import Batch, collate
from raydistill.losses.chunked_head import DEFAULT_CHUNK_ROWS
from raydistill.losses.top_k import top_k_of
from raydistill.methods import kd
from raydistill.models.predictions import at_labels
from raydistill.tasks import clm
from raydistill.tasks._base import Encoding

K, TEMPERATURE, ALPHA, RATE = 64, 1.0, 0.5, 1e-4
VOCABULARY, PAD = 50257, 50256
STEPS = 3
"""Of each process; the first one is not timed."""
SPEED_BOUND, MEMORY_BOUND = 1.5, 0.5
KINDS = ("stored", "live", "trainer")


def model_of(seed: int, blocks: int) -> nn.Module:
    """GPT-2 without dropout, with fresh weights."""
    torch.manual_seed(seed)
    config = GPT2Config(n_layer=blocks, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    return GPT2LMHeadModel._from_config(config, attn_implementation="sdpa")


def rows_of(rows: int, tokens: int) -> torch.Tensor:
    """The ids of all rows, none padded."""
    return torch.randint(VOCABULARY - 1, (rows, tokens), generator=torch.Generator().manual_seed(0))


def batch_of(ids: torch.Tensor) -> Batch:
    """The rows as a training builds them."""
    batch = collate(list(ids.numpy()), range(len(ids)), pad_id=PAD)
    return clm.Task(clm.Config(), Encoding(VOCABULARY, {}, (), ids.shape[1])).prepare_batch(batch)


@torch.no_grad()
def with_stored(batch: Batch, teacher: nn.Module) -> Batch:
    """The batch with the teacher's likeliest ids in place of the teacher."""
    states, (weight, _) = at_labels(teacher, batch, batch["token_index"])
    assert weight is not None
    kept = [top_k_of(chunk @ weight.T / TEMPERATURE, K) for chunk in states.split(DEFAULT_CHUNK_ROWS)]
    names = ("ids", "log_probs", "log_tails")
    parts = zip(names, zip(*kept, strict=True), strict=True)
    return batch.with_columns(**{f"teacher_0_top_k_{name}": torch.cat(part) for name, part in parts})


def ours(kind: str, ids: torch.Tensor, blocks: int) -> tuple[list[float], float, int]:
    """Seconds of each step, the first step's loss, and the bytes that were held before it."""
    student, teacher, batch = model_of(1, blocks), model_of(2, blocks).eval(), batch_of(ids)
    if kind == "stored":
        batch, teacher = with_stored(batch, teacher), None
    config = kd.Config(alpha=ALPHA, temperature=TEMPERATURE)
    method = kd.Method(config, student, [] if teacher is None else [teacher]).train()
    optimizer, times, losses = torch.optim.AdamW(student.parameters(), lr=RATE), [], []
    held = status_bytes("VmRSS")
    for _ in range(STEPS):
        start = time.perf_counter()
        loss, _ = method(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - start)
        losses.append(loss.item())
    return times, losses[0], held


class Plain(Trainer):
    """The formulas of ``kd`` on logits of all tokens."""

    def __init__(self, teacher: nn.Module, **options: Any) -> None:
        super().__init__(**options)
        self.teacher = teacher
        self.first_loss: float | None = None

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """``alpha * kd + (1 - alpha) * clm``."""
        ids = inputs["input_ids"]
        logits = model(input_ids=ids).logits
        with torch.no_grad():
            log_p = log_softmax(self.teacher(input_ids=ids).logits / TEMPERATURE, -1)
        log_q = log_softmax(logits / TEMPERATURE, -1)
        soft = TEMPERATURE**2 * kl_div(log_q.flatten(0, 1), log_p.flatten(0, 1), reduction="batchmean", log_target=True)
        loss = ALPHA * soft + (1 - ALPHA) * cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        self.first_loss = loss.item() if self.first_loss is None else self.first_loss
        return loss


class Clock(TrainerCallback):
    """When each step began and ended."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._start = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Stop it."""
        self.times.append(time.perf_counter() - self._start)


def by_trainer(ids: torch.Tensor, blocks: int) -> tuple[list[float], float, int]:
    """As ``ours``."""
    student, teacher, clock = model_of(1, blocks), model_of(2, blocks).eval(), Clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=len(ids),
            max_steps=STEPS,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        rows = [{"input_ids": row} for row in ids]
        trainer = Plain(teacher, model=student, args=arguments, train_dataset=rows, callbacks=[clock])
        held = status_bytes("VmRSS")
        trainer.train()
    assert trainer.first_loss is not None
    return clock.times, trainer.first_loss, held


def status_bytes(name: str) -> int:
    """A number of Linux's status of this process; its peak, unlike getrusage's, is not that of the parent."""
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line for line in status if line.startswith(name)).split()[1])


def measured(kind: str, rows: int, tokens: int, blocks: int) -> dict[str, float]:
    """Figures of one fresh process."""
    torch.set_num_threads(2)
    ids = rows_of(rows, tokens)
    times, loss, held = by_trainer(ids, blocks) if kind == "trainer" else ours(kind, ids, blocks)
    peak = status_bytes("VmHWM")
    return {"step": statistics.median(times[1:]), "loss": loss, "peak": peak, "grown": peak - held}


def report(name: str, value: float, unit: str, met: bool | None = None, bound: float | None = None) -> None:
    """Print a figure as a line of JSON."""
    print(json.dumps({"name": name, "value": round(value, 4), "unit": unit, "bound": bound, "met": met}))  # noqa: T201


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser()
    for option, default in {"rows": 8, "tokens": 512, "blocks": 12, "rounds": 3}.items():
        parser.add_argument(f"--{option}", type=int, default=default)
    asked = parser.parse_args()
    size = (asked.rows, asked.tokens, asked.blocks)
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for _ in range(asked.rounds):
        for kind in KINDS:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                found[kind].append(pool.apply(measured, (kind, *size)))
    # The same formulas: with stored ids only the tail is rougher.
    assert abs(found["live"][0]["loss"] - found["trainer"][0]["loss"]) < 1e-3 * found["trainer"][0]["loss"]
    name = "kd_top_k." + "x".join(map(str, size))
    for kind in KINDS:
        report(f"{name}.{kind}.step", statistics.median(one["step"] for one in found[kind]), "s")
        report(f"{name}.{kind}.peak", statistics.median(one["peak"] for one in found[kind]) / 2**30, "GiB")
        report(f"{name}.{kind}.grown", statistics.median(one["grown"] for one in found[kind]) / 2**30, "GiB")
    for other, bounds in {"live": (None, None), "trainer": (SPEED_BOUND, MEMORY_BOUND)}.items():
        pairs = list(zip(found["stored"], found[other], strict=True))
        speed = statistics.median(its["step"] / own["step"] for own, its in pairs)
        memory = statistics.median(own["peak"] / its["peak"] for own, its in pairs)
        report(f"{name}.speed_against_{other}", speed, "x", bounds[0] and speed >= bounds[0], bounds[0])
        report(f"{name}.memory_against_{other}", memory, "of peak", bounds[1] and memory <= bounds[1], bounds[1])


if __name__ == "__main__":
    main()
