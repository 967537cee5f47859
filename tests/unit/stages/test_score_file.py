"""A published file of scores in a capture stage: what is refused before it runs, and what its actors compute."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raydistill.config.sections import ScalingConfig
from raydistill.data import teacher_inference
from raydistill.data.corpus import MANIFEST
from raydistill.data.teacher_inference import TeacherOutputs
from raydistill.data.teacher_outputs import OutputSet
from raydistill.models.classes import with_classes
from raydistill.models.dropout_scores import single_pass_scores
from raydistill.stages._base import CorpusFacts, Input, ModelFacts
from toys.capture import capture_stage, context_of, outputs_here, run_of, write_labelled
from toys.classifiers import CLASSES
from toys.models import toy_bert

SCORES = np.random.default_rng(0).random((90, 1))
OTHER = {"name": "delimited", "path": "dev.csv"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of 90 rows to train on, and 20 of another source."""
    found = tmp_path_factory.mktemp("score_file")
    write_labelled(found)
    for part, rows in {"train": 90, "validation": 20}.items():
        path = found / "corpus" / part / MANIFEST
        content = json.loads(path.read_text())
        content["split"] = {"part": part, "validation": OTHER, "seed": 0}
        content["sources"] = [{"source": {"name": "delimited"}, "weight": 1.0, "fingerprints": {part: ""}}]
        path.write_text(json.dumps({**content, "counts": {"texts": rows}}))
    np.save(found / "scores.npy", SCORES)
    return found


def stage_of(folder: Path, file: Path, **changes: Any) -> Any:
    return capture_stage(folder, **{"outputs": ["dropout_scores"], "dropout_scores_file": str(file), **changes})


def test_a_file_that_fits_is_told_of(folder: Path) -> None:
    lines = stage_of(folder, folder / "scores.npy").plan(ScalingConfig(), {}).lines
    assert lines[-1] == f"dropout_scores of 90 rows are those of {folder / 'scores.npy'}"


@pytest.mark.parametrize(
    ("scores", "changes", "message"),
    [
        (SCORES[:-1], {}, "which has 89 rows, but the train set has 90; give scores of all its rows and of no others"),
        (np.tile(SCORES, 2), {}, "which has scores of 2 teachers, but teachers has 1; give one column for each"),
        (SCORES + 0.5, {}, "scores lie between 0 and 1"),
        (SCORES, {"outputs": ["logits"]}, "but outputs has logits; add dropout_scores, or leave the file out"),
        (None, {}, r"which is not a file; give the path of a \.npy file"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_before_anything_runs(
    folder: Path, tmp_path: Path, scores: Any, changes: dict[str, Any], message: str
) -> None:
    if scores is not None:
        np.save(tmp_path / "scores.npy", scores)
    with pytest.raises(ValueError, match=message) as error:
        stage_of(folder, tmp_path / "scores.npy", **changes).plan(ScalingConfig(), {})
    assert "\n" not in str(error.value)


def test_a_file_is_of_a_single_corpus(folder: Path) -> None:
    corpora = [str(folder / "corpus"), str(folder / "corpus")]
    with pytest.raises(ValueError, match="which is for one train set, but corpus names 2; capture each by itself"):
        stage_of(folder, folder / "scores.npy", corpus=corpora).plan(ScalingConfig(), {})


KNOWN = CorpusFacts("classification", 61, 40, rows=90, tokens=2000, labels=CLASSES, validation_rows=20)


@pytest.mark.parametrize("corpus", [KNOWN, replace(KNOWN, rows=70), replace(KNOWN, rows=None, validation_rows=None)])
def test_the_length_is_compared_with_a_corpus_of_the_job_as_far_as_it_is_known(
    folder: Path, corpus: CorpusFacts
) -> None:
    teacher = Input(ModelFacts({"": with_classes(toy_bert(2, dropout=0.1).config, CLASSES)}))
    stage = stage_of(folder, folder / "scores.npy", corpus="texts", teachers=["trained"])
    earlier = {"texts": Input(corpus), "trained": teacher}
    assert stage.plan(ScalingConfig(), earlier).lines[-1].startswith("dropout_scores are those of 90 rows of ")
    with pytest.raises(
        ValueError, match="which has 90 rows, but the train set has 80, or 85 with what was held out of it"
    ):
        stage.plan(ScalingConfig(), {**earlier, "texts": Input(replace(KNOWN, rows=80, validation_rows=5))})


def test_another_file_of_the_same_name_makes_another_stage(folder: Path, tmp_path: Path) -> None:
    stage = stage_of(folder, tmp_path / "scores.npy")
    found = []
    for scores in (SCORES, SCORES / 2):
        np.save(tmp_path / "scores.npy", scores)
        found.append(stage.identity(ScalingConfig()))
    assert found[0] != found[1]
    assert capture_stage(folder).identity(ScalingConfig()) == capture_stage(folder).identity(ScalingConfig())


def test_actors_compute_scores_of_one_pass_where_a_file_has_those_of_passes(folder: Path, tmp_path: Path) -> None:
    stage = stage_of(folder, folder / "scores.npy", outputs=["logits", "dropout_scores"])
    outputs = TeacherOutputs(run_of(stage, 0, context_of(stage, tmp_path)))
    train, validation = (outputs.of(number, np.arange(20)) for number in range(2))
    single = [single_pass_scores(torch.from_numpy(part["logits"])).numpy() for part in (train, validation)]
    assert np.array_equal(train["dropout_scores"], single[0])
    assert not np.isclose(validation["dropout_scores"], single[1], atol=1e-3).all()
    alone = stage_of(folder, folder / "scores.npy")
    outputs = TeacherOutputs(run_of(alone, 0, context_of(alone, tmp_path)))
    np.testing.assert_allclose(outputs.of(0, np.arange(20))["dropout_scores"], single[0], atol=1e-6)


def test_a_set_says_which_file_its_scores_are_of_and_one_of_passes_nothing(folder: Path, tmp_path: Path) -> None:
    stage = stage_of(folder, folder / "scores.npy")
    train, validation = run_of(stage, 0, context_of(stage, tmp_path)).headers
    assert set(train.options) - set(validation.options) == {"dropout_scores_file"}
    assert train.options["dropout_scores_file"]["column"] == 0
    plain = capture_stage(folder, outputs=["dropout_scores"])
    assert run_of(plain, 0, context_of(plain, tmp_path)).headers[1] == validation


def single_of(folder: Path, tmp_path: Path) -> Any:
    """Scores (90,) of one pass of the teacher."""
    stage = stage_of(folder, folder / "scores.npy")
    return TeacherOutputs(run_of(stage, 0, context_of(stage, tmp_path))).of(0, np.arange(90))["dropout_scores"]


def test_a_files_scores_are_stored_and_those_of_passes_where_it_has_none(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher_inference, "_outputs", outputs_here)
    of_file = (0.9 * single_of(folder, tmp_path) + 0.01)[:, None]
    np.save(tmp_path / "scores.npy", of_file)
    stage = stage_of(folder, tmp_path / "scores.npy")
    stage.run(context_of(stage, tmp_path / "out"))
    train, validation = (
        OutputSet.open(str(tmp_path / "out/teacher_0/corpus_0" / part)) for part in ("train", "validation")
    )
    assert np.array_equal(train.read(range(90))["dropout_scores"], of_file[:, 0].astype(np.float32))
    plain = capture_stage(folder, outputs=["dropout_scores"])
    plain.run(context_of(plain, tmp_path / "plain"))
    of_passes = OutputSet.open(str(tmp_path / "plain/teacher_0/corpus_0/validation"))
    assert np.array_equal(validation.read(range(20))["dropout_scores"], of_passes.read(range(20))["dropout_scores"])
    assert validation.header == of_passes.header


@pytest.mark.parametrize("wrong", ["shuffled", "short"])
def test_a_wrong_file_ends_a_capture_with_one_line_and_leaves_no_scores(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    monkeypatch.setattr(teacher_inference, "_outputs", outputs_here)
    single = single_of(folder, tmp_path)[:, None]
    made, message = {
        "shuffled": (
            np.random.default_rng(0).permutation(single),
            r"does not fit teachers\.0: over 90 rows its scores",
        ),
        "short": (single[1:], "which has 89 rows, but the train set has 90"),
    }[wrong]
    np.save(tmp_path / "scores.npy", made)
    stage = stage_of(folder, tmp_path / "scores.npy")
    with pytest.raises(ValueError, match=message) as error:
        stage.run(context_of(stage, tmp_path / "out"))
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "out/teacher_0/corpus_0/train").rglob("*.arrow"))
