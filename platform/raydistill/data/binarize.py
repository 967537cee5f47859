"""Texts of a source to encoded corpora: Ray Data tasks read and encode, one writer stores rows in source order."""

import dataclasses
import itertools
import json
import logging
import os
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raydistill.config.named import Named, parser
from raydistill.data.corpus import tokenizer_info
from raydistill.data.corpus_writer import ROWS_PER_SHARD, CorpusWriter
from raydistill.data.sources._base import DROPPED, Example, Item
from raydistill.data.storage import join
from raydistill.draws import uniform
from raydistill.models.load import load_tokenizer

TRAIN, HELD_OUT = "train", "held_out"
_TEXTS_PER_BLOCK = 1_000
_MAX_TASKS = 2_000
_NO_LIMIT = 1_000_000


def binarize(
    *,
    source: Named,
    encoding: Named,
    tokenizer_folder: str,
    output: str,
    held_out: float = 0.02,
    rows_per_shard: int = ROWS_PER_SHARD,
    seed: int = 0,
) -> dict[str, Any]:
    """Encode a source's texts into the corpora ``<output>/train`` and ``<output>/held_out``; needs a running Ray.

    A share ``held_out`` of the texts, chosen by a hash of the seed and the text's place in the source, goes to the
    held-out corpus with all its rows; 0 writes only ``train``. The files depend on the arguments alone.
    Returns for each part ``rows`` and ``tokens``, and over both the number of ``texts`` and of ``dropped`` rows by
    reason.
    Raises ValueError if the source gives no row, or one of the parts stays empty.
    """
    items = source.module.items(source.config)
    tokenizer = load_tokenizer(tokenizer_folder)
    encoding = _with_max_length(encoding, tokenizer, Path(tokenizer_folder))
    files = _tokenizer_files(tokenizer)
    parts = [TRAIN, HELD_OUT] if held_out > 0 else [TRAIN]
    build = partial(
        _encode_items, source=source.dump(), encoding=encoding.dump(), files=files, held_out=held_out, seed=seed
    )
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        writers = {
            part: stack.enter_context(
                CorpusWriter(join(output, part), vocab_size=len(tokenizer), rows_per_shard=rows_per_shard)
            )
            for part in parts
        }
        for block in _encoded_blocks(items, build):
            counts.update(json.loads(block["counts"]))
            writers[parts[block["part"]]].add(_rows(block))
        _check_not_empty({part: writer.rows for part, writer in writers.items()}, counts, held_out)
        for part, writer in writers.items():
            writer.finish(
                tokenizer=tokenizer_info(
                    tokenizer, max_length=encoding.config.max_length, files=writer.write_tokenizer(files)
                ),
                encoding=encoding.dump(),
                source=source.dump(),
                fingerprints={item.key: item.fingerprint for item in items},
                split={"part": part, "held_out": held_out, "seed": seed},
            )
    summary = {part: {"rows": writer.rows, "tokens": writer.tokens} for part, writer in writers.items()}
    return {**summary, "texts": counts.pop("texts"), "dropped": dict(counts)}


def _with_max_length(encoding: Named, tokenizer: Any, folder: Path) -> Named:
    """The encoding with its longest row written out: what it says, or the limit of the tokenizer and its model."""
    if encoding.config.max_length is not None:
        return encoding
    limits = [int(tokenizer.model_max_length)]
    if (folder / "config.json").is_file():
        model = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        limits.append(int(model.get("max_position_embeddings", limits[0])))
    if min(limits) > _NO_LIMIT:
        raise ValueError("encoding.max_length is missing and the tokenizer states no limit; give it")
    return dataclasses.replace(encoding, config=dataclasses.replace(encoding.config, max_length=min(limits)))


def _tokenizer_files(tokenizer: Any) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir()) if path.is_file()}


def _check_not_empty(rows: Mapping[str, int], counts: Mapping[str, int], held_out: float) -> None:
    if not any(rows.values()):
        raise ValueError(
            f"the source's {counts['texts']} texts give no row; lower encoding.min_length, or choose another unit "
            "or other files"
        )
    for part, number in rows.items():
        if number == 0:
            raise ValueError(f"held_out is {held_out}, which leaves no row in {part}; change it or add text")


def _encoded_blocks(items: list[Item], build: Any) -> Iterator[dict[str, Any]]:
    """Run the data tasks and hand over what they yield, in the order of the items.

    Raises a ValueError that a task met, with its message alone.
    """
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    context.target_max_block_size = 2**22
    rows = [dataclasses.asdict(item) for item in items]
    with ray.data.DataContext.current(context):
        dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MAX_TASKS))
        dataset = dataset.map_batches(build, batch_size=None, batch_format="pyarrow", num_cpus=1)
        blocks = iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2))
    try:
        for table in blocks:
            for block in table.to_pylist():
                if block["error"]:
                    raise ValueError(block["error"])
                yield block
    finally:
        blocks.close()


def _rows(block: Mapping[str, Any]) -> list[NDArray[np.integer]]:
    ids = np.frombuffer(block["ids"], dtype=np.int32)
    lengths = np.frombuffer(block["lengths"], dtype=np.int32)
    return np.split(ids, np.cumsum(lengths)[:-1]) if len(lengths) else []


def _encode_items(table: pa.Table, **options: Any) -> Iterator[pa.Table]:
    """The data task; a ValueError, which the user can mend, is handed over as data and so without Ray's traceback."""
    try:
        for fields in table.to_pylist():
            yield from _encode_item(Item(**fields), **options)
    except ValueError as error:
        yield _block(error=str(error))


def _encode_item(
    item: Item,
    *,
    source: Mapping[str, Any],
    encoding: Mapping[str, Any],
    files: Mapping[str, bytes],
    held_out: float,
    seed: int,
) -> Iterator[pa.Table]:
    """For each block of texts and each part, the encoded rows end to end, and their lengths."""
    reader = parser("raydistill.data.sources")(dict(source))
    encoder = parser("raydistill.tasks", attribute="EncodeConfig")(dict(encoding))
    tokenizer = _load_files(tuple(sorted(files.items())))
    numbered = enumerate(reader.module.read(reader.config, item))
    while block := list(itertools.islice(numbered, _TEXTS_PER_BLOCK)):
        numbers = np.array([number for number, _ in block])
        is_held_out = uniform("held out", seed, zlib.crc32(item.key.encode()), numbers) < held_out
        for part, chosen in enumerate((~is_held_out, is_held_out)):
            texts = [text for (_, text), take in zip(block, chosen, strict=True) if take]
            if texts:
                yield _encoded(texts, part, encoder, tokenizer)


def _encoded(examples: list[Example], part: int, encoder: Named, tokenizer: Any) -> pa.Table:
    texts = [example for example in examples if DROPPED not in example]
    rows = encoder.module.cut(texts, tokenizer, encoder.config)
    reasons = encoder.module.drop_reasons(rows, tokenizer, encoder.config)
    kept = [row for row, reason in zip(rows, reasons, strict=True) if reason is None]
    ids = np.concatenate([np.empty(0, dtype=np.int32), *kept]).astype(np.int32)
    lengths = np.fromiter(map(len, kept), dtype=np.int32, count=len(kept))
    left_out = (example[DROPPED] for example in examples if DROPPED in example)
    counts = {"texts": len(texts), **Counter(filter(None, [*reasons, *left_out]))}
    return _block(part=part, ids=ids.tobytes(), lengths=lengths.tobytes(), counts=json.dumps(counts))


def _block(*, part: int = 0, ids: bytes = b"", lengths: bytes = b"", counts: str = "{}", error: str = "") -> pa.Table:
    columns = {"part": [part], "ids": pa.array([ids], type=pa.large_binary()), "lengths": [lengths]}
    return pa.table({**columns, "counts": [counts], "error": [error]})


@lru_cache(maxsize=1)
def _load_files(files: tuple[tuple[str, bytes], ...]) -> Any:
    """The tokenizer in these files, loaded once in a process; a task has one CPU, so one thread."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files:
            (Path(folder) / name).write_bytes(content)
        return load_tokenizer(folder)
