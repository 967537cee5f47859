"""The corpora that a stage reads or makes, as the data sets that its tracked run names; nothing of them is copied."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from raydistill.data.corpus import MANIFEST, Corpus
from raydistill.data.storage import Folder, join
from raydistill.tracking.tracker import Tracker

_LONGEST_SOURCE = 60_000
"""Letters of a data set's source; MLflow takes 65,535."""


def log_datasets(tracker: Tracker, key: str, places: Iterable[tuple[str, Path | str]], *, parts: Iterable[str]) -> None:
    """Name parts of the corpora among ``places``, each with its name, as inputs of a run.

    MLflow gets the hash of the content, the numbers of rows and tokens, and the sources that the texts came from.
    """
    found = [(name, str(place), part) for name, place in places for part in parts]
    for name, place, part in found:
        if Folder(place).exists(f"{part}/{MANIFEST}"):
            corpus = Corpus.open(join(place, part))
            tracker.log_dataset(
                key,
                name=name,
                digest=corpus.hash,
                source=_source(corpus),
                profile={"rows": corpus.manifest.rows, "tokens": corpus.manifest.tokens},
                context=part,
            )


def _source(corpus: Corpus) -> dict[str, Any]:
    """Where a corpus lies, and the sources of its texts unless they take too much room."""
    made_from = [one.source for one in corpus.manifest.sources]
    is_short = len(json.dumps(made_from)) <= _LONGEST_SOURCE
    return {"uri": corpus.uri, **({"made_from": made_from} if is_short else {})}
