"""A published file of teachers' scores that a capture takes in place of passes: whether it fits, as far as is known."""

from collections.abc import Mapping
from typing import Any

from raydistill.data.corpus import MANIFEST, Corpus
from raydistill.data.input_splits import HELD_OUT, TRAIN
from raydistill.data.published import score_files
from raydistill.data.storage import Folder
from raydistill.stages import _corpora
from raydistill.stages._base import CorpusForecast, Forecast


def check_score_file(config: Any, earlier: Mapping[str, Forecast]) -> list[str]:
    """What a capture takes from a file, as a line of its forecast, none without one.

    Rows are compared where the corpus is there already. Raises ValueError for a file that does not fit corpus and
    teachers.
    """
    path, num_teachers = config.dropout_scores_file, len(config.teachers)
    if path is None:
        return []
    key = f"dropout_scores_file is {path!r}"
    if score_files.KIND not in config.outputs:
        raise ValueError(
            f"{key}, but outputs has {', '.join(config.outputs)}; add {score_files.KIND}, or leave the file out"
        )
    if len(config.corpus) > 1:
        raise ValueError(
            f"{key}, which is of one train set, but corpus names {len(config.corpus)}; capture each by itself"
        )
    [name] = [reference.corpus for reference in config.corpus]
    if name in earlier:
        rows = len(score_files.read_scores(path, num_teachers=num_teachers))
        _check_rows(key, rows, earlier[name].corpus)
        return [f"{score_files.KIND} are those of {rows:,} rows of {path}; compared with the corpus once it is there"]
    folders = [_corpora.folder(name, {}, part) for part in (TRAIN, HELD_OUT)]
    parts = [Corpus.open(folder) for folder in folders if Folder(folder).exists(MANIFEST)]
    found = score_files.scores_of_parts(path, parts, num_teachers=num_teachers)
    rows = sum(len(part) for part in found if part is not None)
    return [f"{score_files.KIND} of {rows:,} rows are those of {path}"]


def _check_rows(key: str, rows: int, corpus: CorpusForecast | None) -> None:
    """Refuse a file that is as long as neither the part to train on nor both parts, where these are known."""
    if corpus is None or corpus.rows is None or corpus.held_out_rows is None:
        return
    if rows not in (corpus.rows, corpus.rows + corpus.held_out_rows):
        raise ValueError(
            f"{key}, which has {rows:,} rows, the train set {corpus.rows:,}, or {corpus.rows + corpus.held_out_rows:,} "
            "with what was held out of it; give scores of all its rows and of no others, in their order"
        )
