"""What is known of a corpus's rows is checked as soon as it is made, before anything reads it."""

from pathlib import Path
from typing import Any

import pytest

from raydistill.config.sections import ScalingConfig
from raydistill.stages import _corpora
from raydistill.stages._base import CorpusFacts, Input
from toys.capture import train_stage, write_labelled
from toys.classifiers import CLASSES


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("rows")
    write_labelled(found)
    return found


def refused(folder: Path, message: str, **changes: Any) -> None:
    """A training is planned before its corpus is made and refused once it is."""
    of = {**changes.pop("of", {}), "corpus": "corpus"}
    stage = train_stage(folder, corpus=[of], **changes)
    facts = CorpusFacts("classification", 61, 40, labels=CLASSES, columns=_columns(folder))
    stage.plan(ScalingConfig(), {"corpus": Input(facts)})
    with pytest.raises(ValueError, match=message) as error:
        stage.plan(ScalingConfig(), {"corpus": Input(facts, folder / "corpus")})
    assert len(str(error.value).splitlines()) == 1


def _columns(folder: Path) -> Any:
    return _corpora.of_folder(folder / "corpus").columns


def test_more_few_shot_rows_than_a_class_has_are_refused_once_the_corpus_is_there(folder: Path) -> None:
    refused(folder, r"few_shot is 80, but corpus '.*train' has \d+ rows of class 'red'; lower it", of={"few_shot": 80})


def test_a_batch_that_is_larger_than_the_corpus_is_told_to_be_lowered(folder: Path) -> None:
    message = (
        "training.batch_size is 480, but an epoch has 90 rows, fewer than the 120 that the micro-batches of a step "
        "need; lower training.batch_size to 90"
    )
    refused(folder, message, training={"batch_size": 480, "micro_batch_size": 4})


def test_a_batch_of_more_than_all_few_shot_rows_is_refused_before_the_corpus_is_made(folder: Path) -> None:
    small = {"batch_size": 23, "micro_batch_size": 1}
    stage = train_stage(folder, corpus=[{"corpus": "corpus", "few_shot": 2}], training=small)
    facts = CorpusFacts("classification", 61, 40, labels=CLASSES, columns=_columns(folder))
    with pytest.raises(ValueError, match=r"is 23, but an epoch has 6 rows, .* lower training\.batch_size to 6"):
        stage.plan(ScalingConfig(), {"corpus": Input(facts)})


def test_a_batch_that_its_rows_fill_is_taken(folder: Path) -> None:
    stage = train_stage(folder, training={"batch_size": 200, "micro_batch_size": 8})
    assert stage.plan(ScalingConfig(), {}).student is not None


@pytest.mark.parametrize(("key", "what"), [("precision", "train"), ("teacher_precision", "run teachers")])
def test_half_precision_is_refused_on_cpus(folder: Path, key: str, what: str) -> None:
    message = f"training.{key} is 'fp16', which CPUs do not {what} in; write auto, fp32 or bf16, or set scaling.use_gpu"
    with pytest.raises(ValueError, match=message):
        train_stage(folder, training={key: "fp16"}).plan(ScalingConfig(), {})
