"""Published files of teachers' scores: what is read, which rows they mean, and how their order is checked."""

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from raydistill.data.corpus import MANIFEST, Corpus
from raydistill.data.published.score_files import (
    COMPARED_ROWS,
    KIND,
    ScoreColumn,
    rank_correlation,
    read_scores,
    replaced,
    rows_of_source,
    scores_of_parts,
    sha256_of,
)
from toys.corpus import random_rows, write_corpus

SCORES = np.random.default_rng(0).random((12, 2))


def saved(folder: Path, scores: Any = SCORES) -> str:
    np.save(folder / "scores.npy", scores)
    return str(folder / "scores.npy")


def with_value(row: int, teacher: int, value: float) -> NDArray[Any]:
    changed = SCORES.copy()
    changed[row, teacher] = value
    return changed


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_scores_of_any_float_type_are_read(tmp_path: Path, dtype: Any) -> None:
    found = read_scores(saved(tmp_path, SCORES.astype(dtype)), num_teachers=2)
    assert found.dtype == np.float32
    assert np.array_equal(found, SCORES.astype(dtype).astype(np.float32))


def test_scores_beyond_0_and_1_by_rounding_are_taken_for_0_and_1(tmp_path: Path) -> None:
    found = read_scores(saved(tmp_path, np.array([[1 + 1e-6, -1e-6]])), num_teachers=2)
    assert found.tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (SCORES[:, 0], r"which holds float64 \(12,\); it must be one array \(rows, teachers\) of floats"),
        (SCORES > 0.5, r"which holds bool \(12, 2\); it must be one array"),
        (SCORES[None], r"which holds float64 \(1, 12, 2\)"),
        (SCORES[:, [0, 1, 1]], "which has scores of 3 teachers, but teachers has 2; give one column for each"),
        (with_value(3, 1, np.nan), "whose row 3 has nan for teacher 1; scores lie between"),
        (with_value(5, 0, 1.5), "whose row 5 has 1.5 for teacher 0; scores lie between"),
        (-SCORES, "whose row 0 has -0.6"),
    ],
)
def test_an_array_that_holds_no_scores_of_these_teachers_is_refused(tmp_path: Path, scores: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        read_scores(saved(tmp_path, scores), num_teachers=2)
    assert str(error.value).startswith(f"dropout_scores_file is {str(tmp_path / 'scores.npy')!r}")
    assert "\n" not in str(error.value)


class _Program:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    made, path = tmp_path / "made", tmp_path / "scores.npy"
    contents = [pickle.dumps(_Program(made)), b"", b"\x93NUMPY", b"PK\x03\x04 no archive"]
    np.save(path, np.array([[_Program(made)]], dtype=object), allow_pickle=True)
    contents.append(path.read_bytes())
    np.save(path, SCORES)
    contents.append(path.read_bytes()[:-8])
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"which holds no array of numbers; write one with numpy\.save$"):
            read_scores(str(path), num_teachers=1)
    np.savez(path.with_suffix(".npz"), SCORES)
    with pytest.raises(ValueError, match="which holds an archive of arrays"):
        read_scores(str(path.with_suffix(".npz")), num_teachers=2)
    with pytest.raises(ValueError, match=r"which is not a file; give the path of a \.npy file"):
        read_scores(str(tmp_path / "missing.npy"), num_teachers=2)
    assert not made.exists()


SOURCE = {"source": {"name": "delimited", "path": "train.csv"}, "weight": 1.0, "fingerprints": {"train.csv": "1"}}
OTHER = {"source": {"name": "delimited", "path": "dev.csv"}, "weight": 1.0, "fingerprints": {"dev.csv": "2"}}


def part(folder: Path, name: str, num_rows: int, validation: Any, **changes: Any) -> Corpus:
    """A corpus whose manifest says that binarize wrote it."""
    write_corpus(folder / name, random_rows(num_rows))
    path = folder / name / MANIFEST
    content = json.loads(path.read_text())
    content["split"] = {"part": name, "validation": validation, "seed": 4}
    content["sources"] = [SOURCE if name == "train" or not isinstance(validation, dict) else OTHER]
    content["counts"] = {"texts": num_rows}
    path.write_text(json.dumps({**content, **changes}))
    return Corpus.open(str(folder / name))


def test_a_train_set_beside_a_validation_source_has_the_files_rows_in_their_order(tmp_path: Path) -> None:
    parts = [part(tmp_path, name, rows, OTHER["source"]) for name, rows in {"train": 12, "validation": 5}.items()]
    found = scores_of_parts(saved(tmp_path), parts, num_teachers=2)
    assert found[1] is None
    assert np.array_equal(found[0], SCORES.astype(np.float32))


def test_many_pieces_of_a_source_follow_each_other_where_none_is_validation(tmp_path: Path) -> None:
    pieces = {**SOURCE, "fingerprints": {"train.csv[0:9]": "1", "train.csv[9:20]": "1"}}
    whole = part(tmp_path, "train", 12, OTHER["source"], sources=[pieces])
    assert np.array_equal(rows_of_source(whole, [whole]), np.arange(12))


def shares(folder: Path) -> list[Corpus]:
    """The two parts of 100 rows of which the hash with seed 4 holds a quarter out."""
    sizes = {"train": 74, "validation": 26}
    return [part(folder, name, rows, 0.25) for name, rows in sizes.items()]


def test_the_parts_of_a_split_share_the_files_rows(tmp_path: Path) -> None:
    parts = shares(tmp_path)
    train, validation = (rows_of_source(one, parts) for one in parts)
    assert train is not None
    assert validation is not None
    assert 10 < len(validation) < 40
    assert sorted([*train, *validation]) == list(range(100))
    assert (np.diff(train) > 0).all()
    assert (np.diff(validation) > 0).all()
    scores = np.random.default_rng(1).random((100, 2)).astype(np.float32)
    found = scores_of_parts(saved(tmp_path, scores), parts, num_teachers=2)
    assert np.array_equal(found[0], scores[train])
    assert np.array_equal(found[1], scores[validation])
    column = ScoreColumn(str(tmp_path / "scores.npy"), 1, 2)
    of_teacher = column.of_corpora(parts)
    assert np.array_equal(of_teacher[0], scores[train, 1])
    assert np.array_equal(of_teacher[1], scores[validation, 1])


def test_a_file_of_another_length_is_refused_with_both_lengths(tmp_path: Path) -> None:
    whole = part(tmp_path, "train", 11, OTHER["source"])
    with pytest.raises(
        ValueError, match="which has 12 rows, but the train set has 11; give scores of all its rows and"
    ) as error:
        scores_of_parts(saved(tmp_path), [whole], num_teachers=2)
    assert "\n" not in str(error.value)
    parts = shares(tmp_path / "split")
    with pytest.raises(ValueError, match="which has 12 rows, but the train set has 100; give scores"):
        scores_of_parts(saved(tmp_path), parts, num_teachers=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": {}}, "it was not made by binarize; binarize the train set"),
        ({"sources": []}, "it was not made by binarize"),
        ({"sources": [SOURCE, OTHER]}, "its sources are mixed or weighted; binarize the train set alone"),
        ({"sources": [{**SOURCE, "weight": 2.0}]}, "its sources are mixed or weighted"),
        ({"counts": {"texts": 12, "short line": 1}}, r"12 texts became 12 rows \(1 short line\); mend the source"),
        ({"counts": {"texts": 14}}, r"14 texts became 12 rows \(none dropped\); mend the source"),
        (
            {
                "sources": [{**SOURCE, "fingerprints": {"a": "", "b": ""}}],
                "split": {"part": "train", "validation": 0.1, "seed": 0},
            },
            "a share was held out of a source in 2 pieces; hold out a source of its own",
        ),
        ({"split": {"part": "train", "validation": 0.9, "seed": 0}}, "it has 12 rows, its split "),
    ],
)
def test_a_corpus_whose_rows_of_the_train_set_are_not_known_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    corpus = part(tmp_path, "train", 12, 0.0, **changes)
    with pytest.raises(ValueError, match=message) as error:
        rows_of_source(corpus, [corpus])
    assert str(error.value).startswith(
        f"dropout_scores_file follows the rows of the train set, which are not known for {corpus.uri!r}"
    )
    assert "\n" not in str(error.value)


def test_a_file_is_told_by_its_content(tmp_path: Path) -> None:
    path = saved(tmp_path)
    first = ScoreColumn(path, 0, 2).identity
    assert first == {"sha256": sha256_of(path), "column": 0}
    saved(tmp_path, SCORES / 2)
    assert ScoreColumn(path, 0, 2).identity != first
    assert sha256_of(str(tmp_path / "missing.npy")) == ""


def test_rank_correlation_follows_order_alone() -> None:
    values = np.random.default_rng(2).random(50)
    assert rank_correlation(values, np.exp(9 * values)) == pytest.approx(1.0)
    assert rank_correlation(values, -values) == pytest.approx(-1.0)
    assert rank_correlation(values, np.ones(50)) == 0.0
    assert rank_correlation(values[:1], values[:1]) == 0.0


BLOCK = 100


def blocks_of(single: NDArray[Any], *, corpus: int = 0, first: int = 0) -> Iterator[tuple[dict[str, int], Any]]:
    """What an actor makes of the rows of a corpus from ``first`` on: scores of one pass, and logits."""
    for start in range(first, len(single), BLOCK):
        rows = slice(start, min(start + BLOCK, len(single)))
        item = {"corpus": corpus, "start": start, "stop": rows.stop}
        yield item, {KIND: single[rows], "logits": np.arange(start, rows.stop)}


def noisy(single: NDArray[Any], *, seed: int = 3, noise: float = 0.1) -> NDArray[np.float32]:
    """Scores that a file may have of rows whose scores of one pass are these."""
    drawn = np.random.default_rng(seed).normal(size=len(single))
    return (single + noise * drawn).clip(0, 1).astype(np.float32)


def taken(scores: Any, *streams: Any) -> list[tuple[dict[str, int], Any]]:
    blocks = [block for stream in streams for block in stream]
    return list(replaced(blocks, [item for item, _ in blocks], scores, teacher=1))


def single_scores(num_rows: int) -> NDArray[np.float32]:
    return np.random.default_rng(num_rows).random(num_rows).astype(np.float32)


@pytest.mark.parametrize("num_rows", [30, 950, 1000, 2340])
def test_scores_of_one_pass_are_replaced_by_the_files_and_all_else_is_kept(num_rows: int) -> None:
    single = single_scores(num_rows)
    of_file = noisy(single)
    found = taken({0: of_file}, blocks_of(single))
    assert [item["start"] for item, _ in found] == list(range(0, num_rows, BLOCK))
    assert np.array_equal(np.concatenate([values[KIND] for _, values in found]), of_file)
    assert np.array_equal(np.concatenate([values["logits"] for _, values in found]), np.arange(num_rows))


def test_a_corpus_that_the_file_does_not_have_keeps_its_scores() -> None:
    single = single_scores(150)
    found = taken({0: noisy(single)}, blocks_of(single), blocks_of(single, corpus=1))
    own = [values[KIND] for item, values in found if item["corpus"] == 1]
    assert np.array_equal(np.concatenate(own), single)
    assert len(found) == 4


def drained(scores: Any, blocks: list[Any]) -> list[Any]:
    """What is handed on before a file is refused."""
    found: list[Any] = []
    with pytest.raises(ValueError, match=r"^dropout_scores_file does not fit teachers\.1: over ") as error:
        found.extend(replaced(blocks, [item for item, _ in blocks], scores, teacher=1))
    assert "\n" not in str(error.value)
    return found


@pytest.mark.parametrize("num_rows", [30, 950, 2340])
def test_of_a_shuffled_file_nothing_is_handed_on(num_rows: int) -> None:
    single = single_scores(num_rows)
    shuffled = np.random.default_rng(8).permutation(single)
    assert drained({0: shuffled}, list(blocks_of(single))) == []


@pytest.mark.parametrize("wrong", ["turned", "constant", "moved"])
def test_a_file_in_another_order_is_refused(wrong: str) -> None:
    single = single_scores(500)
    files = {"turned": 1 - single, "constant": np.full(500, 0.5, np.float32), "moved": np.roll(single, 1)}
    assert drained({0: files[wrong]}, list(blocks_of(single))) == []


def test_a_file_that_is_right_at_its_start_alone_is_refused_where_it_is_wrong() -> None:
    single = single_scores(3000)
    of_file = np.concatenate([single[:COMPARED_ROWS], np.random.default_rng(5).permutation(single[COMPARED_ROWS:])])
    assert len(drained({0: of_file}, list(blocks_of(single)))) == COMPARED_ROWS // BLOCK


def test_the_last_rows_are_compared_with_those_before_them() -> None:
    single = single_scores(COMPARED_ROWS + 20)
    # Twenty rows alone that agree as weakly as all do would tell nothing.
    weak = noisy(single, noise=0.6)
    assert rank_correlation(weak[-20:], single[-20:]) * np.sqrt(19) < 3
    assert len(taken({0: weak}, blocks_of(single))) == 11


def test_few_rows_that_an_interrupted_capture_left_are_taken_and_many_are_compared() -> None:
    single = single_scores(1900)
    shuffled = np.random.default_rng(6).permutation(single)
    assert len(taken({0: shuffled}, blocks_of(single, first=1000))) == 9
    assert drained({0: shuffled}, list(blocks_of(single, first=800))) == []


def test_a_teacher_that_agrees_weakly_is_told_from_chance() -> None:
    single = single_scores(1000)
    weak = noisy(single, noise=0.9)
    assert 0.1 < rank_correlation(weak, single) < 0.4
    assert taken({0: weak}, blocks_of(single))
    by_chance = 0
    for seed in range(400):
        try:
            taken({0: np.random.default_rng(seed).permutation(single)}, blocks_of(single))
            by_chance += 1
        except ValueError:
            pass
    # One in 700 is expected.
    assert by_chance <= 4
