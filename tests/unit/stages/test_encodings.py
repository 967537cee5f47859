"""Teachers with another tokenizer than the student: what a preflight takes and refuses, and what is stored of them."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from raydistill.config.named import MethodSpec
from raydistill.config.sections import ScalingConfig
from raydistill.data.corpus import Corpus, tokenizer_hash
from raydistill.data.stored_outputs import StoredOutputs, StoredSet
from raydistill.data.stream import BatchBuilder, FeedSpec
from raydistill.data.teacher_inference import TeacherOutputs
from raydistill.data.teacher_outputs import OutputSet
from raydistill.data.teacher_outputs_writer import OutputSetWriter
from raydistill.methods import kd
from raydistill.methods._base import stored_name
from raydistill.models.load import load_model, load_tokenizer
from raydistill.stages import _corpora, _models, _training_plan
from raydistill.stages._base import Decisions, Input, ModelFacts, TokenizerFacts
from raydistill.stages.binarize import Config as BinarizeConfig
from raydistill.stages.binarize import Stage as BinarizeStage
from toys.capture import capture_stage, context_of, run_of, train_stage
from toys.classifiers import CLASSES
from toys.encodings import (
    LETTERS_PAD,
    LONGEST,
    NUM_LETTERS,
    letters_model,
    make_letters,
    save_letters,
    save_words,
    toy_examples,
    write_encodings,
)
from toys.words import make_tokenizer

WORDS, LETTERS = tokenizer_hash(make_tokenizer()), tokenizer_hash(make_letters())
KEY = "teachers.0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Corpora in both encodings and in words alone, with a model for each tokenizer."""
    found = tmp_path_factory.mktemp("encodings")
    save_letters(found / "letters")
    save_words(found / "words")
    for part, (count, seed) in {"train": (60, 0), "validation": (20, 1)}.items():
        examples = toy_examples(count, seed=seed)
        write_encodings(found / "corpus" / part, examples)
        write_encodings(found / "plain" / part, examples, further=False)
    return found


def training(folder: Path, **changes: Any) -> Any:
    """A training of a student of words by the teacher of letters."""
    options = {
        "teachers": [str(folder / "letters")],
        "student": {"init": "layers", "architecture": "bert", "checkpoint": str(folder / "words"), "layers": [0, 2]},
        "teacher_outputs": "live",
        **changes,
    }
    return train_stage(folder, **options)


def check(folder: Path, earlier: dict[str, Input] | None = None, **changes: Any) -> Decisions:
    return _training_plan.plan_training(training(folder, **changes).config, ScalingConfig(), earlier or {})


@pytest.mark.parametrize(
    ("digest", "hashes", "encoding"),
    [("a", ["a"], 0), ("b", ["a", "c", "b"], 2), (None, ["a", "b"], 0), ("b", ["a", None], 1), ("b", [None], 0)],
)
def test_a_model_reads_the_encoding_of_its_tokenizer_as_far_as_that_is_known(
    digest: str | None, hashes: list[str | None], encoding: int
) -> None:
    assert _models.encoding_of(KEY, digest, hashes) == encoding


def test_a_corpus_of_a_folder_tells_its_encodings_and_its_facts_in_each(folder: Path) -> None:
    found = _corpora.of_folder(folder / "corpus")
    assert found.hashes == (WORDS, LETTERS)
    letters = found.as_encoded(1)
    assert (letters.vocab_size, letters.max_length, letters.tokenizer_hash) == (NUM_LETTERS, LONGEST, LETTERS)
    assert (letters.rows, letters.labels) == (60, CLASSES)
    assert found.as_encoded(0) is found


def test_a_teacher_of_a_further_tokenizer_is_taken_and_the_student_keeps_the_corpuss(folder: Path) -> None:
    forecast = check(folder)
    assert forecast.makes.configs[""].vocab_size == 61
    assert forecast.makes.tokenizer_hash == WORDS


def test_a_teacher_without_an_encoding_is_refused_with_the_key_that_adds_it(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"^teachers\.0 has a different tokenizer from the corpus; ") as error:
        check(folder, corpus=str(folder / "plain"))
    assert str(error.value).endswith("or name the model under teacher_tokenizers of the binarize stage")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("method", ["dfa", "cfl", "patient_kd"])
def test_a_method_that_aligns_tokens_refuses_another_tokenizer_in_one_line(folder: Path, method: str) -> None:
    teachers = [str(folder / "letters"), str(folder / "words")][: 1 if method == "patient_kd" else 2]
    with pytest.raises(
        ValueError, match=rf"^teachers\.0 .* and method {method} aligns token by token; choose"
    ) as error:
        check(folder, method=method, teachers=teachers)
    assert "\n" not in str(error.value)
    # Another encoding would not help, so none is named.
    with pytest.raises(ValueError, match=r"binarize with that model's tokenizer$"):
        check(folder, method=method, teachers=teachers, corpus=str(folder / "plain"))


@pytest.mark.parametrize("method", ["vkd", "uhc", "muki"])
def test_teachers_of_several_tokenizers_teach_one_student_as_their_stored_outputs_would(
    folder: Path, method: str
) -> None:
    folders = [folder / "letters", folder / "words"]
    assert check(folder, method=method, teachers=[str(one) for one in folders]).makes
    uri = str(folder / "corpus" / "train")
    spec = FeedSpec.make(uri, {"name": "classification"}, {"name": method}, seed=1, encodings=[1])
    batch = BatchBuilder(spec).batch(np.array([50, 3, 45, 7]), epoch=0, step=0)
    teachers = [load_model(one, head="sequence_classification", labels=CLASSES) for one in folders]
    said = {}
    for number, (teacher, prefix) in enumerate(zip(teachers, ("encoding_1_", ""), strict=True)):
        ids, mask = batch[prefix + "input_ids"], batch[prefix + "attention_mask"].long()
        with torch.no_grad():
            said[stored_name(number, "logits")] = teacher(input_ids=ids, attention_mask=mask).logits
    section = MethodSpec.parse({"name": method})
    student = load_model(folder / "words", head="sequence_classification")
    live = section.build(student, teachers)
    live.encodings = (1, 0)
    stored = section.build(student, teacher_labels=[CLASSES, CLASSES])
    found, _ = live.eval()(batch, live.denominators(batch))
    expected, _ = stored.eval()(batch.with_columns(**said), stored.denominators(batch))
    assert found > 1e-3
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    assert live.teacher_rows == 8


def test_a_student_cannot_start_from_a_teacher_of_another_tokenizer(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"student\.init is 'layers', which starts from teacher 0, but that has"):
        check(folder, student={"init": "layers", "architecture": "bert", "layers": [0]})


def test_a_student_of_a_further_tokenizer_is_refused(folder: Path) -> None:
    start = {"init": "checkpoint", "checkpoint": str(folder / "letters")}
    with pytest.raises(
        ValueError, match=r"^student\.checkpoint has a different tokenizer from the corpus; binarize with"
    ):
        check(folder, student=start)


def test_a_teacher_needs_positions_for_the_rows_that_it_reads_and_no_others(folder: Path) -> None:
    facts = _corpora.of_folder(folder / "corpus")
    fits = replace(facts, teacher_tokenizers=(TokenizerFacts(NUM_LETTERS, 40, LETTERS),))
    too_long = replace(facts, teacher_tokenizers=(TokenizerFacts(NUM_LETTERS, 41, LETTERS),))
    assert check(folder, {"c": Input(fits)}, corpus="c").makes
    with pytest.raises(ValueError, match=r"teachers\.0 has 40 positions, but the corpus has rows of up to 41 tokens"):
        check(folder, {"c": Input(too_long)}, corpus="c")


def test_the_tokenizer_of_a_teacher_that_another_stage_makes_is_that_of_its_corpus(folder: Path) -> None:
    made = load_model(folder / "letters", head="sequence_classification").config
    for digest, taken in ((LETTERS, True), ("0" * 64, False)):
        earlier = {"teacher": Input(ModelFacts({"": made}, digest))}
        if taken:
            assert check(folder, earlier, teachers=["teacher"]).makes
            continue
        with pytest.raises(ValueError, match=r"teachers\.0 has a different tokenizer from the corpus"):
            check(folder, earlier, teachers=["teacher"])


def test_corpora_of_one_training_have_the_same_teacher_tokenizers(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"has different teacher tokenizers from .*binarize both with the same"):
        check(folder, corpus=[{"corpus": str(folder / "corpus")}, {"corpus": str(folder / "plain")}])


def binarize_stage(folder: Path, **changes: Any) -> BinarizeStage:
    (folder / "a.tsv").write_text("text\tlabel\nw5 w16\tred\n")
    config = {
        "kind": "binarize",
        "source": {"name": "delimited", "path": str(folder / "a.tsv"), "label": "label"},
        "encoding": {"name": "classification", "labels": list(CLASSES), "max_length": LONGEST},
        "tokenizer": str(folder / "words"),
        "teacher_tokenizers": [str(folder / "letters")],
        **changes,
    }
    return BinarizeStage("corpus", BinarizeConfig.model_validate(config))


def test_binarize_forecasts_what_it_will_write(folder: Path) -> None:
    forecast = binarize_stage(folder).plan(ScalingConfig(), {})
    assert forecast.makes.teacher_tokenizers == (TokenizerFacts(NUM_LETTERS, LONGEST, LETTERS),)
    assert list(forecast.makes.columns) == list(Corpus.open(str(folder / "corpus" / "train")).columns)
    assert forecast.lines == ["delimited texts, 61 ids, at most 30 tokens a row; in 16 ids too"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"encoding": "mlm", "source": {"name": "text", "path": "a.tsv"}},
            r"rows of mlm have one encoding; leave",
        ),
        ({"teacher_tokenizers": ["words"]}, r"^teacher_tokenizers\.0 encodes as tokenizer does; leave it out"),
        (
            {"teacher_tokenizers": ["letters", "letters"]},
            r"\.1 encodes as teacher_tokenizers\.0 does",
        ),
        ({"teacher_tokenizers": ["no-such-folder"]}, r"^teacher_tokenizers\.0: .*no-such-folder"),
    ],
)
def test_teacher_tokenizers_that_cannot_be_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    named = changes.get("teacher_tokenizers", ["letters"])
    changes = {**changes, "teacher_tokenizers": [str(folder / name) for name in named]}
    with pytest.raises(ValueError, match=message) as error:
        binarize_stage(folder, **changes).plan(ScalingConfig(), {})
    assert "\n" not in str(error.value)


def test_rows_longer_than_a_further_model_takes_are_refused(folder: Path, tmp_path: Path) -> None:
    model: Any = letters_model()
    model.config.max_position_embeddings = LONGEST - 1
    model.config.save_pretrained(tmp_path / "short")
    make_letters().save_pretrained(tmp_path / "short")
    with pytest.raises(ValueError, match=r"^teacher_tokenizers\.0: encoding\.max_length is 30; .*at most 29$"):
        binarize_stage(folder, teacher_tokenizers=[str(tmp_path / "short")]).plan(ScalingConfig(), {})


def test_without_teacher_tokenizers_a_corpus_keeps_its_identity(folder: Path) -> None:
    assert "teacher_tokenizers" not in binarize_stage(folder, teacher_tokenizers=[]).identity(ScalingConfig())
    stage = binarize_stage(folder)
    assert stage.identity(ScalingConfig())["teacher_tokenizers"]
    assert set(binarize_stage(folder, teacher_tokenizers=["teacher"]).references().values()) == {
        str(folder / "words"),
        "teacher",
    }


def captured(folder: Path, output: Path, **changes: Any) -> TeacherOutputs:
    """What a capture of the teacher of letters would write, without Ray."""
    stage = capture_stage(folder, teachers=[str(folder / "letters")], **changes)
    stage.plan(ScalingConfig(), {})
    run = run_of(stage, 0, context_of(stage, output))
    outputs = TeacherOutputs(run)
    for number, (uri, target) in enumerate(zip(run.corpora, run.sets, strict=True)):
        offsets = Corpus.open(uri).shard_offsets
        with OutputSetWriter(target, run.headers[number], shard_rows=np.diff(offsets).tolist()) as writer:
            for start, stop in pairwise(offsets.tolist()):
                writer.add(np.arange(start, stop), outputs.of(number, np.arange(start, stop)))
            writer.finish()
    assert {header.tokenizer_hash for header in run.headers} == {LETTERS}
    return outputs


def test_what_is_captured_is_what_plain_transformers_says_of_the_teachers_own_rows(
    folder: Path, tmp_path: Path
) -> None:
    found = captured(folder, tmp_path).of(1, np.arange(20))
    teacher = AutoModelForSequenceClassification.from_pretrained(folder / "letters").eval()
    order = [teacher.config.label2id[name] for name in CLASSES]
    letters = load_tokenizer(folder / "letters")
    for row, example in enumerate(toy_examples(20, seed=1)):
        ids = letters(example["text"], truncation=True, max_length=LONGEST, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logits = teacher(input_ids=ids).logits[0, order]
        np.testing.assert_allclose(found["logits"][row], logits.numpy(), atol=1e-5)


def test_a_stored_loss_of_a_teacher_of_letters_is_that_of_the_running_one(folder: Path, tmp_path: Path) -> None:
    captured(folder, tmp_path / "stored")
    stage = training(folder, teacher_outputs=str(tmp_path / "stored"))
    stage.plan(ScalingConfig(), {})
    kept = OutputSet.open(str(tmp_path / "stored" / "teacher_0" / "corpus_0" / "train"))
    stored = StoredOutputs(((StoredSet(kept.uri, kept.hash),),), ("logits",))
    student = load_model(folder / "words", head="sequence_classification")
    teacher = load_model(folder / "letters", head="sequence_classification", labels=CLASSES)
    losses = []
    for read, teachers, encodings in ((None, [teacher], [1]), (stored, [], [])):
        task, method = {"name": "classification"}, {"name": "kd"}
        uri = str(folder / "corpus" / "train")
        spec = FeedSpec.make(uri, task, method, seed=1, stored=read, encodings=encodings)
        batch = BatchBuilder(spec).batch(np.array([50, 3, 45]), epoch=0, step=0)
        made = kd.Method(kd.Config(), student, teachers)
        made.encodings = tuple(encodings)
        losses.append(made.eval()(batch, made.denominators(batch))[0])
    assert losses[0] > 0.01
    torch.testing.assert_close(losses[1], losses[0], atol=1e-6, rtol=1e-6)


def test_a_training_finds_each_teachers_encoding_by_its_folder(folder: Path, tmp_path: Path) -> None:
    hashes = _corpora.of_folder(folder / "corpus").hashes
    digests = [_models.hash_of_folder(folder / name) for name in ("words", "letters")]
    assert [_models.encoding_of(KEY, digest, hashes) for digest in digests] == [0, 1]
    make_tokenizer(70).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"^teachers\.0 has a different tokenizer from the corpus"):
        _models.encoding_of(KEY, _models.hash_of_folder(tmp_path), hashes)


def test_the_pad_of_letters_is_another_than_that_of_words() -> None:
    # What the tests above rely on: a mix-up of the two would show.
    assert make_tokenizer().pad_token_id != make_letters().pad_token_id == LETTERS_PAD
