"""A scoring that was interrupted goes on after the blocks that are done, to the same bits."""

import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raydistill.data import unit_scoring
from raydistill.data.unit_scores import FACTS, TENSORS, read_facts
from raydistill.stages import score
from toys.capture import context_of, save_teacher, write_labelled

ROWS, BLOCK = 20, 6
DONE = 2
"""Blocks before the interruption."""
PROGRESS = "progress.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("score")
    write_labelled(found)
    save_teacher(found / "trial", seed=7, num_layers=1)
    save_teacher(found / "other", seed=8, num_layers=3)
    return found


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """First rows of the blocks that are read, in this process; an empty list ends the scoring after ``DONE`` blocks."""
    read: list[int] = []
    monkeypatch.setattr(unit_scoring, "BLOCK_ROWS", BLOCK)
    monkeypatch.setattr(unit_scoring, "_block_sums", lambda run, blocks, **_: _sums(run, blocks, read, stop=None))
    return read


def _sums(run: Any, blocks: Any, read: list[int], *, stop: int | None) -> Iterator[Any]:
    scorer = unit_scoring.UnitScorer(run)
    for number, (start, rows) in enumerate(blocks):
        if number == stop:
            raise KeyboardInterrupt
        read.append(start)
        yield scorer.sums(start, rows)


def run_stage(folder: Path, output: Path, **changes: Any) -> bytes:
    """The file of scores that a stage leaves."""
    config = {"kind": "score", "corpus": str(folder / "corpus"), "model": str(folder / "teacher"), **changes}
    one = score.Stage("scores", score.Config.model_validate(config))
    one.run(context_of(one, output))
    return (output / TENSORS).read_bytes()


def interrupt(folder: Path, output: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Leave what a scoring leaves that ends after ``DONE`` blocks."""
    with monkeypatch.context() as patch:
        patch.setattr(unit_scoring, "_block_sums", lambda run, blocks, **_: _sums(run, blocks, [], stop=DONE))
        with pytest.raises(KeyboardInterrupt):
            run_stage(folder, output, **changes)
    assert {path.name for path in output.iterdir()} == {PROGRESS}


@pytest.mark.parametrize(
    "of",
    [
        lambda folder: {"student": str(folder / "trial"), "lam": 0.3},
        # Groups of 7 lie across blocks of 6 rows: after two blocks one is open.
        lambda folder: {"score_batch_size": 7},
        # After two blocks none is closed.
        lambda folder: {"score_batch_size": 15},
    ],
)
def test_a_scoring_that_goes_on_reads_no_row_again_and_has_the_bits_of_one_that_was_not_interrupted(
    folder: Path,
    tmp_path: Path,
    starts: list[int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    of: Callable[[Path], dict[str, Any]],
) -> None:
    changes = of(folder)
    undisturbed = run_stage(folder, tmp_path / "whole", **changes)
    assert starts == [0, 6, 12, 18]
    starts.clear()
    interrupt(folder, tmp_path / "cut", monkeypatch, **changes)
    with caplog.at_level(logging.WARNING):
        assert run_stage(folder, tmp_path / "cut", **changes) == undisturbed
    assert starts == [12, 18]
    assert caplog.messages == ["sums over 12 rows of an earlier run are taken over"]
    assert read_facts(tmp_path / "cut") == read_facts(tmp_path / "whole")
    assert {path.name for path in (tmp_path / "cut").iterdir()} == {TENSORS, FACTS}


def test_sums_of_another_scoring_are_not_taken_over(
    folder: Path, tmp_path: Path, starts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder / "teacher", tmp_path / "model")
    model = {"model": str(tmp_path / "model")}
    interrupt(folder, tmp_path / "cut", monkeypatch, **model)
    shutil.rmtree(tmp_path / "model")
    shutil.copytree(folder / "other", tmp_path / "model")
    found = run_stage(folder, tmp_path / "cut", **model)
    assert starts == [0, 6, 12, 18]
    assert found == run_stage(folder, tmp_path / "whole", **model)


def test_a_damaged_file_of_sums_is_not_taken_over(
    folder: Path, tmp_path: Path, starts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(folder, tmp_path / "cut", monkeypatch)
    path = tmp_path / "cut" / PROGRESS
    path.write_bytes(path.read_bytes()[:-8])
    run_stage(folder, tmp_path / "cut")
    assert starts == [0, 6, 12, 18]


def test_what_rows_go_through_at_once_may_change_in_between(
    folder: Path, tmp_path: Path, starts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(folder, tmp_path / "cut", monkeypatch, batch_size=4)
    run_stage(folder, tmp_path / "cut", batch_size=5)
    assert starts == [12, 18]
    starts.clear()
    interrupt(folder, tmp_path / "other", monkeypatch, temperature=2.0)
    run_stage(folder, tmp_path / "other", temperature=3.0)
    assert starts == [0, 6, 12, 18]
