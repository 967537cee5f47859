"""Speed of the feed: plan, stream, masks, partners and collate through Ray Data, no model, on 2 cores.

60,000 rows of 12 to 128 tokens (mean 68, ids by Zipf's law over 30,522), 4 shards, global batches of 256 rows in
micro-batches of 32, read by one worker from 2 data tasks over three epochs. Tokens are the real tokens of the base
rows; partners, which double the work of the causal feed, are not counted. The clock runs from the first step's
arrival, since the start of a training is hidden behind the loading of its models; that time is printed besides.
The last figure is the share of its time that a 2-layer, 128-wide masked-LM training on one thread, with one data
task, waits for data. Takes about two minutes.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from transformers import BertConfig, BertForMaskedLM

sys.path.insert(0, str(Path(__file__).parents[1]))

from raydistill.batch import PARTNER, Batch
from raydistill.data.stream import FeedSpec, feed
from raydistill.methods.finetune import Config, Method
from toys.corpus import write_corpus

ROWS, SHARD_ROWS, VOCABULARY = 60_000, 15_000, 30_522
BATCH_SIZE, MICRO_BATCH_SIZE = 256, 32
EPOCHS = 3
TRAIN_STEPS = 20
TOKENS_PER_S = 200_000
WAIT_PERCENT = 1.0
METHODS: dict[str, dict[str, Any]] = {
    "finetune": {"name": "finetune"},
    "causal": {"name": "causal", "mapping": "middle_6"},
}


def rows() -> Iterator[NDArray[np.int64]]:
    """Rows between CLS and SEP whose lengths follow a gamma distribution and whose ids follow Zipf's law."""
    random = np.random.default_rng(0)
    lengths = np.clip(random.gamma(4, 17.5, ROWS), 12, 128).astype(int)
    cumulative = np.cumsum(1 / np.arange(10, VOCABULARY + 5))
    for length in lengths:
        ranks = np.searchsorted(cumulative, random.random(length - 2) * cumulative[-1])
        yield np.array([2, *np.minimum(5 + ranks, VOCABULARY - 1), 3])


def make_spec(corpus: str, method: str) -> FeedSpec:
    """The feed of one worker."""
    return FeedSpec.make(
        corpus,
        {"name": "mlm"},
        METHODS[method],
        seed=1,
        batch_size=BATCH_SIZE,
        num_micro_batches=BATCH_SIZE // MICRO_BATCH_SIZE,
    )


def tokens_of(batches: list[Batch]) -> int:
    """Real tokens of the base rows."""
    return sum(len(batch["token_index"]) for batch in batches)


def measure_feed(corpus: str, method: str) -> None:
    """Print tokens/s of a feed that nothing slows down, and the time to its first step."""
    spec = make_spec(corpus, method)
    stop = EPOCHS * spec.plan().steps_per_epoch
    begin = time.perf_counter()
    steps = feed(spec, rank=0, world_size=1, stop_step=stop, num_data_tasks=2)
    partners = PARTNER + "input_ids" in next(steps)[0]
    assert partners == (method == "causal")
    start = time.perf_counter()
    tokens = sum(map(tokens_of, steps))
    elapsed = time.perf_counter() - start
    report(f"stream.{method}", tokens / elapsed, "tokens/s", bound=TOKENS_PER_S, met=tokens / elapsed >= TOKENS_PER_S)
    report(f"stream.{method}.first_step", start - begin, "s")


def measure_waiting(corpus: str) -> None:
    """Print the share of time that a small training waits for its batches, the first one left out."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
    student = BertForMaskedLM(BertConfig(vocab_size=VOCABULARY, **shape))
    method = Method(Config(), student).train()
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-4)
    steps = feed(make_spec(corpus, "finetune"), rank=0, world_size=1, stop_step=TRAIN_STEPS + 1)
    train_step(method, optimizer, next(steps))
    waited, tokens, start = 0.0, 0, time.perf_counter()
    for _ in range(TRAIN_STEPS):
        asked = time.perf_counter()
        batches = next(steps)
        waited += time.perf_counter() - asked
        tokens += tokens_of(batches)
        train_step(method, optimizer, batches)
    elapsed = time.perf_counter() - start
    share = 100 * waited / elapsed
    report("stream.waiting", share, "%", bound=WAIT_PERCENT, met=share < WAIT_PERCENT)
    report("stream.waiting.training", tokens / elapsed, "tokens/s")


def train_step(method: Method, optimizer: torch.optim.Optimizer, batches: list[Batch]) -> None:
    """One optimizer step over all micro-batches."""
    counts = [method.denominators(batch) for batch in batches]
    totals = {name: torch.stack([count[name] for count in counts]).sum() for name in counts[0]}
    optimizer.zero_grad()
    for batch in batches:
        method(batch, totals)[0].backward()
    optimizer.step()


def report(name: str, value: float, unit: str, **bound: Any) -> None:
    """Print one figure."""
    print(json.dumps({"name": name, "value": round(value, 3), "unit": unit, **bound}), flush=True)  # noqa: T201


def main() -> None:
    """Print the figures."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Two for the data tasks; the reader of the feed holds none, as it does nothing else.
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        corpus = write_corpus(f"{folder}/corpus", rows(), rows_per_shard=SHARD_ROWS, vocabulary=VOCABULARY).uri
        for method in METHODS:
            measure_feed(corpus, method)
        measure_waiting(corpus)
    ray.shutdown()


if __name__ == "__main__":
    main()
