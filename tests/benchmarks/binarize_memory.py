"""Memory of binarize for 200 MB of text against that for 20 MB, on 2 cores, Linux only.

Each is a job of its own in a fresh process with a Ray of its own. Every half second the private memory of all its
processes, those of Ray included, is added up from the kernel's tables; the figure is the peak, plus the 256 MB of the
object store, whose pages are left out of the sum since processes share them. Takes about three minutes on idle cores.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from raydistill.config.named import EncodingSpec, SourceSpec
from raydistill.data.corpus_building import binarize
from raydistill.data.input_splits import WeightedSource
from toys.text import save_tokenizer, write_text

SMALL, LARGE = 20_000_000, 200_000_000
OBJECT_STORE = 256 * 2**20
BOUND = 1.15


def job(text: str, tokenizer: str, output: str) -> None:
    """Binarize a file of lines on a Ray that is started for it."""
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=OBJECT_STORE,
        runtime_env={"env_vars": {"TOKENIZERS_PARALLELISM": "false"}},
    )
    source = SourceSpec.parse({"name": "text", "path": text, "unit": "line"})
    encoding = EncodingSpec.parse({"name": "mlm", "max_length": 128})
    binarize(
        sources=[WeightedSource(source)],
        encoding=encoding,
        tokenizer_folder=tokenizer,
        output=output,
        rows_per_shard=10_000,
    )
    ray.shutdown()


def processes(root: int) -> Iterator[int]:
    """A process and all below it."""
    yield root
    try:
        for task in Path(f"/proc/{root}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from processes(int(child))
    except OSError:
        return


def private_bytes(process: int) -> int:
    """Memory that only this process maps, without the object store."""
    try:
        lines = Path(f"/proc/{process}/smaps").read_text().splitlines()
    except OSError:
        return 0
    total, is_counted = 0, True
    for line in lines:
        first = line.split(maxsplit=1)[0]
        if not first.endswith(":"):
            is_counted = "/dev/shm/plasma" not in line
        elif is_counted and first in ("Private_Clean:", "Private_Dirty:", "Private_Hugetlb:"):
            total += int(line.split()[1]) * 1024
    return total


def peak_bytes(num_bytes: int, root: Path, tokenizer: Path) -> int:
    """Peak of a whole job's private memory and its object store."""
    text = root / f"{num_bytes}.txt"
    write_text(text, num_bytes)
    command = [sys.executable, __file__, str(text), str(tokenizer), str(root / f"{num_bytes}")]
    started = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    peak = 0
    while started.poll() is None:
        peak = max(peak, sum(map(private_bytes, processes(started.pid))))
        time.sleep(0.5)
    if started.returncode:
        raise RuntimeError(f"{command} ended with {started.returncode}")
    return peak + OBJECT_STORE


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        save_tokenizer(root / "tokenizer")
        peaks = {size: peak_bytes(size, root, root / "tokenizer") for size in (SMALL, LARGE)}
    for size, peak in peaks.items():
        figure = {"name": f"binarize.memory_{size // 1_000_000}_mb", "value": round(peak / 2**20), "unit": "MiB"}
        print(json.dumps({**figure, "bound": None, "met": None}))  # noqa: T201
    value = peaks[LARGE] / peaks[SMALL]
    figure = {"name": "binarize.memory_growth", "value": round(value, 3), "unit": "x", "bound": BOUND}
    print(json.dumps({**figure, "met": value <= BOUND}))  # noqa: T201


if __name__ == "__main__":
    if len(sys.argv) > 1:
        job(*sys.argv[1:])
    else:
        main()
