"""Heads and neurons of a model scored over the rows of a corpus: actors that sum blocks of rows, added in their order.

Blocks of rows are the same for any number of actors and their sums are added in one order in float64, so scores do not
depend on how many there are.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor, nn

from raydistill.atomic import atomic_file
from raydistill.batch import Batch, encoded_as
from raydistill.computing import compute_with
from raydistill.config.named import TaskSpec
from raydistill.data.mixture import CorpusPart, open_mixture
from raydistill.data.ray_tasks import run_actors
from raydistill.data.storages import storage_at
from raydistill.data.stream import BatchBuilder, FeedSpec
from raydistill.draws import first_of_permutation
from raydistill.methods._unit_scores import row_gradients
from raydistill.models.classes import Names
from raydistill.models.importance import EXPRESSIVENESS, FRIENDLINESS, Scores, ScoreSums
from raydistill.models.load import load_model
from raydistill.models.predictions import predict

BLOCK_ROWS = 512
"""Rows whose sums an actor hands over at once."""
_FILE = "progress.safetensors"
_SUMS = pa.schema({"sums": pa.large_binary()})
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoredModel:
    """A checkpoint and how it is read."""

    folder: str
    names: Names = ()
    """Names of its outputs, where its configuration does not have them."""
    encoding: int = 0
    """The encoding of the corpus that it reads."""


@dataclass(frozen=True)
class ScoringRun:
    """One scoring."""

    model: ScoredModel
    student: ScoredModel | None
    corpus: tuple[CorpusPart, ...]
    task: TaskSpec
    seed: int
    """Key of the rows where ``max_rows`` leaves some out."""
    max_rows: int | None = None
    batch_size: int = 32
    """Rows of a forward and a backward pass; scores do not depend on it."""
    score_batch_size: int | None = None
    """Rows, in the corpus's order, whose mean gradient is one summand, as published; None: each row's own is."""
    temperature: float = 2.0
    num_threads: int = 1
    use_gpu: bool = False

    def identity(self) -> dict[str, Any]:
        """What decides which rows are summed and how, contents of folders apart, for JSON."""
        found = asdict(self)
        for of_speed in ("batch_size", "num_threads", "use_gpu"):
            del found[of_speed]
        return {**found, "task": self.task.dump(), "block_rows": BLOCK_ROWS}

    def feed(self) -> FeedSpec:
        """What builds its batches."""
        encodings = [one.encoding for one in (self.model, self.student) if one is not None]
        return FeedSpec.make(self.corpus, self.task, None, seed=self.seed, encodings=encodings)


class ScoringProgress:
    """The sums of the blocks that are done, exactly as they were in memory; replaced in one step after each block."""

    def __init__(self, folder: Path, identity: Any) -> None:
        """``identity``: what the sums depend on, for JSON; sums of anything else that lie in ``folder`` are ignored."""
        self._path = folder / _FILE
        self._identity = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def read(self, kinds: Iterable[str], *, score_batch_size: int | None) -> tuple[int, dict[str, ScoreSums]]:
        """How many blocks are done and their sums by kind; 0 and empty sums where there is no whole file of them."""
        tensors: dict[str, Tensor] = {}
        num_blocks = 0
        try:
            with safe_open(self._path, framework="pt") as file:
                facts = file.metadata() or {}
                if facts.get("identity") == self._identity:
                    num_blocks = int(facts["blocks"])
                    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (FileNotFoundError, SafetensorError):
            pass
        return num_blocks, _sums_of(tensors, kinds, score_batch_size=score_batch_size)

    def write(self, num_blocks: int, sums: Mapping[str, ScoreSums]) -> None:
        """Keep the sums of the first blocks in place of what is there."""
        tensors = _tensors_of(sums)
        with atomic_file(self._path) as temporary:
            temporary.write_bytes(save(tensors, metadata={"identity": self._identity, "blocks": str(num_blocks)}))

    def remove(self) -> None:
        """Take the file away once the scores are written."""
        self._path.unlink(missing_ok=True)


def score_units(
    run: ScoringRun, progress: ScoringProgress, *, num_actors: int = 1, cpus: int = 1
) -> tuple[dict[str, Scores], int]:
    """Sums of a model's scores by their kind, and the number of rows; needs a running Ray.

    Has ``EXPRESSIVENESS`` and, with a student, ``FRIENDLINESS``. Rows that ``progress`` has are not read again, and the
    sums are those of a scoring that was never interrupted, bit for bit. ``cpus``: logical CPUs of an actor. Raises a
    ValueError that an actor met, with its message alone.
    """
    rows = chosen_rows(run)
    blocks = [(start, rows[start : start + BLOCK_ROWS]) for start in range(0, len(rows), BLOCK_ROWS)]
    done, totals = progress.read(_kinds(run), score_batch_size=run.score_batch_size)
    if done:
        _logger.warning("sums over %d rows of an earlier run are taken over", totals[EXPRESSIVENESS].num_rows)
    rest = blocks[done:]
    for number, sums in enumerate(_block_sums(run, rest, num_actors=min(num_actors, len(rest)), cpus=cpus), done + 1):
        for kind, total in totals.items():
            total.merge(sums[kind])
        progress.write(number, totals)
    return {kind: total.scores() for kind, total in totals.items()}, len(rows)


def chosen_rows(run: ScoringRun) -> NDArray[np.int64]:
    """The rows that are scored, in the corpus's order: all, or a sample that the seed draws."""
    num_rows = len(open_mixture(run.corpus))
    if run.max_rows is None or run.max_rows >= num_rows:
        return np.arange(num_rows)
    return np.sort(first_of_permutation("scored rows", run.seed, size=num_rows, count=run.max_rows))


def _block_sums(
    run: ScoringRun, blocks: Sequence[tuple[int, NDArray[np.int64]]], *, num_actors: int, cpus: int
) -> Iterator[dict[str, ScoreSums]]:
    """What actors make of the blocks, in their order; the actors end with the iterator."""
    tables = run_actors(
        partial(_scoring_task, run),
        [{"start": start, "rows": rows.tolist()} for start, rows in blocks],
        _SUMS,
        num_actors=num_actors,
        cpus=cpus,
        use_gpu=run.use_gpu,
    )
    kinds = _kinds(run)
    with closing(tables):
        for table in tables:
            for content in table.column("sums"):
                yield _sums_of(load(content.as_py()), kinds, score_batch_size=run.score_batch_size)


def _scoring_task(run: ScoringRun) -> Callable[[Mapping[str, Any]], list[pa.Table]]:
    """Load the models; the task sums a block."""
    compute_with(run.num_threads)
    scorer = UnitScorer(run)

    def table_of(item: Mapping[str, Any]) -> list[pa.Table]:
        sums = scorer.sums(item["start"], np.array(item["rows"]))
        return [pa.table([pa.array([save(_tensors_of(sums))], type=pa.large_binary())], schema=_SUMS)]

    return table_of


def _kinds(run: ScoringRun) -> tuple[str, ...]:
    return (EXPRESSIVENESS,) if run.student is None else (EXPRESSIVENESS, FRIENDLINESS)


def _tensors_of(sums: Mapping[str, ScoreSums]) -> dict[str, Tensor]:
    """Sums by kind as tensors by name, for a file or a message."""
    return {f"{kind}/{name}": tensor for kind, one in sums.items() for name, tensor in one.tensors().items()}


def _sums_of(
    tensors: Mapping[str, Tensor], kinds: Iterable[str], *, score_batch_size: int | None
) -> dict[str, ScoreSums]:
    """What ``_tensors_of`` was given; empty sums of a kind without tensors."""
    found: dict[str, dict[str, Tensor]] = {kind: {} for kind in kinds}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition("/")
        found[kind][rest] = tensor
    return {kind: ScoreSums.of_tensors(own, score_batch_size=score_batch_size) for kind, own in found.items()}


class UnitScorer:
    """A model, maybe with a student, and the corpus that scores them; needs no Ray."""

    def __init__(self, run: ScoringRun) -> None:
        self._run = run
        self._device = torch.device("cuda" if run.use_gpu else "cpu")
        self._builder = BatchBuilder(run.feed())
        self._model = self._loaded(run.model)
        self._student = None if run.student is None else self._loaded(run.student)

    def _loaded(self, one: ScoredModel) -> nn.Module:
        task = self._builder.task
        model = load_model(storage_at(one.folder).fetch(), head=task.HEAD, labels=task.labels, names=one.names)
        return model.to(self._device).requires_grad_(False)

    def sums(self, start: int, rows: NDArray[np.int64]) -> dict[str, ScoreSums]:
        """Sums over these rows, the first of which is number ``start`` of those that are scored."""
        found = {kind: ScoreSums(score_batch_size=self._run.score_batch_size) for kind in _kinds(self._run)}
        # Rows of similar length together waste least; their places in the corpus go with them.
        order = np.argsort(self._builder.corpus.lengths[rows], kind="stable")
        for first in range(0, len(rows), self._run.batch_size):
            places = order[first : first + self._run.batch_size]
            batch = self._builder.batch(rows[places], epoch=0, step=0).to(self._device)
            gradients = row_gradients(
                self._model,
                encoded_as(batch, self._run.model.encoding),
                head=self._builder.task.HEAD,
                student_logits=self._said_by_student(batch),
                temperature=self._run.temperature,
            )
            for kind, sums in found.items():
                sums.add(gradients[kind], torch.from_numpy(start + places))
        return found

    @torch.no_grad()
    def _said_by_student(self, batch: Batch) -> torch.Tensor | None:
        if self._student is None or self._run.student is None:
            return None
        return predict(
            self._student, encoded_as(batch, self._run.student.encoding), head=self._builder.task.HEAD
        ).logits
