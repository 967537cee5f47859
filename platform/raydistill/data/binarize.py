"""Texts of sources to encoded corpora: data tasks read and encode, one writer stores the rows in their order."""

import dataclasses
import hashlib
import json
import logging
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from raydistill import __version__
from raydistill.config.named import Named
from raydistill.data.corpus import FORMAT_VERSION, SourceInfo, tokenizer_info
from raydistill.data.corpus_writer import ROWS_PER_SHARD, CorpusWriter
from raydistill.data.encoding import Recipe, encoded_blocks
from raydistill.data.sources._base import Item
from raydistill.data.storage import join
from raydistill.data.units import WeightedSource, interleave
from raydistill.models.checks import max_length
from raydistill.models.load import load_config, load_tokenizer

TRAIN, HELD_OUT = "train", "held_out"
_TEXTS_PER_BLOCK = 1_000
_NO_LIMIT = 1_000_000
_logger = logging.getLogger(__name__)


def binarize(
    *,
    sources: Sequence[WeightedSource],
    encoding: Named,
    tokenizer_folder: str,
    output: str,
    held_out: float = 0.02,
    rows_per_shard: int = ROWS_PER_SHARD,
    seed: int = 0,
    parallel: int = 1,
) -> dict[str, Any]:
    """Encode texts of sources into the corpora ``<output>/train`` and ``<output>/held_out``; needs a running Ray.

    A share ``held_out`` of the texts, chosen by a hash of the seed and the text's place in its source, goes to the
    held-out corpus with all its rows and copies; 0 writes only ``train``. The files depend on the arguments alone:
    an interrupted call leaves finished shards, with which the next call of the same arguments goes on.
    ``parallel`` is the number of calls that share the machine.
    Returns for each part ``rows`` and ``tokens``, and over both the number of ``texts``, of ``dropped`` rows by
    reason, and of rows ``taken_over`` from an interrupted call.
    Raises ValueError if the sources give no row, or one of the parts stays empty.
    """
    items = [weighted.source.module.items(weighted.source.config) for weighted in sources]
    found = [_source_info(weighted, own) for weighted, own in zip(sources, items, strict=True)]
    tokenizer = load_tokenizer(tokenizer_folder)
    encoding = _with_max_length(encoding, tokenizer, Path(tokenizer_folder))
    recipe = Recipe(
        sources=[info.source for info in found],
        encoding=encoding.dump(),
        files=_tokenizer_files(tokenizer),
        held_out=held_out,
        seed=seed,
        texts_per_block=_TEXTS_PER_BLOCK,
    )
    open_writer = partial(
        CorpusWriter,
        vocab_size=len(tokenizer),
        rows_per_shard=rows_per_shard,
        recipe=_recipe_hash(recipe, found, rows_per_shard),
        columns=encoding.module.columns(encoding.config),
    )
    parts = [TRAIN, HELD_OUT] if held_out > 0 else [TRAIN]
    with ExitStack() as stack:
        writers = {part: stack.enter_context(open_writer(join(output, part))) for part in parts}
        taken_over = sum(writer.taken_over for writer in writers.values())
        if taken_over:
            _logger.warning("%s: %d rows of an earlier run are taken over", output, taken_over)
        units = interleave(items, [weighted.weight for weighted in sources])
        starts = [writer.start for writer in writers.values()]
        for block in encoded_blocks(units, recipe, starts=starts, parallel=parallel):
            writers[parts[block.part]].add(
                block.ids, block.lengths, place=block.place, counts=block.counts, values=block.values
            )
        counts = sum((writer.counts for writer in writers.values()), Counter())
        _check_not_empty({part: writer.rows for part, writer in writers.items()}, counts, held_out)
        info = tokenizer_info(tokenizer, max_length=encoding.config.max_length, files=_digests(recipe.files))
        for part, writer in writers.items():
            writer.finish(
                tokenizer=info,
                tokenizer_files=recipe.files,
                encoding=encoding.dump(),
                sources=found,
                split={"part": part, "held_out": held_out, "seed": seed},
            )
    summary = {part: {"rows": writer.rows, "tokens": writer.tokens} for part, writer in writers.items()}
    return {**summary, "texts": counts.pop("texts"), "dropped": dict(counts), "taken_over": taken_over}


def _source_info(weighted: WeightedSource, items: Sequence[Item]) -> SourceInfo:
    fingerprints = {item.key: item.fingerprint for item in items}
    return SourceInfo(source=weighted.source.dump(), weight=weighted.weight, fingerprints=fingerprints)


def _digests(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def _recipe_hash(recipe: Recipe, sources: Sequence[SourceInfo], rows_per_shard: int) -> str:
    """SHA-256 of all that the files of the corpora depend on."""
    content = {
        "version": [__version__, FORMAT_VERSION],
        "sources": [info.model_dump() for info in sources],
        "encoding": recipe.encoding,
        "tokenizer": _digests(recipe.files),
        "split": [recipe.held_out, recipe.seed, rows_per_shard, recipe.texts_per_block],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _with_max_length(encoding: Named, tokenizer: Any, folder: Path) -> Named:
    """The encoding with its longest row written out: what it says, or the limit of the tokenizer and its model."""
    if encoding.config.max_length is not None:
        return encoding
    limits = [int(tokenizer.model_max_length)]
    if (folder / "config.json").is_file():
        limits.append(max_length(load_config(folder)))
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
            f"the sources' {counts['texts']} texts give no row; lower encoding.min_length, or choose another unit "
            "or other files"
        )
    for part, number in rows.items():
        if number == 0:
            raise ValueError(f"held_out is {held_out}, which leaves no row in {part}; change it or add text")
