"""Whether a CPU runs a model faster in bfloat16: a short measurement at the model's shapes, kept for the machine.

Where the hardware has no instructions for it bfloat16 is several times slower, and which CPUs gain does not show in
their features alone.
"""

import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from raydistill.atomic import write_json
from raydistill.store_paths import cache_folder
from raydistill.training.deepspeed_config import Precision

FILE = "precision.json"
"""Name of the file in the cache folder that keeps what was measured."""
_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_SMALLEST = 128
"""Hidden size below which a model is so small that fp32 is taken unmeasured: calls take longer than arithmetic."""
_GAIN = 1.2
"""How many times faster bf16 has to be: the optimizer's copies in full take time besides."""
_MOST_TOKENS = 1024
"""Of the pass that is measured."""
_MOST_VALUES = 2**22
"""Of the logits that are measured."""
_REPEATS = 3


@dataclass(frozen=True)
class Shape:
    """Sizes of a model and of one forward pass of it."""

    rows: int
    tokens: int
    """Of a row, at most."""
    hidden: int
    intermediate: int
    heads: int
    blocks: int
    vocabulary: int = 0
    """Columns of a vocabulary head; 0 without one."""


class Choice(NamedTuple):
    """What a model computes in, and one sentence why."""

    precision: Precision
    why: str


def choose(shape: Shape, *, num_threads: int) -> Choice:
    """fp32 or bf16 for a model on this machine's CPU, measured once for its shapes and a number of threads."""
    if shape.hidden < _SMALLEST:
        return Choice("fp32", f"hidden states of {shape.hidden} columns are too small to gain from another")
    path, key = cache_folder() / FILE, _key(shape, num_threads)
    kept = _kept(path)
    if key not in kept:
        kept = {**kept, key: measure(shape, num_threads=num_threads)}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, kept, indent=1)
    return decided(kept[key])


def decided(seconds: dict[str, dict[str, float]]) -> Choice:
    """The choice that seconds of the parts of a pass, by precision and part, come to.

    Losses compute softmax in float32 in either precision.
    """
    totals = {
        name: parts["matrix"] + parts["attention"] + seconds["fp32"]["softmax"] for name, parts in seconds.items()
    }
    gain = totals["fp32"] / totals["bf16"]
    times = f"{1000 * totals['bf16']:.1f} ms in bf16 and {1000 * totals['fp32']:.1f} ms in fp32"
    return Choice("bf16" if gain >= _GAIN else "fp32", f"a forward pass at these shapes was measured to take {times}")


def measure(shape: Shape, *, num_threads: int) -> dict[str, dict[str, float]]:
    """Seconds of a forward pass's matrix products, attention and softmax in each precision, by turns."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        with torch.no_grad():
            return _measured(shape)
    finally:
        torch.set_num_threads(before)


def _measured(shape: Shape) -> dict[str, dict[str, float]]:
    rows = max(1, min(shape.rows, _MOST_TOKENS // shape.tokens))
    tokens = min(shape.tokens, _MOST_TOKENS)
    scale = shape.rows * shape.tokens / (rows * tokens)
    columns = shape.vocabulary or shape.tokens
    some = max(1, min(rows * tokens, _MOST_VALUES // columns))
    # Four projections of attention and two of the feed-forward part, in products of hidden by intermediate.
    products = shape.blocks * (4 * shape.hidden / shape.intermediate + 2) + shape.vocabulary / shape.intermediate
    times = {
        "matrix": scale * products,
        "attention": scale * shape.blocks,
        "softmax": scale * rows * tokens / some,
    }
    found: dict[str, dict[str, float]] = {name: {} for name in _TYPES}
    for part, factor in times.items():
        works = {name: _work(part, shape, rows, tokens, (some, columns), dtype) for name, dtype in _TYPES.items()}
        for name, seconds in _fastest(works).items():
            found[name][part] = factor * seconds
    return found


def _work(
    part: str, shape: Shape, rows: int, tokens: int, logits: tuple[int, int], dtype: torch.dtype
) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(0)

    def drawn(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator).to(dtype)

    if part == "matrix":
        states, weight = drawn(rows * tokens, shape.hidden), drawn(shape.intermediate, shape.hidden)
        return lambda: states @ weight.T
    if part == "attention":
        width = max(1, shape.hidden // shape.heads)
        query, key, value = (drawn(rows, shape.heads, tokens, width) for _ in range(3))
        return lambda: scaled_dot_product_attention(query, key, value)
    values = drawn(*logits)
    return lambda: torch.softmax(values, dim=-1)


def _fastest(works: dict[str, Callable[[], Tensor]]) -> dict[str, float]:
    """Seconds of the fastest of a few calls of each, by turns, so that what slows the machine slows both."""
    found = dict.fromkeys(works, float("inf"))
    for turn in range(_REPEATS + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if turn > 0:
                found[name] = min(found[name], time.perf_counter() - start)
    return found


def _key(shape: Shape, num_threads: int) -> str:
    return json.dumps({"cpu": _cpu(), "torch": torch.__version__, "threads": num_threads, **asdict(shape)})


def _cpu() -> str:
    """The CPU's model as the system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    found = {line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in lines}
    # Virtual machines give many CPUs one name; what they can do tells them apart.
    flags = " ".join(flag for flag in found.get("flags", "").split() if "bf16" in flag)
    return f"{found.get('model name') or platform.processor() or platform.machine()} {flags}".strip()


def _kept(path: Path) -> dict[str, dict[str, dict[str, float]]]:
    """What was measured before; nothing where the file is missing or damaged, since it can be measured again."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
