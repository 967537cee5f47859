"""Captures that take teachers' scores from a published file, of corpora that binarize made of the train set."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification

from raydistill import draws
from raydistill.config.named import EncodingSpec, SourceSpec
from raydistill.config.sections import ScalingConfig
from raydistill.data.corpus import Corpus
from raydistill.data.corpus_building import binarize
from raydistill.data.input_splits import WeightedSource
from raydistill.data.teacher_outputs import OutputSet
from toys.capture import capture_stage, context_of, save_teacher
from toys.classifiers import CLASSES
from toys.models import VOCABULARY
from toys.words import make_tokenizer

ROWS = {"train": 300, "dev": 25}
LENGTH = 12
TEACHERS = ("teacher", "other")


def words(name: str) -> NDArray[np.int64]:
    """Ids (rows, 12) of the texts of a file."""
    row, place = np.arange(ROWS[name])[:, None], np.arange(LENGTH)
    return 5 + draws.integers(name, row, place, high=VOCABULARY - 5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Path:
    """Two teachers, ``shared``, a corpus of which a fifth is held out, and ``apart``, with another file held out."""
    found = tmp_path_factory.mktemp("score_file")
    make_tokenizer().save_pretrained(found / "tokenizer")
    for number, name in enumerate(TEACHERS):
        save_teacher(found / name, seed=number)
    for name in ROWS:
        lines = [f"{' '.join(f'w{word}' for word in row)},{CLASSES[row[0] % 3]}" for row in words(name)]
        (found / f"{name}.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    for name, validation in {"shared": 0.2, "apart": source(found, "dev")}.items():
        binarize(
            sources=[WeightedSource(source(found, "train"))],
            encoding=EncodingSpec.parse({"name": "classification", "labels": list(CLASSES), "max_length": 20}),
            tokenizer_folder=str(found / "tokenizer"),
            output=str(found / name),
            validation=validation,
            rows_per_shard=80,
            seed=3,
        )
    np.save(found / "scores.npy", published(found))
    return found


def source(folder: Path, name: str) -> Any:
    return SourceSpec.parse({"name": "delimited", "path": str(folder / f"{name}.csv"), "label": "label"})


def published(folder: Path) -> NDArray[np.float64]:
    """The formula of section A10 of the specification over the rows of train.csv, with transformers alone."""
    ids = torch.from_numpy(np.pad(words("train"), ((0, 0), (1, 1)), constant_values=((2, 2), (2, 3))))
    columns = []
    for name in TEACHERS:
        # Little dropout: random weights tell so little about a text that much of it would drown the order of the rows.
        dropout = {"hidden_dropout_prob": 0.01, "attention_probs_dropout_prob": 0.01}
        teacher = AutoModelForSequenceClassification.from_pretrained(folder / name, **dropout).train()
        torch.manual_seed(17)
        with torch.no_grad():
            p = torch.stack([teacher(input_ids=ids).logits.double().softmax(-1) for _ in range(16)]).mean(0)
        columns.append(1 + (p * p.log()).sum(-1) / math.log(3))
    return torch.stack(columns, dim=1).numpy()


def stage_of(folder: Path, file: Path, corpus: str = "shared") -> Any:
    return capture_stage(
        folder,
        corpus=str(folder / corpus),
        teachers=[str(folder / name) for name in TEACHERS],
        outputs=["logits", "dropout_scores"],
        dropout_passes=4,
        dropout_scores_file=str(file),
    )


def set_of(output: Path, teacher: int, part: str) -> dict[str, Any]:
    found = OutputSet.open(str(output / f"teacher_{teacher}" / "corpus_0" / part))
    return found.read(range(len(found)))


def test_each_row_of_a_split_corpus_has_the_scores_of_its_row_in_the_file(folder: Path, tmp_path: Path) -> None:
    stage = stage_of(folder, folder / "scores.npy")
    lines = stage.plan(ScalingConfig(), {}).lines
    assert f"dropout_scores of 300 rows are those of {folder / 'scores.npy'}" in lines
    stage.run(context_of(stage, tmp_path, num_workers=2))
    row_of = {tuple(row): number for number, row in enumerate(words("train").tolist())}
    scores = np.load(folder / "scores.npy").astype(np.float32)
    met = []
    for part in ("train", "validation"):
        corpus = Corpus.open(str(folder / "shared" / part))
        rows = [row_of[tuple(ids[1:-1].tolist())] for ids in corpus.read_rows(range(len(corpus)))]
        for teacher in range(2):
            assert np.array_equal(set_of(tmp_path, teacher, part)["dropout_scores"], scores[rows, teacher])
        met += rows
    assert sorted(met) == list(range(300))


def test_rows_of_a_validation_source_have_scores_of_passes(folder: Path, tmp_path: Path) -> None:
    stage = stage_of(folder, folder / "scores.npy", "apart")
    stage.run(context_of(stage, tmp_path))
    scores = np.load(folder / "scores.npy").astype(np.float32)
    for teacher in range(2):
        assert np.array_equal(set_of(tmp_path, teacher, "train")["dropout_scores"], scores[:, teacher])
        validation = set_of(tmp_path, teacher, "validation")
        p = torch.from_numpy(validation["logits"]).double().softmax(-1)
        single = (1 + (p * p.log()).sum(-1) / math.log(3)).numpy()
        assert len(single) == 25
        assert not np.isclose(validation["dropout_scores"], single, atol=1e-3).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("shuffled", r"does not fit teachers\.0: over 300 rows its scores have a rank correlation of -?0\.\d\d with"),
        ("swapped", r"does not fit teachers\.0: over 300 rows its scores have a rank correlation of -?0\.\d\d with"),
        ("short", "which has 299 rows, but the train set has 300; give scores of all its rows and of no others"),
        ("long", "which has 325 rows, but the train set has 300; give scores of all its rows and of no others"),
    ],
)
def test_a_wrong_file_ends_a_capture_with_one_line_and_leaves_no_scores(
    folder: Path, tmp_path: Path, wrong: str, message: str
) -> None:
    scores = np.load(folder / "scores.npy")
    made = {
        "shuffled": np.random.default_rng(0).permutation(scores),
        "swapped": scores[:, ::-1],
        "short": scores[1:],
        "long": np.concatenate([scores, scores[:25]]),
    }
    np.save(tmp_path / "wrong.npy", made[wrong])
    stage = stage_of(folder, tmp_path / "wrong.npy")
    with pytest.raises(ValueError, match=message) as error:
        stage.run(context_of(stage, tmp_path / "out"))
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "out").rglob("*.arrow"))
