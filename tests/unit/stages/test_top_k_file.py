"""Likeliest ids that others captured: what becomes a set, and which files are refused by which line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.nn.functional import log_softmax

from raydistill.config.sections import ScalingConfig
from raydistill.data.corpus import Corpus
from raydistill.data.teacher_inference import Share, capture
from raydistill.data.teacher_outputs import OutputSet
from raydistill.models.load import load_model
from raydistill.tasks._base import Column
from raydistill.tasks._instructions import LOSS_SPANS
from toys.capture import capture_stage, context_of, run_of, train_stage, write_sets, write_texts
from toys.families import toy_gpt2
from toys.models import VOCABULARY

K = 8
Lines = list[dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("top_k_file")
    write_texts(found, toy_gpt2, "clm")
    return found


@pytest.fixture(scope="module")
def lines(folder: Path) -> Lines:
    """What somebody else's loop over the corpus writes."""
    model, found = load_model(folder / "teacher", head="causal_lm").eval(), []
    for part, count in {"train": 90, "validation": 20}.items():
        for row, text in enumerate(Corpus.open(str(folder / "corpus" / part)).read_rows(range(count))):
            with torch.no_grad():
                said = log_softmax(model(input_ids=torch.tensor(text.astype(np.int64))[None]).logits[0], -1)
            kept, ids = said.topk(K, dim=-1)
            row_of = {"input_ids": text.tolist(), "ids": ids.tolist(), "log_probs": kept.tolist()}
            found.append({"part": part, "row": row, **row_of})
    return found


def write(lines: Lines, path: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(lines), path, row_group_size=37)
    return path


def stage_of(folder: Path, file: Path, **changes: Any) -> Any:
    options = {"task": "clm", "outputs": ["top_k"], "top_k": K, "top_k_file": str(file)}
    return capture_stage(folder, **{**options, **changes})


def stored(folder: Path, file: Path, output: Path, **changes: Any) -> dict[str, Any]:
    stage = stage_of(folder, file, **changes)
    summary: dict[str, Any] = stage.run(context_of(stage, output))
    return summary


def test_a_set_of_a_file_is_that_of_the_teacher_itself_and_no_teacher_runs(
    folder: Path, lines: Lines, tmp_path: Path
) -> None:
    file = write(lines, tmp_path / "said.parquet")
    summary = stored(folder, file, tmp_path / "of_file")
    assert summary["teacher_rows"] == 0
    write_sets(folder, tmp_path / "own", task="clm", outputs=["top_k"], top_k=K)
    for part, count in {"train": 90, "validation": 20}.items():
        mine, own = (
            OutputSet.open(str(tmp_path / name / "teacher_0" / "corpus_0" / part)).read(range(count))
            for name in ("of_file", "own")
        )
        for found, expected in zip(mine["top_k_ids"], own["top_k_ids"], strict=True):
            assert np.array_equal(found, expected)
        for name in ("top_k_log_probs", "top_k_log_tails"):
            for found, expected in zip(mine[name], own[name], strict=True):
                np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)
    training = train_stage(
        folder,
        task="clm",
        method={"name": "kd", "temperature": 1.0},
        student={"architecture": "gpt2", "layers": [0, 2]},
        teacher_outputs=str(tmp_path / "of_file"),
    )
    assert any("is not run" in line for line in training.plan(ScalingConfig(), {}).lines)


def test_the_forecast_names_the_file_and_another_file_makes_another_stage(
    folder: Path, lines: Lines, tmp_path: Path
) -> None:
    file = write(lines, tmp_path / "said.parquet")
    stage = stage_of(folder, file)
    plan = stage.plan(ScalingConfig(), {}).lines
    assert plan[-1] == f"the likeliest ids are those of {file}; no teacher runs"
    before = stage.identity(ScalingConfig())
    write([{**line, "log_probs": np.subtract(line["log_probs"], 0.1).tolist()} for line in lines], file)
    assert stage.identity(ScalingConfig()) != before
    assert "top_k_file" not in stage_of(folder, file, top_k_file=None).identity(ScalingConfig())


def test_a_capture_goes_on_after_the_shards_that_it_has(folder: Path, lines: Lines, tmp_path: Path) -> None:
    file = write(lines, tmp_path / "said.parquet")
    broken = write([*lines[:85], {**lines[85], "row": 99}, *lines[86:]], tmp_path / "broken.parquet")
    # Shards have 40 rows, so that two are finished when row 85 of the third is met.
    output, whole = tmp_path / "output", file.read_bytes()
    stage = stage_of(folder, file)
    run = run_of(stage, 0, context_of(stage, output))
    file.write_bytes(broken.read_bytes())
    with pytest.raises(ValueError, match="it has row 99 of train where row 85 of train belongs"):
        capture(run, Share())
    finished = {path: path.stat().st_mtime_ns for path in output.rglob("*.arrow") if "00002" not in path.name}
    assert len(finished) == 2
    file.write_bytes(whole)
    assert capture(run, Share()) == 0
    assert all(path.stat().st_mtime_ns == before for path, before in finished.items())
    assert len(OutputSet.open(str(output / "teacher_0" / "corpus_0" / "train")).read(range(90))["top_k_ids"]) == 90


def changed(row: int, **columns: Callable[[Any], Any]) -> Callable[[Lines], Lines]:
    def change(lines: Lines) -> Lines:
        new = {name: make(lines[row][name]) for name, make in columns.items()}
        return [*lines[:row], {**lines[row], **new}, *lines[row + 1 :]]

    return change


def set_first(value: Any, place: int = 0) -> Callable[[list[list[Any]]], list[list[Any]]]:
    """The lists of a row with another value in its first token's."""
    return lambda lists: [[*lists[0][:place], value, *lists[0][place + 1 :]], *lists[1:]]


FAULTS: dict[str, tuple[Callable[[Lines], Lines], str]] = {
    "an id beyond the vocabulary": (
        changed(3, ids=set_first(VOCABULARY)),
        f"row 3 of train has the id {VOCABULARY}, the teacher's vocabulary {VOCABULARY} ids",
    ),
    "an id below 0": (changed(3, ids=set_first(-1)), "row 3 of train has the id -1"),
    "tokens of another tokenizer": (
        changed(4, input_ids=lambda ids: [ids[0], ids[1] + 1, *ids[2:]]),
        "the tokens of row 4 of train are others than the corpus's: its tokenizer or text is another",
    ),
    "a row that is too short": (
        changed(5, ids=lambda ids: ids[:-1], log_probs=lambda kept: kept[:-1]),
        r"row 5 of train has ids of \d+ tokens and log_probs of \d+, the corpus \d+ tokens",
    ),
    "another number of ids": (changed(6, ids=lambda ids: [ids[0][:-1], *ids[1:]]), "row 6 of train has 7 ids for a"),
    "an id twice": (changed(7, ids=lambda ids: [[ids[0][1], *ids[0][1:]], *ids[1:]]), "row 7 of train has an id twice"),
    "a probability above 1": (
        changed(8, log_probs=set_first(0.5)),
        r"row 8 of train has the log-probability 0\.5; none is above 0",
    ),
    "no number": (changed(8, log_probs=set_first(float("nan"))), "row 8 of train has the log-probability nan"),
    "ids that are not sorted": (
        changed(9, log_probs=lambda kept: [kept[0][::-1], *kept[1:]]),
        "row 9 of train has ids that are not sorted, the likeliest first",
    ),
    "probabilities of more than 1": (
        changed(9, log_probs=lambda kept: [[-0.1] * K, *kept[1:]]),
        r"row 9 of train has probabilities of one token that add up to 7\.2",
    ),
    "a row twice": (
        lambda lines: [*lines[:6], lines[5], *lines[7:]],
        "it has row 5 of train where row 6 of train belongs; each row is there once",
    ),
    "rows in another order": (
        lambda lines: [*lines[:5], lines[6], lines[5], *lines[7:]],
        "it has row 6 of train where row 5 of train belongs",
    ),
    "validation rows first": (
        lambda lines: [*lines[90:], *lines[:90]],
        "it has row 0 of validation where row 0 of train belongs",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_such_file_is_refused_in_one_line(folder: Path, lines: Lines, tmp_path: Path, fault: str) -> None:
    change, message = FAULTS[fault]
    file = write(change(lines), tmp_path / "said.parquet")
    with pytest.raises(ValueError, match=message) as error:
        stored(folder, file, tmp_path / "output")
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"top_k_file is {str(file)!r}, but ")


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (
            lambda lines: lines[:-1],
            {},
            "which has 109 rows, but the corpus has 110; give each row of train and validation",
        ),
        (
            lambda lines: [{**line, "ids": line["ids"][0]} for line in lines],
            {},
            r"which has list<.*> in column 'ids'; its",
        ),
        (lambda lines: [{"part": "train", "row": 0}], {}, "which has no column 'input_ids'; its columns are part"),
        (lambda lines: lines, {"top_k": VOCABULARY + 1}, r"top_k is 62, but teachers\.0 has 61 token ids; lower it"),
        (lambda lines: lines, {"task": "mlm"}, "top_k_file holds the likeliest ids of a causal model; write task: clm"),
        (lambda lines: lines, {"outputs": ["logits"]}, "write task: clm and outputs"),
        (lambda lines: lines, {"top_k_file": "nowhere"}, "which is not a file; give the path of a Parquet file"),
    ],
)
def test_what_can_be_told_before_the_run_is(
    folder: Path, lines: Lines, tmp_path: Path, make: Callable[[Lines], Lines], changes: dict[str, Any], message: str
) -> None:
    file = write(make(lines), tmp_path / "said.parquet")
    with pytest.raises(ValueError, match=message):
        stage_of(folder, file, **changes).plan(ScalingConfig(), {})


def test_a_corpus_of_prompts_and_completions_is_refused(
    folder: Path, lines: Lines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = stage_of(folder, write(lines, tmp_path / "said.parquet"))
    monkeypatch.setattr(Corpus, "columns", {LOSS_SPANS: Column("int64", "list")})
    with pytest.raises(ValueError, match="but of this corpus only completions are stored; leave it out"):
        stage.plan(ScalingConfig(), {})


def test_a_file_that_is_no_parquet_file_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "said.parquet").write_text("no")
    with pytest.raises(ValueError, match="which is not a Parquet file; write one with pyarrow or pandas"):
        stage_of(folder, tmp_path / "said.parquet").plan(ScalingConfig(), {})
