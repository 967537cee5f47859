"""What a capture stage forecasts and refuses, and which stored outputs a training takes, before anything runs."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from raydistill.config.named import MethodSpec
from raydistill.config.sections import ScalingConfig
from raydistill.data.corpus import Corpus, tokenizer_hash
from raydistill.data.stream import BatchBuilder, FeedSpec
from raydistill.data.teacher_inference import TeacherOutputs
from raydistill.losses.top_k import ROUNDING, top_k_of
from raydistill.methods import finetune, kd
from raydistill.models.classes import with_classes
from raydistill.models.layer_selection import student_from_layers
from raydistill.models.load import load_model, load_tokenizer, save_model
from raydistill.stages import _corpora, _teacher_plan, _training_plan, capture
from raydistill.stages._base import CorpusFacts, Decisions, Input, ModelFacts, OutputsFacts
from raydistill.stages.train import Config
from raydistill.tasks import classification
from raydistill.tracking.registration import content_hash
from toys.capture import capture_stage, context_of, run_of, save_teacher, train_stage, write_labelled, write_sets
from toys.classifiers import CLASSES, toy_classifier
from toys.corpus import SPECIAL_IDS, random_rows, write_corpus
from toys.families import toy_gpt2
from toys.models import toy_bert
from toys.words import make_tokenizer

MLM = {"task": {"name": "mlm", "mask_probability": 0.3}, "outputs": ["top_k"], "top_k": 5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("capture")
    write_labelled(found)
    save_model(toy_bert(2, dtype=torch.float32).eval(), make_tokenizer(), found / "masked")
    digest = tokenizer_hash(load_tokenizer(found / "masked"))
    for part, seed in {"train": 0, "validation": 1}.items():
        rows = random_rows(30, seed=seed)
        write_corpus(found / "texts" / part, rows, rows_per_shard=20, tokenizer_hash=digest)
    return found


def forecast(folder: Path, **changes: Any) -> Decisions:
    return capture_stage(folder, **changes).plan(ScalingConfig(), {})


def test_the_forecast_tells_size_and_what_is_stored(folder: Path) -> None:
    found = forecast(folder, outputs=["logits", "cls_states"], layers=[0, 3], dtype="float16")
    row = 8 + 3 * 4 + 2 * 16 * 2
    assert found.lines == [
        f"teacher 0 bert, 7,883 parameters, stores logits, cls_states: about {110 * row / 2**20:.1f} MiB for 110 rows"
    ]
    task = {"name": "classification", "metrics": None}
    kept = (("logits", "cls_states"), (0, 3), (CLASSES,), ((),))
    assert found.makes == OutputsFacts((str(folder / "teacher"),), (str(folder / "corpus"),), *kept, task=task)


def test_the_forecast_counts_every_row_once_whatever_a_training_makes_of_it(folder: Path) -> None:
    for changes in ({"weight": 2.5}, {"weight": 0.5}, {"few_shot": 2}):
        [line] = forecast(folder, corpus=[{"corpus": str(folder / "corpus"), **changes}]).lines
        assert line.endswith("for 110 rows")


def test_a_corpus_that_is_not_there_yet_leaves_the_size_of_a_row(folder: Path) -> None:
    earlier = {"corpus": Input(CorpusFacts("classification", 61, 40, labels=CLASSES))}
    [line] = capture_stage(folder, corpus="corpus").plan(ScalingConfig(), earlier).lines
    assert line.endswith("stores logits: up to 20 bytes a row; rows known after binarize")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outputs": ["cls_states"]}, r"outputs is cls_states and layers \[\]; cls_states and layers go together"),
        ({"layers": [1]}, r"outputs is logits and layers \[1\]"),
        (
            {"outputs": ["cls_states"], "layers": [4]},
            r"layers has 4, but teachers\.0 has hidden states 0 to 3; lower it",
        ),
        ({"outputs": ["cls_states"], "layers": [1, 1]}, "names one thing twice"),
        ({"outputs": ["top_k"]}, "outputs has top_k, which is not stored for task classification; choices: logits"),
        ({"outputs": []}, "at least 1 item"),
        (
            {"teachers": [{"checkpoint": "x", "head": "new"}]},
            "which is neither an earlier stage nor a folder, and was not found",
        ),
        ({"outputs": ["vectors"]}, "vectors|logits"),
    ],
)
def test_what_cannot_be_stored_is_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        forecast(folder, **changes)


def test_untrained_heads_scores_and_teachers_without_dropout_are_refused(folder: Path, tmp_path: Path) -> None:
    new = {"checkpoint": str(folder / "teacher"), "head": "new"}
    with pytest.raises(ValueError, match=r"teachers\.0\.head is 'new', which would store the outputs of untrained"):
        forecast(folder, teachers=[new])
    model = load_model(folder / "teacher", head="sequence_classification", dropout=0.0)
    save_model(model, make_tokenizer(), tmp_path / "quiet")
    quiet = {"teachers": [str(tmp_path / "quiet")], "outputs": ["dropout_scores"]}
    with pytest.raises(ValueError, match=r"dropout_scores, but teachers\.0 has no dropout; give dropout, such as 0\.1"):
        forecast(folder, **quiet)
    assert forecast(folder, **quiet, dropout=0.1).lines


def test_masks_of_whole_micro_batches_have_no_outputs_of_a_row(folder: Path) -> None:
    task = {"name": "mlm", "sampling": "batch"}
    masked = {"corpus": str(folder / "texts"), "teachers": [str(folder / "masked")], "outputs": ["top_k"]}
    with pytest.raises(ValueError, match=r"task mlm draws masks for whole micro-batches; write task\.sampling: row"):
        forecast(folder, **masked, task=task)
    with pytest.raises(ValueError, match=r"top_k is 62, but teachers\.0 has 61 token ids"):
        forecast(folder, **{**masked, "task": "mlm", "top_k": 62})


def outputs_of(folder: Path, tmp_path: Path, **changes: Any) -> TeacherOutputs:
    stage = capture_stage(folder, **changes)
    return TeacherOutputs(run_of(stage, 0, context_of(stage, tmp_path)))


@pytest.mark.parametrize(("pad_id", "place"), [(SPECIAL_IDS["sep"], -2), (None, -1)])
def test_stored_outputs_of_rows_that_end_with_the_padding_token_are_those_of_transformers(
    folder: Path, tmp_path: Path, pad_id: int | None, place: int
) -> None:
    model = toy_classifier(toy_gpt2, 3, labels=CLASSES)
    model.config.pad_token_id = pad_id
    save_model(model.float().eval(), make_tokenizer(), tmp_path / "decoder")
    wanted = {"teachers": [str(tmp_path / "decoder")], "outputs": ["logits", "cls_states"], "layers": [0, 2]}
    found = outputs_of(folder, tmp_path, **wanted).of(0, np.arange(40))
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "decoder").eval()
    for row, ids in enumerate(Corpus.open(str(folder / "corpus" / "train")).read_rows(range(40))):
        assert ids[-1] == SPECIAL_IDS["sep"] != ids[-2]
        with torch.no_grad():
            said = plain(torch.from_numpy(ids.astype(np.int64))[None], output_hidden_states=True)
        states = torch.stack([said.hidden_states[layer][0, place] for layer in (0, 2)])
        np.testing.assert_allclose(found["logits"][row], said.logits[0].numpy(), atol=1e-5, rtol=0)
        np.testing.assert_allclose(found["cls_states"][row], states.numpy(), atol=1e-5, rtol=0)


def test_a_capture_of_another_format_is_another_capture(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stage = capture_stage(tmp_path)
    before = stage.identity(ScalingConfig())
    monkeypatch.setattr(capture, "FORMAT_VERSION", capture.FORMAT_VERSION + 1)
    assert stage.identity(ScalingConfig()) != before


def test_dropout_scores_are_of_their_seed_alone(folder: Path, tmp_path: Path) -> None:
    wanted = {"outputs": ["dropout_scores"], "dropout_passes": 6}
    first, again = (outputs_of(folder, tmp_path, **wanted).of(0, np.arange(40)) for _ in range(2))
    assert np.array_equal(first["dropout_scores"], again["dropout_scores"])
    assert first["dropout_scores"].dtype == np.float32
    assert first["dropout_scores"].std() > 0
    surer = outputs_of(folder, tmp_path, **wanted, dropout=1e-6).of(0, np.arange(40))
    assert surer["dropout_scores"].mean() > first["dropout_scores"].mean()


def test_the_likeliest_ids_are_those_at_one_mask_a_row_keyed_by_the_masking_seed(folder: Path, tmp_path: Path) -> None:
    masked = {"corpus": str(folder / "texts"), "teachers": [str(folder / "masked")], **MLM}
    outputs = outputs_of(folder, tmp_path, **masked, mask_seed=3)
    found = outputs.of(0, np.arange(20))
    builder = outputs._builders[0]
    model = load_model(folder / "masked", head="masked_lm")
    for row in range(20):
        batch = builder.batch(np.array([row]), epoch=0, step=0)
        assert found["top_k_places"][row].tolist() == batch["label_index"].tolist()
        logits = model(input_ids=batch["input_ids"]).logits[0, batch["label_index"]].detach()
        kept = top_k_of(logits, 5)
        assert np.array_equal(found["top_k_ids"][row], kept.ids.numpy())
        assert np.array_equal(found["top_k_inputs"][row], batch["input_ids"][0, batch["label_index"]])
        # What is stored is rounded to float16.
        stored = {name: found[f"top_k_{name}"][row].astype(np.float32) for name in ("log_probs", "log_tails")}
        np.testing.assert_allclose(stored["log_probs"], kept.log_probs.numpy(), atol=1e-4, rtol=ROUNDING)
        np.testing.assert_allclose(stored["log_tails"], kept.log_tail.numpy(), atol=1e-4, rtol=ROUNDING)
    other = outputs_of(folder, tmp_path, **masked, mask_seed=4).of(0, np.arange(20))
    assert any(map(lambda one, two: one.tolist() != two.tolist(), found["top_k_places"], other["top_k_places"]))


METHODS = {
    "kd": {"name": "kd"},
    "patient_kd": {"name": "patient_kd", "student_layers": [0], "teacher_layers": [1], "beta": 3.0},
    "dynamic_data": {"name": "dynamic_data", "selection": "entropy"},
}


@pytest.mark.parametrize("name", METHODS)
def test_a_loss_of_stored_outputs_is_that_of_the_teacher(folder: Path, tmp_path: Path, name: str) -> None:
    method = MethodSpec.parse(METHODS[name])
    stage = train_stage(folder, method=METHODS[name], teacher_outputs=str(tmp_path / "stored"))
    write_sets(folder, tmp_path / "stored", outputs=["logits", "cls_states"], layers=[0, 2, 1, 3])
    decisions = stage.plan(ScalingConfig(), {})
    context = context_of(stage, tmp_path / "out")
    parts = _corpora.train_parts(stage.config.corpus, {})
    teacher = load_model(folder / "teacher", head="sequence_classification", labels=CLASSES)
    torch.manual_seed(0)
    student = student_from_layers(teacher, architecture="bert", layers=[0, 2], vocab_transform=False)
    joined, _ = stage._joined(stage.config, decisions, {"train": parts}, context)
    task = {"name": "classification"}
    live, stored = (
        BatchBuilder(FeedSpec.make(parts, task, METHODS[name], seed=1, stored=one)).batch(
            np.array([80, 3, 45]), epoch=0, step=0
        )
        for one in (None, joined["train"])
    )
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 0.01
    losses = []
    for batch, teachers in ((live, [teacher]), (stored, [])):
        made = method.build(student, teachers)
        losses.append(made.eval()(batch, made.denominators(batch))[0])
    assert losses[0] > 0.01
    torch.testing.assert_close(losses[1], losses[0], atol=1e-6, rtol=1e-6)


CAPTURED = OutputsFacts(("teacher",), ("corpus",), ("logits",), (), (CLASSES,), ((),))


def earlier(outputs: OutputsFacts | None = CAPTURED) -> dict[str, Input]:
    corpus = CorpusFacts("classification", 61, 40, rows=90, tokens=2000, labels=CLASSES)
    teacher = with_classes(toy_bert(3).config, CLASSES)
    return {
        "corpus": Input(corpus),
        "teacher": Input(ModelFacts({"": teacher, "@initial": teacher})),
        "captured": Input(outputs),
    }


def check(outputs: OutputsFacts | None = CAPTURED, **changes: Any) -> list[str]:
    facts = {"corpus": "corpus", "teachers": ["teacher"], "teacher_outputs": "captured", **changes}
    config: Config = train_stage(Path(), **facts).config
    return _training_plan.plan_training(config, ScalingConfig(), earlier(outputs)).lines


def test_a_training_that_reads_stored_outputs_says_that_its_teacher_is_not_run() -> None:
    assert "teacher 0 bert is not run: captured has its outputs" in check()
    assert not [line for line in check(teacher_outputs="live") if "not run" in line]


@pytest.mark.parametrize(
    ("outputs", "changes", "message"),
    [
        (None, {}, "teacher_outputs is 'captured', which stores no outputs; name a capture stage"),
        (
            CAPTURED,
            {"teacher_outputs": "nothing"},
            "is none of auto, live, stored, not an earlier stage and not the folder",
        ),
        (replace(CAPTURED, kinds=("cls_states",)), {}, "which has cls_states; logits is read too, add it"),
        (replace(CAPTURED, teachers=("big", "small")), {}, "which has outputs of big, small; teachers.0 is teacher;"),
        (replace(CAPTURED, corpora=("reviews",)), {}, "which ran on reviews; corpus is corpus; capture it too"),
        (
            replace(CAPTURED, names=(("red", "green", "blue"),)),
            {},
            "outputs are labeled red, green, blue; teachers.0.labels is none; name them alike",
        ),
        (replace(CAPTURED, labels=(("a", "b"),)), {}, "have the classes a, b; the training has red, green, blue"),
        (CAPTURED, {"method": "finetune"}, "neither method finetune nor task classification reads teachers; leave it"),
    ],
)
def test_stored_outputs_that_are_not_what_a_training_reads_are_refused(
    outputs: OutputsFacts | None, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        check(outputs, **changes)
    assert "\n" not in str(error.value)


def test_a_method_that_has_to_run_its_teachers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = kd.Method.requirements(kd.Config())
    monkeypatch.setattr(kd.Method, "requirements", classmethod(lambda cls, config: replace(asked, stored=())))
    with pytest.raises(ValueError, match="but method kd has to run its teachers; write teacher_outputs: live"):
        check()


def test_layers_that_a_method_reads_must_be_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = replace(kd.Method.requirements(kd.Config()), stored=("logits", "cls_states"))
    monkeypatch.setattr(kd.Method, "requirements", classmethod(lambda cls, config: asked))
    monkeypatch.setattr(kd.Method, "stored_layers", classmethod(lambda cls, config, student, teacher: (1, 2)))
    stored = replace(CAPTURED, kinds=("logits", "cls_states"), layers=(1, 3))
    with pytest.raises(ValueError, match="which has CLS states of layers 1, 3; method kd reads layer 2; add it"):
        check(stored)
    assert check(replace(stored, layers=(2, 1)))


def test_a_task_that_makes_labels_of_stored_outputs_gets_them_with_any_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classification.Task, "NEEDS_STORED", ("logits",), raising=False)
    with pytest.raises(ValueError, match="teacher_outputs is 'live', but task classification reads stored logits"):
        check(method="finetune", teacher_outputs="live")
    assert finetune.Method.requirements(finetune.Config()).max_teachers == 0
    assert check(method="finetune")
    config = train_stage(Path(), method="finetune", teacher_outputs="captured").config
    assert _teacher_plan.kinds_of(config) == ("logits",)


@pytest.fixture(scope="module")
def stored(folder: Path) -> Path:
    write_sets(folder, folder / "stored")
    return folder / "stored"


def check_stored(folder: Path, reference: Path, **changes: Any) -> None:
    train_stage(folder, teacher_outputs=str(reference), **changes).plan(ScalingConfig(), {})


def test_a_folder_of_another_teachers_outputs_is_refused_before_the_run_with_both_hashes(
    folder: Path, stored: Path
) -> None:
    check_stored(folder, stored)
    save_teacher(folder / "other", seed=9)
    with pytest.raises(
        ValueError, match=r"are of a teacher with hash \w{64}, teachers\.0 has \w{64}; capture"
    ) as error:
        check_stored(folder, stored, teachers=[str(folder / "other")])
    assert content_hash(folder / "teacher") in str(error.value)
    assert content_hash(folder / "other") in str(error.value)


@pytest.mark.parametrize("part", ["train", "validation"])
def test_a_folder_of_outputs_on_another_corpus_is_refused_before_the_run_with_both_hashes(
    folder: Path, stored: Path, tmp_path: Path, part: str
) -> None:
    write_labelled(tmp_path)
    check_stored(folder, stored, corpus=str(tmp_path / "corpus"))
    other = "validation" if part == "train" else "train"
    shutil.rmtree(tmp_path / "corpus" / part)
    shutil.copytree(tmp_path / "corpus" / other, tmp_path / "corpus" / part)
    manifest = tmp_path / "corpus" / part / "manifest.json"
    manifest.write_text(manifest.read_text() + " ")
    with pytest.raises(ValueError, match=rf"corpora with hash \w{{64}}, \w{{64}}, '.*{part}' has \w{{64}}; capture"):
        check_stored(folder, stored, corpus=str(tmp_path / "corpus"))


def test_a_corpus_of_a_folder_tells_its_validation_rows(folder: Path) -> None:
    found = _corpora.of_folder(folder / "corpus")
    assert found.validation_rows == len(Corpus.open(str(folder / "corpus" / "validation"))) == 20
