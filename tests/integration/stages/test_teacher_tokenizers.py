"""A corpus in the ids of two tokenizers, from texts to trainings with a teacher of the second one."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raydistill.config.sections import ScalingConfig
from raydistill.data.corpus import Corpus, tokenizer_hash
from raydistill.data.teacher_outputs import OutputSet
from raydistill.stages.binarize import Config, Stage
from raydistill.tasks import classification
from raydistill.training.history import read_history
from toys.capture import capture_stage, context_of, train_stage
from toys.classifiers import CLASSES
from toys.encodings import LONGEST, NUM_LETTERS, make_letters, save_letters, save_words, toy_examples

EXAMPLES = toy_examples(90)
BATCH_SIZE = 37


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Path:
    """Both models, and a corpus that a binarize stage wrote."""
    found = tmp_path_factory.mktemp("two-tokenizers")
    save_words(found / "words")
    save_letters(found / "letters")
    lines = ["text\tlabel", *(f"{example['text']}\t{example['label']}" for example in EXAMPLES)]
    (found / "texts.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    config = {
        "kind": "binarize",
        "source": {"name": "delimited", "path": str(found / "texts.tsv"), "label": "label"},
        "encoding": {"name": "classification", "labels": list(CLASSES), "max_length": LONGEST},
        "tokenizer": str(found / "words"),
        "teacher_tokenizers": [str(found / "letters")],
        "validation": 0.2,
        "rows_per_shard": 40,
    }
    stage = Stage("corpus", Config.model_validate(config))
    stage.plan(ScalingConfig(), {})
    stage.run(context_of(stage, found / "corpus"))
    return found


def test_each_text_is_encoded_by_both_tokenizers(folder: Path) -> None:
    config = classification.EncodeConfig(labels=CLASSES, max_length=LONGEST)
    found = 0
    for part in ("train", "validation"):
        corpus = Corpus.open(str(folder / "corpus" / part))
        corpus.verify()
        info = corpus.tokenizers[1]
        assert (info.hash, info.vocab_size) == (tokenizer_hash(make_letters()), NUM_LETTERS)
        # In words no text is cut, and each id is the number of its word.
        texts = [" ".join(f"w{number}" for number in row[1:-1]) for row in corpus.read_rows(range(len(corpus)))]
        labels = corpus.read_columns(range(len(corpus))).column("label").to_pylist()
        examples = [{"text": text, "label": CLASSES[label]} for text, label in zip(texts, labels, strict=True)]
        assert all(example in EXAMPLES for example in examples)
        letters = classification.cut(examples, make_letters(), config)
        ids = corpus.read_columns(range(len(corpus))).column("input_ids_1").to_pylist()
        assert ids == [row.ids.tolist() for row in letters]
        found += len(ids)
    assert found == len(EXAMPLES)


@pytest.fixture(scope="module")
def trainings(folder: Path) -> dict[str, Any]:
    """Two epochs by two workers: with the teacher, and on what a capture stored of it."""
    stage = capture_stage(folder, teachers=[str(folder / "letters")])
    stage.plan(ScalingConfig(), {})
    captured = context_of(stage, folder / "captured", num_workers=2)
    stage.run(captured)
    found: dict[str, Any] = {"captured": captured.output}
    for name in ("live", "stored"):
        training = train_stage(
            folder,
            teachers=[str(folder / "letters")],
            # At the default temperature of 10 the term, multiplied by its square, is itself rounded to some 1e-6.
            method={"name": "kd", "temperature": 1.0},
            student={"architecture": "bert", "checkpoint": str(folder / "words"), "layers": [0, 2]},
            teacher_outputs=str(captured.output) if name == "stored" else "live",
            training={"batch_size": BATCH_SIZE, "micro_batch_size": 7},
        )
        training.plan(ScalingConfig(), {})
        context = context_of(training, folder / name, num_workers=2, data_cpus=2)
        training.run(context)
        found[name] = read_history(context.output)
    return found


def losses(history: list[dict[str, float]], metric: str) -> list[float]:
    return [line[metric] for line in history if metric in line]


def test_what_is_stored_names_the_teachers_own_tokenizer(folder: Path, trainings: dict[str, Any]) -> None:
    one = OutputSet.open(str(trainings["captured"] / "teacher_0" / "corpus_0" / "train"))
    assert one.header.tokenizer_hash == tokenizer_hash(make_letters())
    assert one.header.corpus_hash == Corpus.open(str(folder / "corpus" / "train")).hash


def test_training_on_stored_outputs_equals_training_with_the_teacher_of_letters(
    folder: Path, trainings: dict[str, Any]
) -> None:
    # Which rows are held out is drawn from where the file lies, and so is how many.
    num_steps = 2 * math.ceil(len(Corpus.open(str(folder / "corpus" / "train"))) / BATCH_SIZE)
    for metric, count in {"train/loss": num_steps, "train/kd": num_steps, "validation/kd": 3}.items():
        live, stored = (losses(trainings[name], metric) for name in ("live", "stored"))
        assert len(live) == count
        assert np.isfinite(live).all()
        assert stored == pytest.approx(live, abs=1e-6, rel=1e-6)
    assert losses(trainings["live"], "train/kd")[0] > 0.01
