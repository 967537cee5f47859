"""Speed of binarize against ``datasets.map(batched=True, num_proc=2)`` with the same fast tokenizer, on 2 cores.

30 MB of lines, 8 bytes a word, WordPiece with 20,000 entries. The two run in turn in one process, since machines are
noisy; each figure is the median over ``ROUNDS`` rounds. Binarize starts from the text file and ends with both corpora
on disk; the data set is read from the text before the clock runs, encodes without masks, and ends with its Arrow files.
Ray and its workers run before the clock does, as in any job after its first seconds. Takes about three minutes.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Ray gives its workers a lower priority than other processes have, which would decide on a machine that is not idle.
os.environ.update(RAY_worker_niceness="0")
os.environ.update(TOKENIZERS_PARALLELISM="false", HF_DATASETS_OFFLINE="1", HF_HUB_OFFLINE="1")

import datasets
import ray

sys.path.insert(0, str(Path(__file__).parents[1]))

from raydistill.config.named import EncodingSpec, SourceSpec
from raydistill.data.corpus_building import binarize
from raydistill.data.input_splits import WeightedSource
from raydistill.models.load import load_tokenizer
from toys.text import save_tokenizer, write_text

ROUNDS = 5
NUM_BYTES = 30_000_000
MAX_LENGTH = 512
"""Longer than any line: the two make the same tokens, where binarize would split and the other cut."""
BOUND, GOAL = 1.0, 1.2


def ours(text: Path, tokenizer: Path, output: Path) -> int:
    """Binarize a file of lines; returns the number of tokens."""
    source = SourceSpec.parse({"name": "text", "path": str(text), "unit": "line"})
    encoding = {"name": "mlm", "max_length": MAX_LENGTH, "min_length": 2}
    summary = binarize(
        sources=[WeightedSource(source)],
        encoding=EncodingSpec.parse(encoding),
        tokenizer_folder=str(tokenizer),
        output=str(output),
        rows_per_shard=10_000,
    )
    return int(summary["train"]["tokens"] + summary["validation"]["tokens"])


def theirs(dataset: Any, tokenizer: Path, output: Path) -> int:
    """Map the same lines; returns the number of tokens."""
    fast = load_tokenizer(tokenizer)

    def encode(batch: dict[str, Any]) -> Any:
        return fast(
            batch["text"],
            truncation=True,
            max_length=MAX_LENGTH,
            return_attention_mask=False,
            return_token_type_ids=False,
        )

    output.mkdir()
    mapped = dataset.map(
        encode,
        batched=True,
        num_proc=2,
        remove_columns=["text"],
        load_from_cache_file=False,
        cache_file_name=str(output / "mapped.arrow"),
    )
    return int(sum(len(chunk.values) for chunk in mapped.data.column("input_ids").chunks))


def tokens_per_s(action: Callable[[], int]) -> float:
    """Tokens an action makes in a second."""
    start = time.perf_counter()
    tokens = action()
    return tokens / (time.perf_counter() - start)


def main() -> None:
    """Print the figures."""
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_text(root / "text.txt", NUM_BYTES)
        for number in range(2):
            # Two files, so that both of Ray's workers start.
            write_text(root / f"short-{number}.txt", 100_000)
        save_tokenizer(root / "tokenizer")
        cache = str(root / "cache")
        dataset = datasets.load_dataset("text", data_files=str(root / "text.txt"), cache_dir=cache, split="train")
        environment = {"env_vars": {"TOKENIZERS_PARALLELISM": "false"}}
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=environment)
        ours(root / "short-*.txt", root / "tokenizer", root / "warm")
        speeds: dict[str, list[float]] = {"ours": [], "theirs": []}
        for number in range(ROUNDS):
            output = root / f"theirs-{number}"
            speeds["theirs"].append(tokens_per_s(lambda: theirs(dataset, root / "tokenizer", output)))  # noqa: B023
            output = root / f"ours-{number}"
            speeds["ours"].append(
                tokens_per_s(lambda: ours(root / "text.txt", root / "tokenizer", output))  # noqa: B023
            )
        ray.shutdown()
    for name, found in speeds.items():
        figure = {"name": f"binarize.{name}", "value": round(statistics.median(found)), "unit": "tokens/s"}
        print(json.dumps({**figure, "bound": None, "met": None}))  # noqa: T201
    value = statistics.median(mine / other for mine, other in zip(speeds["ours"], speeds["theirs"], strict=True))
    figure = {"name": "binarize.speed_of_datasets_map", "value": round(value, 3), "unit": "x", "bound": BOUND}
    print(json.dumps({**figure, "goal": GOAL, "met": value >= BOUND}))  # noqa: T201


if __name__ == "__main__":
    main()
