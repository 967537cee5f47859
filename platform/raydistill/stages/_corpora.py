"""Where a corpus reference leads: a binarize stage or a folder that one wrote."""

from collections.abc import Mapping
from pathlib import Path

from raydistill.data.binarize import TRAIN
from raydistill.data.corpus import MANIFEST, Corpus
from raydistill.stages._base import CorpusForecast, Forecast


def folder(reference: str, outputs: Mapping[str, Path], part: str) -> str:
    """Folder of the ``train`` or ``held_out`` part of a corpus reference, once stages have run."""
    return str(outputs.get(reference, Path(reference)) / part)


def forecast(reference: str, earlier: Mapping[str, Forecast]) -> CorpusForecast:
    """What is known of a referenced corpus; raises ValueError when there is none."""
    if reference in earlier:
        corpus = earlier[reference].corpus
        if corpus is None:
            raise ValueError(f"corpus is {reference!r}, which makes no corpus; name a binarize stage")
        return corpus
    if not (Path(reference) / TRAIN / MANIFEST).is_file():
        raise ValueError(f"corpus is {reference!r}, neither an earlier stage nor a folder of a binarize stage")
    return of_folder(Path(reference))


def of_folder(root: Path) -> CorpusForecast:
    """The facts of a corpus that exists."""
    manifest = Corpus.open(str(root / TRAIN)).manifest
    return CorpusForecast(
        str(manifest.encoding["name"]),
        manifest.tokenizer.vocab_size,
        manifest.tokenizer.max_length,
        manifest.tokenizer.hash,
        rows=manifest.rows,
        tokens=manifest.tokens,
    )
