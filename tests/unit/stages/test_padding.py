"""Rows that end with the padding token: what a student answers of them once it left the system, and who may pad how."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from raydistill.config.sections import ScalingConfig
from raydistill.data.corpus import Corpus, tokenizer_hash
from raydistill.evaluation import evaluate_models
from raydistill.models.load import load_config, load_model, load_tokenizer, save_model
from raydistill.stages import _student, evaluate
from raydistill.stages._base import CorpusFacts, Decisions, Evaluated, Input, ModelFacts
from raydistill.tasks import classification
from toys.capture import train_stage
from toys.classifiers import CLASSES, CLASSIFIERS, toy_classifier
from toys.corpus import write_corpus
from toys.encodings import ENCODE, toy_examples
from toys.families import toy_gpt2, toy_llama
from toys.words import make_tokenizer

HEAD = "sequence_classification"
END = 3
EXAMPLES = [*toy_examples(30), {"label": CLASSES[0], "text": "w7 [SEP] [SEP]"}, {"label": CLASSES[1], "text": ""}]


def tokenizer_of(*, side: str = "left") -> Any:
    """One that pads with the token that ends every row."""
    tokenizer = make_tokenizer()
    tokenizer.pad_token = "[SEP]"
    # Saved is what a tokenizer was made with.
    tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = side
    return tokenizer


def saved(folder: Path, model: Any, *, side: str = "left", pad_id: int | None = None) -> Path:
    model.config.pad_token_id = pad_id
    save_model(model.float().eval(), tokenizer_of(side=side), folder)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder, tokenizer = tmp_path_factory.mktemp("corpus"), tokenizer_of()
    rows = classification.cut(EXAMPLES, tokenizer, ENCODE)
    tokenizer.save_pretrained(folder / "tokenizer")
    files = {path.name: path.read_bytes() for path in sorted((folder / "tokenizer").iterdir())}
    return write_corpus(
        folder / "rows",
        [row.ids for row in rows],
        tokenizer_files=files,
        tokenizer_hash=tokenizer_hash(tokenizer),
        encoding={"name": "classification", "labels": list(CLASSES), "max_length": 40},
        columns=classification.columns(ENCODE),
        values=[dict(row.values) for row in rows],
    )


@pytest.mark.parametrize("family", [toy_gpt2, toy_llama])
def test_a_student_answers_padded_rows_in_plain_transformers_as_it_was_evaluated(
    corpus: Corpus, tmp_path: Path, family: Any
) -> None:
    language = saved(tmp_path / "language", family(2, seed=1))
    start = {"init": "checkpoint", "checkpoint": {"checkpoint": str(language), "head": "new"}}
    stage = train_stage(tmp_path, method="finetune", teachers=[], student=start)
    _student.write_initial(stage.config, tmp_path / "initial", language, corpus, seed=0)
    # As it is written after a training.
    student = load_model(tmp_path / "initial", head=HEAD)
    with torch.no_grad():
        student.get_submodule("score").weight.normal_(generator=torch.Generator().manual_seed(0))
    save_model(student, load_tokenizer(tmp_path / "initial"), tmp_path / "student")

    found = evaluate_models(
        {"student": str(tmp_path / "student")}, corpus.uri, task={"name": "classification"}, seed=0
    )["student"].predictions
    assert found is not None
    expected = np.stack([np.asarray(found[f"probability.{name}"]) for name in CLASSES], axis=1)
    texts = [EXAMPLES[row]["text"] for row in found["row_id"]]

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "student")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student").eval()
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    assert not bool(inputs["attention_mask"].all())
    with torch.no_grad():
        answered = plain(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits.softmax(-1)
    np.testing.assert_allclose(answered.numpy(), expected, atol=1e-5, rtol=0)

    classify = pipeline("text-classification", model=str(tmp_path / "student"), batch_size=5, top_k=None)
    told = [{one["label"]: one["score"] for one in row} for row in classify(texts)]
    told_scores = [[row[name] for name in CLASSES] for row in told]
    np.testing.assert_allclose(told_scores, expected, atol=1e-5, rtol=0)
    assert np.ptp(expected, axis=0).max() > 0.1


def checked(model: Path, *, head: str = "pretrained", as_student: bool = False) -> Decisions:
    """A preflight of an evaluation, or of a training that starts from a model."""
    earlier = {"corpus": Input(CorpusFacts("classification", 61, 40, labels=CLASSES))}
    if as_student:
        start = {"init": "checkpoint", "checkpoint": {"checkpoint": str(model), "head": head}}
        stage: Any = train_stage(model, corpus="corpus", method="finetune", teachers=[], student=start)
    else:
        config = {"kind": "evaluate", "corpus": "corpus", "task": "classification", "models": {"own": str(model)}}
        stage = evaluate.Stage("evaluate", evaluate.Config.model_validate(config))
    return stage.plan(ScalingConfig(), earlier)


@pytest.mark.parametrize("name", ["gpt2_classes", "bert_classes"])
def test_a_classifier_that_transformers_reads_otherwise_where_it_pads_is_refused_before_a_run(
    tmp_path: Path, name: str
) -> None:
    folder = saved(tmp_path / "model", CLASSIFIERS[name](2), pad_id=0)
    family = name.removesuffix("_classes")
    with pytest.raises(ValueError, match=rf"models\.own is a {family} whose tokenizer pads on the left"):
        checked(folder)
    with pytest.raises(ValueError, match=rf"student\.checkpoint is a {family} whose tokenizer pads on the left"):
        checked(folder, as_student=True)
    # A head that is new has learned no padding, and its student is saved with the other side.
    assert isinstance(checked(folder, head="new", as_student=True).makes, ModelFacts)
    written = folder / "tokenizer_config.json"
    written.write_text(written.read_text(encoding="utf-8").replace('"left"', '"right"'), encoding="utf-8")
    assert isinstance(checked(folder).makes, Evaluated)


def test_a_classifier_of_rotary_positions_may_pad_on_the_left(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", toy_classifier(toy_llama, 2), pad_id=END)
    assert isinstance(checked(folder).makes, Evaluated)


def test_a_student_of_a_teacher_without_a_padding_id_gets_the_one_of_its_tokenizer(
    corpus: Corpus, tmp_path: Path
) -> None:
    teacher = saved(tmp_path / "teacher", toy_classifier(toy_llama, 3), side="right")
    stage = train_stage(tmp_path, student={"layers": [0, 2]}, teacher_outputs="live")
    _student.write_initial(stage.config, tmp_path / "initial", teacher, corpus, seed=0)
    assert (load_config(teacher).pad_token_id, load_config(tmp_path / "initial").pad_token_id) == (None, END)
    assert load_tokenizer(tmp_path / "initial").padding_side == "right"
