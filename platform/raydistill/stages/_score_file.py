"""A file of published scores that a capture stores in place of those of passes: whether it fits corpus and teachers."""

from typing import TYPE_CHECKING

from raydistill.data.corpus import MANIFEST, Corpus
from raydistill.data.input_splits import TRAIN, VALIDATION
from raydistill.data.published import score_files
from raydistill.data.storage import Folder
from raydistill.stages import _base
from raydistill.stages._base import CorpusFacts, Inputs
from raydistill.user_error import UserError

if TYPE_CHECKING:
    from raydistill.stages.capture import Config


def check_score_file(config: "Config", inputs: Inputs) -> list[str]:
    """What a capture takes from a file, as a line of its forecast, none without one.

    Rows are compared where the corpus is there already. Raises ValueError for a file that does not fit corpus and
    teachers.
    """
    path, num_teachers = config.dropout_scores_file, len(config.teachers)
    if path is None:
        return []
    key = f"dropout_scores_file is {path!r}"
    if score_files.KIND not in config.outputs:
        raise UserError(
            f"{key}, but outputs has {', '.join(config.outputs)}; add {score_files.KIND}, or leave the file out"
        )
    if len(config.corpus) > 1:
        raise UserError(
            f"{key}, which is for one train set, but corpus names {len(config.corpus)}; capture each by itself"
        )
    [name] = [reference.corpus for reference in config.corpus]
    root = _base.folder_of(name, inputs)
    if root is None:
        rows = len(score_files.read_scores(path, num_teachers=num_teachers))
        _check_rows(key, rows, _base.planned(CorpusFacts, name, inputs))
        return [f"{score_files.KIND} are those of {rows:,} rows of {path}; compared with the corpus once it is there"]
    folders = [str(root / part) for part in (TRAIN, VALIDATION)]
    parts = [Corpus.open(folder) for folder in folders if Folder(folder).exists(MANIFEST)]
    found = score_files.scores_of_parts(path, parts, num_teachers=num_teachers)
    rows = sum(len(part) for part in found if part is not None)
    return [f"{score_files.KIND} of {rows:,} rows are those of {path}"]


def _check_rows(key: str, rows: int, corpus: CorpusFacts | None) -> None:
    """Refuse a file that is as long as neither the part to train on nor both parts, where these are known."""
    if corpus is None or corpus.rows is None or corpus.validation_rows is None:
        return
    if rows not in (corpus.rows, corpus.rows + corpus.validation_rows):
        raise UserError(
            f"{key}, which has {rows:,} rows, but the train set has {corpus.rows:,}, or "
            f"{corpus.rows + corpus.validation_rows:,} with what was held out of it; "
            "give scores of all its rows and of no others, in their order"
        )
