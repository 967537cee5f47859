"""What a plan over 10^6, 10^8 and 10^9 rows costs a process of a training: time to open, time a window, memory.

Corpora have the manifest, the file of lengths and the names of their shards, which are holes of the recorded sizes:
a plan reads no ids. Lengths follow a gamma distribution, the same in every shard of 65,000 rows. What a worker and a
data task open is opened in a fresh process each: the corpus; a mixture of it at weight 1.5 with a second one; stored
outputs of its rows. A window is the median of 20 from all over an epoch, in CPU time, with the partners of a batch;
memory is the peak of the process, the package with torch included. Needs 4.1 GB of disk, Linux and about three minutes.
"""

import hashlib
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from raydistill.data.corpus import LENGTHS, MANIFEST
from raydistill.data.mixture import CorpusPart, open_cached
from raydistill.data.plan import Partners
from raydistill.data.sealed_table import ROW_GROUP_ROWS, FileInfo
from raydistill.data.shards import ShardInfo
from raydistill.data.stream import FeedSpec
from raydistill.data.teacher_outputs import DIGEST_DIGITS, DIGESTS, Header, Manifest, OutputColumn, OutputSet, SetShard
from toys.corpus import random_rows, write_corpus

SIZES = (10**6, 10**8, 10**9)
SHARD_ROWS, BATCH_SIZE, NUM_WINDOWS = 65_000, 256, 20
CASES = ("corpus", "mixture", "outputs")
UNITS = {"open": ("s", 5.0), "window": ("ms", 100.0), "memory": ("MiB", None)}
GROWTH = 1.1


def shard_rows(rows: int) -> list[int]:
    """Rows of each shard."""
    whole, rest = divmod(rows, SHARD_ROWS)
    return [SHARD_ROWS] * whole + [rest] * bool(rest)


def make_corpus(folder: Path, rows: int) -> None:
    """A corpus that can be opened and planned, whose shards are holes."""
    small = write_corpus(folder, random_rows(10))
    lengths = np.clip(np.random.default_rng(0).gamma(4, 17.5, SHARD_ROWS), 12, 128).astype(np.int32)
    shards, content = [], hashlib.sha256()
    with (folder / LENGTHS).open("wb") as stream:
        header = {"descr": "<i4", "fortran_order": False, "shape": (rows,)}
        np.lib.format.write_array_header_1_0(stream, header)
        for number, size in enumerate(shard_rows(rows)):
            part = lengths[:size].tobytes()
            stream.write(part)
            content.update(part)
            info = {"lengths_sha256": hashlib.sha256(part).hexdigest(), "footer_sha256": "0" * 64}
            shards.append(ShardInfo(**hole(folder, f"shards/part-{number:05d}.parquet", size), **info))
    files = {
        **small.manifest.files,
        LENGTHS: FileInfo(bytes=(folder / LENGTHS).stat().st_size, sha256=content.hexdigest()),
    }
    manifest = small.manifest.model_copy(update={"rows": rows, "shards": shards, "files": files})
    (folder / MANIFEST).write_text(manifest.model_dump_json())


def make_outputs(folder: Path, rows: int) -> None:
    """A set of outputs that can be opened."""
    (folder / "shards").mkdir(parents=True)
    digests = b"0" * DIGEST_DIGITS * -(-SHARD_ROWS // ROW_GROUP_ROWS)
    sha256 = hashlib.sha256(digests).hexdigest()
    sizes = shard_rows(rows)
    shards = [
        SetShard(**hole(folder, f"shards/part-{number:05d}.arrow", size), digests_sha256=sha256)
        for number, size in enumerate(sizes)
    ]
    (folder / DIGESTS).write_bytes(digests * len(sizes))
    header = Header(
        teacher="t", teacher_hash="0", tokenizer_hash="0", corpus_hash="0", rows=rows, task={"name": "mlm"}, labels=(),
        kinds=("logits",), layers=(), precision="fp32", options={}, codec="none",
        columns={"logits": OutputColumn(dtype="float32", shape=(2,))},
    )  # fmt: skip
    info = FileInfo(bytes=len(digests) * len(sizes), sha256="0" * 64)
    (folder / MANIFEST).write_text(Manifest(header=header, shards=tuple(shards), digests=info).model_dump_json())


def hole(folder: Path, file: str, rows: int) -> dict[str, Any]:
    """A shard's file of about the size that its rows would take, without content."""
    with (folder / file).open("wb") as stream:
        stream.truncate(80 * rows)
    return {"file": file, "rows": rows, "bytes": 80 * rows, "sha256": "0" * 64}


def measure(folder: Path, case: str) -> dict[str, float]:
    """Open one of the things that were made, in this process, and its memory."""
    uri, other = str(folder / "corpus"), str(folder / "other")
    if case == "outputs":
        start = time.perf_counter()
        OutputSet.open(str(folder / "outputs"))
        found = {"open": time.perf_counter() - start}
    else:
        found = planned(uri if case == "corpus" else [CorpusPart(uri, 1.5), CorpusPart(other)])
    # Not of getrusage, which counts what this process was before it became this program.
    status = Path("/proc/self/status").read_text()
    return {**found, "memory": int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024}


def planned(corpus: str | Sequence[CorpusPart]) -> dict[str, float]:
    """Seconds to open a plan, milliseconds of CPU time of a window with a batch's partners."""
    start = time.perf_counter()
    spec = FeedSpec.make(corpus, {"name": "mlm"}, None, seed=1, batch_size=BATCH_SIZE)
    plan = spec.plan()
    partners = Partners(open_cached(spec.corpus, spec.corpus_hash).shard_offsets, seed=1)
    opened = time.perf_counter() - start
    windows = []
    for step in np.linspace(0, plan.steps_per_epoch - 1, NUM_WINDOWS).astype(int).tolist():
        start = time.process_time()
        rows = plan.rows(step)
        assert len(partners.of(rows)) == len(rows)
        windows.append(1000 * (time.process_time() - start))
    return {"open": opened, "window": statistics.median(windows)}


def report(name: str, value: float, unit: str, bound: float | None = None) -> None:
    """Print one figure."""
    met = None if bound is None else value <= bound
    figure = {"name": f"scale.{name}", "value": round(value, 3), "unit": unit, "bound": bound, "met": met}
    print(json.dumps(figure), flush=True)  # noqa: T201


def main() -> None:
    """Print the figures."""
    memory: dict[tuple[str, int], float] = {}
    for rows in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            make_corpus(Path(folder, "corpus"), rows)
            make_corpus(Path(folder, "other"), SIZES[0])
            make_outputs(Path(folder, "outputs"), rows)
            for case in CASES:
                command = [sys.executable, __file__, folder, case]
                found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
                memory[case, rows] = found["memory"]
                for name, value in found.items():
                    report(f"{case}.{name}.rows_1e{len(str(rows)) - 1}", value, *UNITS[name])
    for case in CASES:
        growth = memory[case, SIZES[-1]] / memory[case, SIZES[0]]
        report(f"{case}.memory_growth", growth, "x", GROWTH)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(Path(sys.argv[1]), sys.argv[2])))  # noqa: T201
    else:
        main()
