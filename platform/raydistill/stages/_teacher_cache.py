"""Teacher outputs that a training stores by itself, once, where every job of one storage finds them.

They lie in ``<storage>/teacher_outputs/<teacher>/<corpus>/<header>``, three hashes of what they are of, so that another
stage, job, seed or run of a matrix with the same teacher and corpus reads them and runs no teacher.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raydistill.atomic import write_json
from raydistill.config.sections import ScalingConfig
from raydistill.data.storage import Folder
from raydistill.data.storages import storage_at
from raydistill.data.teacher_inference import Share, TeacherRun, capture
from raydistill.data.teacher_outputs import MANIFEST, Header, OutputSet
from raydistill.locks import locked
from raydistill.methods import muki
from raydistill.methods.muki import DROPOUT_SCORES
from raydistill.stages import _corpora, _teacher_plan
from raydistill.stages._base import Inputs, StageContext
from raydistill.stages._models import Fitted
from raydistill.stages._stored_outputs import VERIFIED_BYTES, Reading
from raydistill.stages.capture import Config as CaptureConfig
from raydistill.stages.capture import Stage
from raydistill.user_error import UserError

if TYPE_CHECKING:
    from raydistill.stages.train import Config

FOLDER = "teacher_outputs"
"""Name of the shared folder below the storage."""
_COUNT = "captured.json"
_HASH_DIGITS = 16
_logger = logging.getLogger(__name__)


def stages_of(config: "Config", layers: Sequence[Sequence[int]], *, precision: str = "fp32") -> list[Stage]:
    """For each teacher of a training the capture of what the method reads of it; ``layers`` are those of each."""
    kinds = _teacher_plan.kinds_of(config)
    same = {
        "kind": "capture",
        "corpus": _corpora.whole(config.corpus),
        "task": config.task,
        "teachers": list(config.teachers),
        "outputs": list(kinds),
        "precision": precision,
        **_passes_of(config.method.config, kinds),
    }
    read = [list(dict.fromkeys(of_teacher)) if "cls_states" in kinds else [] for of_teacher in layers]
    return [Stage(FOLDER, CaptureConfig.model_validate({**same, "layers": of_teacher})) for of_teacher in read]


def _passes_of(method: object, kinds: Sequence[str]) -> dict[str, Any]:
    """The passes with dropout that a method asks for, as a capture names them."""
    if DROPOUT_SCORES not in kinds or not isinstance(method, muki.Config):
        return {}
    return {"dropout_passes": method.dropout_passes, "dropout": method.teacher_dropout}


def lines(config: "Config", reading: Reading, teachers: Sequence[Fitted], inputs: Inputs) -> list[str]:
    """What a preflight says of the sizes of captures of its own."""
    stages = stages_of(config, reading.layers)
    return [
        f"{stage.line(number, teacher, _corpora.read_by(config.task, stage.config.corpus, inputs))}, unless they are "
        "there"
        for number, (stage, teacher) in enumerate(zip(stages, teachers, strict=True))
    ]


def sets_of(
    config: "Config", reading: Reading, teachers: Sequence[Fitted], context: StageContext
) -> tuple[list[OutputSet], int]:
    """The sets that a training reads, captured first where they are missing, and how many rows teachers ran on for it.

    Needs a running Ray where any is missing. Of several runs that miss the same one captures and the others wait; what
    an ended one left is gone on with. Raises ValueError when the disk has no room for them.
    """
    sets: list[OutputSet] = []
    ran = 0
    for number, (stage, run) in enumerate(_runs(config, reading, teachers, context)):
        rows, found = _ensured(run, stage, number, context.scaling)
        ran += rows
        sets += found
    return sets, _counted(context.output / _COUNT, ran)


def shortage(config: "Config", reading: Reading, teachers: Sequence[Fitted], context: StageContext) -> str | None:
    """That the storage has no room for what is missing of the sets that a training reads; None where it has."""
    for number, (stage, run) in enumerate(_runs(config, reading, teachers, context)):
        missing = _part_of(run, [place for place, one in enumerate(_found(run)) if one is None])
        found = stage.shortage(number, missing, context.storage or context.output) if missing.sets else None
        if found is not None:
            return found
    return None


def _runs(
    config: "Config", reading: Reading, teachers: Sequence[Fitted], context: StageContext
) -> Iterator[tuple[Stage, TeacherRun]]:
    """Of each teacher the capture and its run, whose sets lie in the shared folder."""
    precision = _teacher_plan.precision_of(config.training.precision_of_teachers, context.scaling)
    # The only draws are those of passes with dropout, the same for all runs unless the method gives them a seed.
    neutral = replace(context, seed=getattr(config.method.config, "dropout_seed", None) or 0)
    stages = stages_of(config, reading.layers, precision=precision)
    for number, (stage, teacher) in enumerate(zip(stages, teachers, strict=True)):
        yield stage, _placed(stage.teacher_run(number, teacher, neutral), context)


def _home(run: TeacherRun) -> Path:
    """The folder of a teacher's sets of all corpora."""
    return Path(run.sets[0]).parents[1]


def _counted(path: Path, ran: int) -> int:
    """Rows over all starts of one run, for an interrupted one keeps what it captured."""
    storage_at(path).fetch()
    before = json.loads(path.read_text(encoding="utf-8"))["teacher_rows"] if path.is_file() else 0
    if ran:
        write_json(path, {"teacher_rows": before + ran})
        storage_at(path).publish()
    return int(before + ran)


def _placed(run: TeacherRun, context: StageContext) -> TeacherRun:
    """The run with its sets in the shared folder, under names of their content alone; each corpus once."""
    root = (context.storage or context.output) / FOLDER
    placed: dict[str, tuple[str, Header]] = {}
    for uri, header in zip(run.corpora, run.headers, strict=True):
        # Metrics compare models and change none of their outputs.
        task = {key: value for key, value in header.task.items() if key != "metrics"}
        header = header.model_copy(update={"teacher": header.teacher_hash[:_HASH_DIGITS], "task": task})
        hashes = (header.teacher_hash, header.corpus_hash, header.hash)
        placed.setdefault(str(root.joinpath(*(one[:_HASH_DIGITS] for one in hashes))), (uri, header))
    return replace(
        run,
        sets=tuple(placed),
        corpora=tuple(uri for uri, _ in placed.values()),
        headers=tuple(header for _, header in placed.values()),
    )


def _ensured(run: TeacherRun, stage: Stage, number: int, scaling: ScalingConfig) -> tuple[int, list[OutputSet]]:
    """Rows that a teacher was run on, and its sets."""
    if any(one is None for one in _found(run)):
        # One lock a teacher: its sets of several corpora come from one run.
        with locked(_home(run) / ".lock", waiting=_tell_of_another):
            missing = [place for place, one in enumerate(_found(run)) if one is None]
            ran = _captured(_part_of(run, missing), stage, number, scaling) if missing else 0
    else:
        ran = 0
    found = [one for one in _found(run) if one is not None]
    assert len(found) == len(run.sets), "a set that was just written is gone"
    return ran, found


def _captured(run: TeacherRun, stage: Stage, number: int, scaling: ScalingConfig) -> int:
    stage.check_room(number, run, _home(run), remedy="make room, or write teacher_outputs: live")
    return capture(run, Share(scaling.num_workers, scaling.cpus_per_worker, scaling.use_gpu))


def _part_of(run: TeacherRun, places: Sequence[int]) -> TeacherRun:
    return replace(
        run,
        corpora=tuple(run.corpora[place] for place in places),
        sets=tuple(run.sets[place] for place in places),
        headers=tuple(run.headers[place] for place in places),
    )


def _found(run: TeacherRun) -> list[OutputSet | None]:
    """For each set of a run one that holds at least what is wanted, None where there is none."""
    return [_serving(Path(uri), header) for uri, header in zip(run.sets, run.headers, strict=True)]


def _serving(target: Path, wanted: Header) -> OutputSet | None:
    """The set itself, or one of the same teacher and corpus with further kinds or layers; none that is damaged."""
    others = (one for one in storage_at(target.parent).subfolders() if one != target and Folder(one).exists(MANIFEST))
    for folder in (target, *others):
        try:
            one = OutputSet.open(str(folder))
            if not _serves(one.header, wanted):
                continue
            if one.num_bytes <= VERIFIED_BYTES:
                one.verify()
            return one
        except UserError:
            # The capture tells why it is made anew.
            continue
    return None


def _serves(header: Header, wanted: Header) -> bool:
    """Whether a set has all that is wanted, and is the same in what both have."""
    if not {*wanted.kinds} <= {*header.kinds} or not {*wanted.layers} <= {*header.layers}:
        return False
    of_states = (one.columns["cls_states"].dtype for one in (header, wanted) if "cls_states" in wanted.kinds)
    same: dict[str, Any] = {"kinds": wanted.kinds, "layers": wanted.layers, "columns": wanted.columns}
    if DROPOUT_SCORES not in wanted.kinds:
        # The options are those of passes with dropout alone; batches are equally large in all of these sets.
        same["options"] = wanted.options
    return len({*of_states}) <= 1 and header.model_copy(update=same) == wanted


def _tell_of_another() -> None:
    _logger.setLevel(logging.INFO)
    _logger.info("another run stores outputs of this teacher; this one waits for them")
