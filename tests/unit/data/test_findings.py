"""What a user is told of a corpus that was made: what was left out and why, and what looks wrong."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raydistill.config.named import EncodingSpec, SourceSpec
from raydistill.config.sections import ScalingConfig
from raydistill.data import encoding, findings
from raydistill.data.corpus_building import binarize
from raydistill.data.findings import Finding
from raydistill.data.input_splits import WeightedSource
from raydistill.data.sources import _files
from raydistill.stages._base import StageContext
from raydistill.stages.binarize import _tell
from toys.tracker import MemoryTracker
from toys.words import make_tokenizer

CLASSES = {"name": "classification", "labels": ["red", "green", "blue"], "max_length": 20}


def here(task: Any, items: Any, schema: Any, **_options: Any) -> Any:
    """In place of ``run_tasks``: the tasks one after the other in this process, without Ray."""
    for item in items:
        for table in task(item):
            assert table.schema == schema
            yield table


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """From sources and an encoding to what is told of the corpus."""
    monkeypatch.setattr(encoding, "run_tasks", here)
    monkeypatch.setenv("RAY_ADDRESS", "none is asked")
    make_tokenizer().save_pretrained(tmp_path / "tokenizer")

    def make(source: dict[str, Any], encode: Any, *, weight: float = 1.0, validation: Any = 0.0) -> list[Finding]:
        found: list[Finding] = []
        binarize(
            sources=[WeightedSource(SourceSpec.parse(source), weight)],
            encoding=EncodingSpec.parse(encode),
            tokenizer_folder=str(tmp_path / "tokenizer"),
            output=str(tmp_path / "out"),
            validation=SourceSpec.parse(validation) if isinstance(validation, dict) else validation,
            tell=found.extend,
        )
        return found

    return make


def words(number: int) -> str:
    return " ".join(f"w{place}" for place in np.random.default_rng(number).integers(5, 61, 14))


def labelled(tmp_path: Path, rows: list[str], name: str = "a.tsv") -> dict[str, Any]:
    (tmp_path / name).write_text("\n".join(["text\tlabel", *rows, ""]))
    return {"name": "delimited", "path": str(tmp_path / name), "label": "label", "short_lines": "skip"}


@pytest.mark.parametrize("size", [60, 10_000])
def test_each_reason_is_told_with_its_share_and_the_line_of_its_first_example(tmp_path, told, monkeypatch, size):
    monkeypatch.setattr(_files, "RANGE_BYTES", size)
    rows = [f"{words(number)}\t{('red', 'green', 'blue')[number % 3]}" for number in range(120)]
    rows[30:30] = ["", f"{words(1)}\tred\tblue"]
    rows[50:50] = [words(2), words(3)]
    labels = {"red": "red", "green": "green", "blue": "blue"}
    found = told({**labelled(tmp_path, rows), "labels": labels}, CLASSES)
    assert found == [
        Finding(
            f"left out: 1 of 123 examples (0.81 %), long line, the first at {tmp_path}/a.tsv line 33",
            False,
            "left_out/long_line",
            1,
        ),
        Finding(
            f"left out: 2 of 123 examples (1.6 %), short line, the first at {tmp_path}/a.tsv line 52",
            True,
            "left_out/short_line",
            2,
        ),
    ]


def test_rows_that_the_encoding_leaves_out_are_told_by_the_text_that_they_are_of(tmp_path, told):
    texts = [words(0), "w5 w6", f"{words(1)} {words(2)} {words(3)}", "w7", words(4)]
    (tmp_path / "a.txt").write_text("\n\n".join(texts))
    encode = {"name": "mlm", "max_length": 32, "min_length": 6}
    found = told({"name": "text", "path": str(tmp_path / "a.txt")}, encode)
    assert [one.text for one in found] == [f"left out: 2 of 6 rows (33 %), short, the first at {tmp_path}/a.txt line 3"]


def test_of_packed_rows_no_text_is_named(tmp_path, told):
    (tmp_path / "a.txt").write_text(f"{words(0)} w5 w6")
    tokenizer = make_tokenizer()
    tokenizer.eos_token = "[SEP]"
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    encode = {"name": "clm", "max_length": 15, "min_length": 6, "pack": True}
    found = told({"name": "text", "path": str(tmp_path / "a.txt")}, encode)
    assert [one.text for one in found] == ["left out: 1 of 2 rows (50 %), short"]


def test_a_question_that_is_left_out_is_told_by_its_place(tmp_path, told):
    entry = {"question": "w5 w6", "context": words(0), "answers": [{"text": words(0)[:3], "answer_start": 1}]}
    right = {**entry, "answers": []}
    (tmp_path / "a.json").write_text(json.dumps({"data": [right, entry]}))
    encode = {"name": "qa", "max_length": 30, "stride": 4}
    [found] = told({"name": "squad", "path": str(tmp_path / "a.json")}, encode)
    assert (
        found.text == f"left out: 1 of 2 examples (50 %), misplaced answer, the first at {tmp_path}/a.json question 2"
    )


def test_a_text_of_over_a_megabyte_is_told_by_its_line(tmp_path, told):
    (tmp_path / "a.txt").write_text("\n".join([words(0), "", words(1), *["w5 w6"] * 200_000]))
    encode = {"name": "mlm", "max_length": 32}
    [found, *_] = [one for one in told({"name": "text", "path": str(tmp_path / "a.txt")}, encode) if one.is_warning]
    assert found.text == (
        f"texts of over 1 MB: 1, the first at {tmp_path}/a.txt line 3; unit: line makes a text of each line, "
        "and plain text of over 16 MB is several texts"
    )


def test_a_class_without_rows_and_a_single_class_are_warned_of_by_part(tmp_path, told):
    train = labelled(tmp_path, [f"{words(number)}\t{('red', 'blue')[number % 2]}" for number in range(20)])
    dev = labelled(tmp_path, [f"{words(number)}\tblue" for number in range(20, 30)], "b.tsv")
    found = told(train, CLASSES, validation=dev)
    assert [one.text for one in found if one.is_warning] == [
        "train: no row is of the class 'green'",
        "validation: all rows are of the class 'blue', which teaches and tells nothing",
    ]


def test_a_tag_without_words_is_warned_of(tmp_path, told):
    (tmp_path / "a.conll").write_text("w5 O\nw6 B-PER\n\nw7 O\n")
    encode = {"name": "ner", "labels": ["O", "B-PER", "B-LOC", "I-LOC"], "max_length": 20}
    [found] = told({"name": "conll", "path": str(tmp_path / "a.conll")}, encode)
    assert found == Finding("train: no row is of the class 'B-LOC', 'I-LOC'", True)


def test_equal_rows_are_counted_but_not_those_of_a_weight(tmp_path, told):
    rows = [f"{words(number % 8)}\t{('red', 'green', 'blue')[number % 3]}" for number in range(10)]
    source = labelled(tmp_path, rows)
    [found] = told(source, CLASSES)
    assert found == Finding("train: 2 of 10 rows (20 %) equal an earlier one", True, "equal_rows/train", 2)
    assert told(source, CLASSES, weight=2.0) == []


@pytest.mark.parametrize("most", [10_000_000, 500])
def test_equal_rows_of_very_many_are_counted_by_a_sample(monkeypatch, most):
    monkeypatch.setattr(findings, "_MOST_HASHES", most)
    hashes, random = findings._Hashes(), np.random.default_rng(0)
    for _ in range(20):
        lengths = random.integers(2, 9, 500).astype(np.int32)
        # The first 100 rows of each block are those of all blocks.
        lengths[:100] = 5
        ids = random.integers(0, 30_000, int(lengths.sum()))
        ids[:500] = np.arange(500)
        hashes.add(ids.astype(np.int32), lengths)
    [found] = hashes.told("train")
    if most > 10_000:
        assert found.text.startswith("train: 1900 of 10000 rows (19 %) equal")
    else:
        assert len(np.concatenate(hashes._kept)) <= most
        assert found.text.startswith("train: about ")
        assert 1300 < found.number < 2500


def test_rows_of_the_same_tokens_in_another_order_or_with_another_cut_are_not_equal():
    hashes = findings._Hashes()
    hashes.add(np.array([1, 2, 3, 2, 1, 3, 0, 1, 2, 3, 1, 2], dtype=np.int32), np.array([3, 3, 4, 2], dtype=np.int32))
    assert list(hashes.told("train")) == []


def test_sources_that_lose_all_rows_are_refused_with_the_reasons(tmp_path, told):
    source = {**labelled(tmp_path, ["a\tx", "b\tx", "\tx"]), "labels": {"x": None, "y": "red"}}
    with pytest.raises(ValueError, match=r"0 texts give no row \(2 no label, 1 no text\); lower"):
        told(source, CLASSES)


def test_findings_are_printed_and_tracked(tmp_path):
    tracker, lines = MemoryTracker(), []
    tracker.start_run("run")
    context = StageContext("job", 0, ScalingConfig(), tmp_path, {}, tracker, "run", echo=lines.append)
    _tell(context, [Finding("left out: 1", False, "left_out/short", 1), Finding("train: none", True)])
    assert lines == ["left out: 1", "warning: train: none"]
    assert tracker.runs["run"].metrics == {"left_out/short": [(0, 1.0)]}
    assert tracker.runs["run"].artifacts == ["findings.txt"]
