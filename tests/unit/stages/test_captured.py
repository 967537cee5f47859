"""Outputs that a training stores by itself: where they lie, who finds them, and who writes them."""

import fcntl
import json
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raydistill.config.sections import ScalingConfig
from raydistill.data import teacher_inference
from raydistill.data.teacher_outputs import MANIFEST, OutputSet
from raydistill.stages import _teacher_cache
from raydistill.tracking.registration import content_hash
from toys.capture import context_of, outputs_here, save_teacher, train_stage, write_labelled

ALL_ROWS = 110
PATIENT = {"name": "patient_kd", "student_layers": [0], "teacher_layers": [1]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("captured")
    write_labelled(found)
    return found


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_inference, "_outputs", outputs_here)


def sets_of(
    folder: Path,
    storage: Path,
    *,
    output: str = "",
    layers: Sequence[int] = (),
    seed: int = 5,
    **changes: Any,
) -> tuple[list[OutputSet], int]:
    stage = train_stage(folder, teacher_outputs="stored", **changes)
    context = context_of(stage, storage / (output or f"job/{uuid.uuid4()}"), storage=storage, seed=seed)
    decisions = stage.plan(context.scaling, context.inputs)
    reading = replace(decisions.reading, layers=(tuple(layers),) * len(decisions.teachers))
    return _teacher_cache.sets_of(stage.config, reading, decisions.teachers, context)


def test_sets_lie_below_the_storage_by_the_hashes_of_what_they_are_of(folder: Path, tmp_path: Path) -> None:
    sets, ran = sets_of(folder, tmp_path)
    assert ran == ALL_ROWS
    assert [len(one) for one in sets] == [90, 20]
    teacher = content_hash(folder / "teacher")
    for one in sets:
        place = Path(one.uri).relative_to(tmp_path / "teacher_outputs")
        assert place.parts == tuple(digest[:16] for digest in (teacher, one.header.corpus_hash, one.header.hash))


def test_another_stage_seed_and_job_and_a_copy_of_the_teacher_find_the_same_sets(folder: Path, tmp_path: Path) -> None:
    first, _ = sets_of(folder, tmp_path)
    shutil.copytree(folder / "teacher", tmp_path / "copy")
    task = {"name": "classification", "metrics": ["macro_f1"]}
    again = {"output": "other/student", "seed": 6, "teachers": [str(tmp_path / "copy")], "task": task}
    second, ran = sets_of(folder, tmp_path, **again, training={"num_epochs": 7}, method={"name": "kd", "alpha": 0.1})
    assert ran == 0
    assert [one.uri for one in second] == [one.uri for one in first]


def test_a_corpus_that_is_named_twice_is_captured_once(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "corpus", tmp_path / "copy")
    corpora = [{"corpus": str(folder / "corpus"), "weight": 0.5}, str(folder / "corpus"), str(tmp_path / "copy")]
    sets, ran = sets_of(folder, tmp_path, corpus=corpora)
    assert (len(sets), ran) == (2, ALL_ROWS)


def test_each_teacher_has_its_own_sets(folder: Path, tmp_path: Path) -> None:
    save_teacher(tmp_path / "large", seed=4, num_layers=4)
    both = {"method": "dynamic_teacher", "teachers": [str(folder / "teacher"), str(tmp_path / "large")]}
    sets, ran = sets_of(folder, tmp_path, **both)
    assert ran == 2 * ALL_ROWS
    assert len({one.header.teacher_hash for one in sets}) == 2
    assert sets_of(folder, tmp_path, teachers=[str(tmp_path / "large")])[1] == 0


def test_a_set_with_more_in_it_serves_a_training_that_reads_less(folder: Path, tmp_path: Path) -> None:
    rich, ran = sets_of(folder, tmp_path, method=PATIENT, layers=[2, 1])
    assert ran == ALL_ROWS
    assert sets_of(folder, tmp_path, method=PATIENT, layers=[1])[1] == 0
    plain, ran = sets_of(folder, tmp_path)
    assert (ran, [one.uri for one in plain]) == (0, [one.uri for one in rich])
    assert sets_of(folder, tmp_path, method=PATIENT, layers=[3])[1] == ALL_ROWS


def test_a_set_of_another_precision_does_not_serve(folder: Path, tmp_path: Path) -> None:
    assert sets_of(folder, tmp_path, training={"precision": "bf16"})[1] == ALL_ROWS
    sets, ran = sets_of(folder, tmp_path)
    assert ran == ALL_ROWS
    assert {one.header.precision for one in sets} == {"fp32"}


def test_a_set_of_an_older_format_does_not_serve(folder: Path, tmp_path: Path) -> None:
    for one in sets_of(folder, tmp_path)[0]:
        manifest = Path(one.uri) / MANIFEST
        content = json.loads(manifest.read_text(encoding="utf-8"))
        content["header"]["version"] -= 1
        manifest.write_text(json.dumps(content), encoding="utf-8")
        # The header's hash, which names the folder, is another one too.
        Path(one.uri).rename(Path(one.uri).with_name("older"))
    assert sets_of(folder, tmp_path)[1] == ALL_ROWS
    assert sets_of(folder, tmp_path)[1] == 0


def test_of_runs_that_miss_the_same_sets_one_captures_and_the_others_wait(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = []
    running = threading.Lock()

    def slow(*arguments: Any) -> Iterator[Any]:
        at_once.append(not running.acquire(blocking=False))
        time.sleep(0.2)
        yield from outputs_here(*arguments)
        running.release()

    monkeypatch.setattr(teacher_inference, "_outputs", slow)
    rows: dict[int, int] = {}
    threads = [
        threading.Thread(
            target=lambda seed=seed: rows.update({seed: sets_of(folder, tmp_path, output=f"job/{seed}", seed=seed)[1]})
        )
        for seed in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(rows.values()) == [0, 0, ALL_ROWS]
    assert at_once == [False]


HOLD = """
import fcntl, sys, time
file = open(sys.argv[1], "wb")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


def test_a_killed_writer_holds_nobody_up(folder: Path, tmp_path: Path) -> None:
    lock = tmp_path / "teacher_outputs" / content_hash(folder / "teacher")[:16] / ".lock"
    lock.parent.mkdir(parents=True)
    writer = subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "held\n"
        with lock.open("wb") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        waiting = threading.Thread(target=sets_of, args=(folder, tmp_path), daemon=True)
        waiting.start()
        waiting.join(timeout=1.5)
        assert waiting.is_alive()
    finally:
        writer.kill()
        writer.communicate()
    waiting.join(timeout=60)
    assert not waiting.is_alive()
    assert sets_of(folder, tmp_path)[1] == 0


def test_what_an_interrupted_capture_finished_is_not_done_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(items: list[dict[str, int]], *arguments: Any) -> Iterator[Any]:
        # The first shard has 40 rows.
        yield from outputs_here(items[:1], *arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(teacher_inference, "_outputs", dying)
        with pytest.raises(KeyboardInterrupt):
            sets_of(folder, tmp_path)
    assert sets_of(folder, tmp_path)[1] == ALL_ROWS - 40


def test_a_training_that_goes_on_still_counts_what_it_captured(folder: Path, tmp_path: Path) -> None:
    assert [sets_of(folder, tmp_path, output="job/one")[1] for _ in range(2)] == [ALL_ROWS, ALL_ROWS]
    assert sets_of(folder, tmp_path, output="job/other")[1] == 0


def test_a_damaged_set_is_captured_again(folder: Path, tmp_path: Path) -> None:
    (train, _), _ = sets_of(folder, tmp_path)
    before = train.read(range(90))["logits"]
    file = Path(train.uri) / train.shards[1].file
    file.write_bytes(bytes(file.stat().st_size))
    (again, _), ran = sets_of(folder, tmp_path, output="job/other")
    assert ran == 90
    assert np.array_equal(again.read(range(90))["logits"], before)


def test_a_full_disk_is_told_before_anything_is_stored(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=2**30)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ValueError, match=r"teachers\.0 take about 0\.0 MiB, but the storage has 1\.00 GiB free; make"):
        sets_of(folder, tmp_path)


def test_the_preflight_tells_what_is_stored_and_how_large_it_is(folder: Path) -> None:
    stage = train_stage(folder, corpus=[{"corpus": str(folder / "corpus"), "weight": 3}])
    lines = stage.plan(ScalingConfig(), {}).lines
    assert "teacher 0 bert is not run: its outputs are stored first" in lines
    assert lines[-1] == (
        "teacher 0 bert, 7,883 parameters, stores logits: about 0.0 MiB for 110 rows, unless they are there"
    )
    assert any(line.startswith("teacher outputs: stored, because this training reads 540 rows") for line in lines)
    assert not [
        line for line in train_stage(folder, teacher_outputs="live").plan(ScalingConfig(), {}).lines if "stores" in line
    ]


def test_scores_of_passes_are_those_that_the_method_asks_for(folder: Path, tmp_path: Path) -> None:
    asked = {"dropout_passes": 3, "dropout_seed": 4, "teacher_dropout": 0.4}
    method = {"name": "muki", "scores": "dropout", "margin_reweighting": False, **asked}
    sets, ran = sets_of(folder, tmp_path, method=method)
    assert ran == ALL_ROWS
    wanted = {"dropout_passes": 3, "dropout_seed": 4, "dropout": 0.4}
    assert [{name: one.header.options[name] for name in wanted} for one in sets] == [wanted] * 2
    assert sets_of(folder, tmp_path, method={**method, "dropout_seed": None}, seed=6)[1] == ALL_ROWS
    assert sets_of(folder, tmp_path, method={**method, "dropout_seed": None}, seed=7)[1] == 0


MUKI = {"method": {"name": "muki", "scores": "dropout", "dropout_passes": 3, "margin_reweighting": False}}


def test_scores_of_passes_with_dropout_are_stored_as_the_method_asks_for_them(folder: Path, tmp_path: Path) -> None:
    (one, _), ran = sets_of(folder, tmp_path, **MUKI)
    assert ran == ALL_ROWS
    assert one.header.kinds == ("logits", "dropout_scores")
    assert (one.header.options["dropout_passes"], one.header.options["dropout_seed"]) == (3, 0)
    assert sets_of(folder, tmp_path, **MUKI, seed=9)[1] == 0
    assert sets_of(folder, tmp_path)[1] == 0
    others = {"method": {**MUKI["method"], "dropout_seed": 4}}
    (other, _), ran = sets_of(folder, tmp_path, **others)
    assert ran == ALL_ROWS
    assert not np.array_equal(other.read(range(90))["dropout_scores"], one.read(range(90))["dropout_scores"])


def full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=2**30)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)


def decided(folder: Path, tmp_path: Path, **changes: Any) -> Any:
    """What a training does once its corpus is there, and how many rows teachers ran on for it before."""
    stage = train_stage(folder, **changes)
    context = context_of(stage, tmp_path / "job", storage=tmp_path)
    decisions = stage._with_room(stage.config, stage.plan(context.scaling, context.inputs), context)
    return decisions, stage._joined(stage.config, decisions, {}, context)[1]


def test_auto_runs_teachers_live_where_their_outputs_have_no_room(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert decided(folder, tmp_path / "room")[0].choice.is_own
    full_disk(monkeypatch, tmp_path)
    decisions, ran = decided(folder, tmp_path)
    assert (decisions.choice.source, ran) == ("live", 0)
    why = "outputs of teachers.0 take about 0.0 MiB, but the storage has 1.00 GiB free"
    assert decisions.choice.lines == [f"teacher outputs: live, because {why}"]
    assert decisions.placement.placements == ("replicate",)


def test_what_is_stored_already_needs_no_room(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets_of(folder, tmp_path)
    full_disk(monkeypatch, tmp_path)
    decisions, ran = decided(folder, tmp_path)
    assert decisions.choice.is_own
    assert ran == 0


def test_outputs_that_the_user_wants_stored_are_not_replaced(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_disk(monkeypatch, tmp_path)
    with pytest.raises(ValueError, match=r"1\.00 GiB free; make room, or write teacher_outputs: live"):
        decided(folder, tmp_path, teacher_outputs="stored")
