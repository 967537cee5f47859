"""Texts of sources to encoded corpora: data tasks read and encode, one writer stores the rows in their order."""

import hashlib
import json
import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydistill.config.named import EncodingSpec, SourceSpec
from raydistill.data.corpus import FORMAT_VERSION, Corpus, SourceInfo, TokenizerInfo, tokenizer_hash, tokenizer_info
from raydistill.data.corpus_writer import ROWS_PER_SHARD, CorpusWriter
from raydistill.data.encoding import Recipe, encoded_blocks
from raydistill.data.findings import Finding, Findings
from raydistill.data.input_splits import PARTS, InputSplit, WeightedSource, interleave, of_part, validation_splits
from raydistill.data.sources._base import Item
from raydistill.data.storage import join
from raydistill.data.teacher_tokenizers import FurtherTokenizer, further_columns
from raydistill.data.token_counts import read_counts_of
from raydistill.models.checks import longest_row
from raydistill.models.load import load_tokenizer
from raydistill.tasks._base import CUTS
from raydistill.user_error import UserError

_TEXTS_PER_BLOCK = 1_000
_NO_LIMIT = 1_000_000
_logger = logging.getLogger(__name__)


def binarize(
    *,
    sources: Sequence[WeightedSource],
    encoding: EncodingSpec,
    tokenizer_folder: str,
    teacher_tokenizers: Sequence[str] = (),
    output: str,
    validation: float | SourceSpec = 0.02,
    rows_per_shard: int = ROWS_PER_SHARD,
    seed: int = 0,
    token_counts: str | None = None,
    parallel: int = 1,
    tell: Callable[[list[Finding]], None] | None = None,
) -> dict[str, Any]:
    """Encode texts of sources into the corpora ``<output>/train`` and ``<output>/validation``; needs a running Ray.

    A share ``validation`` of the texts, chosen by a hash of the seed and the text's place in its source, goes to the
    validation corpus with all its rows and copies; 0 writes only ``train``. Where ``validation`` is a source, all its
    texts are the validation corpus, and ``sources``, which may be none, give only ``train``. The files depend on the
    arguments alone: an interrupted call leaves finished shards, with which the next call of the same arguments goes on.
    Each text of a task of sequences is encoded with the tokenizers in the folders ``teacher_tokenizers`` too.
    ``token_counts`` is a file of counts that stand in the corpora in place of their own.
    ``parallel`` is the number of calls that share the machine. ``tell`` is told what was left out, and what of the rest
    looks wrong.
    Returns for each part ``rows`` and ``tokens``, and over both the number of ``texts``, of ``dropped`` rows by
    reason, of those that were ``cut`` by what they lost, where there are any, and of rows ``taken_over`` from an
    interrupted call.
    Raises ValueError if the sources give no row, one of the parts stays empty, or two tokenizers are the same.
    """
    origin = _Origin.of(sources, validation)
    tokenizer = load_tokenizer(tokenizer_folder)
    further = _further(teacher_tokenizers, encoding, tokenizer)
    max_length = _longest(encoding, tokenizer, Path(tokenizer_folder))
    encoding = encoding.with_max_length(max_length)
    recipe = Recipe(
        sources=origin.sources,
        encoding=encoding,
        files=_tokenizer_files(tokenizer),
        seed=seed,
        texts_per_block=_TEXTS_PER_BLOCK,
        further=[one for one, _ in further],
    )
    given = None if token_counts is None else read_counts_of(token_counts, vocab_size=len(tokenizer))
    open_writer = partial(
        CorpusWriter,
        vocab_size=len(tokenizer),
        rows_per_shard=rows_per_shard,
        recipe=_recipe_hash(recipe, origin, rows_per_shard, given),
        token_counts=given,
    )
    encodings = {part: of_part(encoding, part) for part in origin.parts}
    more = further_columns([one.vocab_size for one in recipe.further])
    with ExitStack() as stack:
        writers = {
            part: stack.enter_context(open_writer(join(output, PARTS[part]), columns={**own.columns, **more}))
            for part, own in encodings.items()
        }
        taken_over = sum(writer.taken_over for writer in writers.values())
        if taken_over:
            _logger.warning("%s: %d rows of an earlier run are taken over", output, taken_over)
        starts = {part: writer.start for part, writer in writers.items()}
        findings = Findings()
        # Copies that were asked for are equal.
        counts_equal = all(weighted.weight <= 1 for weighted in sources)
        for block in encoded_blocks(origin.input_splits(), recipe, starts=starts, parallel=parallel):
            writers[block.part].add(
                block.ids, block.lengths, place=block.place, counts=block.counts, values=block.values
            )
            findings.meet(block.met)
            if counts_equal:
                findings.count(PARTS[block.part], block.ids, block.lengths)
        counts = sum((writer.counts for writer in writers.values()), Counter())
        rows = {part: writer.rows for part, writer in writers.items()}
        _check_not_empty(rows, counts, origin)
        info = tokenizer_info(tokenizer, max_length=max_length, files=_digests(recipe.files))
        for part, writer in writers.items():
            writer.finish(
                tokenizer=info,
                tokenizer_files=recipe.files,
                encoding=encodings[part].dump(),
                sources=origin.sources_of(part),
                split={"part": PARTS[part], "validation": origin.split, "seed": seed},
                further=[(info, one.files) for one, info in further],
            )
    if tell is not None:
        corpora = {PARTS[part]: Corpus.open(join(output, PARTS[part])) for part in writers}
        tell(findings.told(counts, sum(rows.values()), corpora))
    summary = {PARTS[part]: {"rows": writer.rows, "tokens": writer.tokens} for part, writer in writers.items()}
    cut = {reason: counts.pop(reason) for reason in CUTS if reason in counts}
    summary = {**summary, **({"cut": cut} if cut else {})}
    return {**summary, "texts": counts.pop("texts"), "dropped": dict(counts), "taken_over": taken_over}


@dataclass(frozen=True)
class _Origin:
    """The items of the sources to train on and, where one is held out as a whole, of that one after them."""

    weights: Sequence[float]
    """Of the sources to train on."""
    sources: Sequence[SourceSpec]
    items: Sequence[Sequence[Item]]
    found: Sequence[SourceInfo]
    share: float
    """What is held out of the sources to train on."""

    @classmethod
    def of(cls, sources: Sequence[WeightedSource], validation: float | SourceSpec) -> "_Origin":
        """List the items of all sources."""
        apart = [WeightedSource(validation)] if isinstance(validation, SourceSpec) else []
        every = [*sources, *apart]
        items = [weighted.source.items() for weighted in every]
        found = [_source_info(weighted, own) for weighted, own in zip(every, items, strict=True)]
        share = validation if isinstance(validation, int | float) else 0.0
        specs = [weighted.source for weighted in every]
        return cls([weighted.weight for weighted in sources], specs, items, found, share)

    @property
    def split(self) -> float | dict[str, Any]:
        """The share that is held out, or the section of the source that is."""
        return self.found[-1].source if self._has_apart else self.share

    @property
    def _has_apart(self) -> bool:
        return len(self.items) > len(self.weights)

    @property
    def parts(self) -> list[int]:
        """The parts of the corpus that are written: 0 for training, 1 for what is held out."""
        return [*([0] if self.weights else []), *([1] if self.share or self._has_apart else [])]

    def input_splits(self) -> Sequence[InputSplit]:
        """The input splits, those of the source that is held out last."""
        number = len(self.weights)
        splits = interleave(self.items[:number], self.weights, validation=self.share)
        if not self._has_apart:
            return splits
        return [*splits, *validation_splits(self.items[number], after=splits, source=number)]

    def sources_of(self, part: int) -> Sequence[SourceInfo]:
        """The sources whose texts are in a part."""
        number = len(self.weights)
        return self.found[number:] if part and self._has_apart else self.found[:number]


def _source_info(weighted: WeightedSource, items: Sequence[Item]) -> SourceInfo:
    fingerprints = {item.key: item.fingerprint for item in items}
    return SourceInfo(source=weighted.source.dump(), weight=weighted.weight, fingerprints=fingerprints)


def _further(folders: Sequence[str], encoding: EncodingSpec, own: Any) -> list[tuple[FurtherTokenizer, TokenizerInfo]]:
    """The teacher tokenizers and what a manifest says of them; raises ValueError for one that is there already."""
    found: list[tuple[FurtherTokenizer, TokenizerInfo]] = []
    hashes = [tokenizer_hash(own)]
    for number, folder in enumerate(folders):
        tokenizer = load_tokenizer(folder)
        check_new(number, tokenizer_hash(tokenizer), hashes)
        hashes.append(tokenizer_hash(tokenizer))
        longest = _longest(encoding, tokenizer, Path(folder))
        files = _tokenizer_files(tokenizer)
        info = tokenizer_info(tokenizer, max_length=longest, files=_digests(files))
        found.append((FurtherTokenizer(files, info.vocab_size, longest), info))
    return found


def check_new(number: int, digest: str, hashes: Sequence[str | None]) -> None:
    """Raise ValueError for a teacher tokenizer, by its place in the list, that is one of those before it."""
    if digest in hashes:
        before = hashes.index(digest)
        key = f"teacher_tokenizers.{before - 1}" if before else "tokenizer"
        raise UserError(f"teacher_tokenizers.{number} encodes as {key} does; leave it out")


def _digests(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def _recipe_hash(recipe: Recipe, origin: _Origin, rows_per_shard: int, token_counts: NDArray[np.int64] | None) -> str:
    """SHA-256 of all that the files of the corpora depend on."""
    content = {
        "format": FORMAT_VERSION,
        "sources": [info.model_dump() for info in origin.found],
        "encoding": recipe.encoding.dump(),
        "tokenizer": _digests(recipe.files),
        "split": [origin.split, recipe.seed, rows_per_shard, recipe.texts_per_block],
    }
    if recipe.further:
        content["further"] = [[_digests(one.files), one.max_length] for one in recipe.further]
    if token_counts is not None:
        content["token_counts"] = hashlib.sha256(token_counts.tobytes()).hexdigest()
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _longest(encoding: EncodingSpec, tokenizer: Any, folder: Path) -> int:
    """The length of the longest row: what the encoding says, or the limit of the tokenizer and its model."""
    if encoding.max_length is not None:
        return encoding.max_length
    limits = [int(tokenizer.model_max_length)]
    limits.append(longest_row(folder))
    if min(limits) > _NO_LIMIT:
        raise UserError("encoding.max_length is missing and the tokenizer states no limit; give it")
    return min(limits)


def _tokenizer_files(tokenizer: Any) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir()) if path.is_file()}


def _check_not_empty(rows: Mapping[int, int], counts: Mapping[str, int], origin: _Origin) -> None:
    if not any(rows.values()):
        raise UserError(
            f"the sources' {counts['texts']} texts give no row{_left_out(counts)}; lower encoding.min_length, "
            "or choose another unit or other files"
        )
    for part, number in rows.items():
        if number == 0 and isinstance(origin.split, dict):
            raise UserError(
                f"{'validation' if part else 'source'}: {origin.sources_of(part)[0].source['name']} gives no row; "
                "choose another split or other files"
            )
        if number == 0:
            raise UserError(
                f"validation is {origin.split}, which leaves no row in {PARTS[part]}; change it or add text"
            )


def _left_out(counts: Mapping[str, int]) -> str:
    """Why rows and examples were left out, in brackets."""
    reasons = [f"{number} {reason}" for reason, number in counts.items() if reason not in ("texts", *CUTS)]
    return f" ({', '.join(reasons)})" if reasons else ""
