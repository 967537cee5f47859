"""Corpora without labels: what a preflight takes of them, and what it refuses in one line."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raydistill.config.sections import ScalingConfig
from raydistill.data.corpus import Corpus
from raydistill.data.mixture import has_classes
from raydistill.data.stream import FeedSpec, validation_batches
from raydistill.models.load import load_model
from raydistill.stages import _corpora, _models, _training_plan, evaluate
from raydistill.stages._base import CorpusFacts, Decisions, Input, ModelFacts
from raydistill.stages.train import Config
from raydistill.tasks import classification
from raydistill.training.selection import criterion_of
from toys.capture import save_teacher, train_stage, write_labelled
from toys.classifiers import CLASSES
from toys.corpus import write_corpus

BOTH = ("train", "validation")
HEAD = "sequence_classification"
OF_LOGITS = ["vkd", "uhc", {"name": "muki", "margin_reweighting": False}, {"name": "kd", "alpha": 1.0}]
PATIENT = {"name": "patient_kd", "alpha": 1.0, "student_layers": [0], "teacher_layers": [1]}
START = {"init": "checkpoint", "checkpoint": {"checkpoint": "teacher", "head": "new"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("unlabelled")
    write_labelled(found)
    save_teacher(found / "large", seed=4, num_layers=4)
    return found


def config_of(folder: Path, method: Any, **changes: Any) -> Config:
    named = {"corpus": "corpus", "method": method, "teacher_outputs": "live", **changes}
    config: Config = train_stage(folder, **named).config
    return config


def check(folder: Path, method: Any, *, unlabelled: tuple[str, ...] = BOTH, **changes: Any) -> Decisions:
    corpus = _corpora.of_folder(folder / "corpus")
    assert corpus.unlabelled == ()
    earlier = {"corpus": Input(replace(corpus, unlabelled=unlabelled))}
    return _training_plan.plan_training(config_of(folder, method, **changes), ScalingConfig(), earlier)


@pytest.mark.parametrize("unlabelled", [BOTH, ("train",)])
@pytest.mark.parametrize("method", [*OF_LOGITS, PATIENT, "dfa", "cfl"], ids=str)
def test_methods_whose_loss_has_no_labels_take_rows_without_any(folder: Path, method: Any, unlabelled: Any) -> None:
    check(folder, method, unlabelled=unlabelled)


def test_metrics_that_a_training_will_log_are_known_and_none_without_validation_labels(folder: Path) -> None:
    made = [check(folder, "vkd", unlabelled=unlabelled).makes for unlabelled in (BOTH, ("train",), ())]
    assert [one.metrics for one in made if isinstance(one, ModelFacts)] == [(), *[("accuracy", "loss")] * 2]


@pytest.mark.parametrize("unlabelled", [BOTH, ("train",)])
@pytest.mark.parametrize("method", ["kd", "dynamic_data", "dynamic_objective", "causal_task", "finetune"])
def test_methods_that_read_labels_are_refused(folder: Path, method: str, unlabelled: Any) -> None:
    changes: dict[str, Any] = {"teachers": [], "student": START} if method == "finetune" else {}
    if method == "finetune":
        changes["student"] = {**START, "checkpoint": {"checkpoint": str(folder / "teacher"), "head": "new"}}
    with pytest.raises(ValueError, match=f"^method {method} with these options reads labels, but rows of") as error:
        check(folder, method, unlabelled=unlabelled, **changes)
    assert f"corpus 'corpus' have none in {' and '.join(unlabelled)}; binarize with labelled: all" in str(error.value)
    assert "\n" not in str(error.value)
    check(folder, method, unlabelled=(), **changes)


def test_a_task_that_makes_labels_of_labels_is_refused(folder: Path) -> None:
    config = config_of(folder, "finetune", task={"name": "ptp", "t": 0.5}, teacher_outputs="captured")
    corpus = CorpusFacts("classification", 61, 40, labels=CLASSES, unlabelled=BOTH)
    with pytest.raises(ValueError, match=r"^task is 'ptp', which reads labels, but rows of corpus 'corpus' have none"):
        _training_plan._check_labelled(config, corpus, criterion_of(config.training, config.task, config.method))


@pytest.mark.parametrize("metric", ["loss", "agreement", "validation/kd"])
def test_students_are_chosen_without_labels_by_the_loss_or_agreement(folder: Path, metric: str) -> None:
    training = {"metric_for_best_model": metric, "load_best_model_at_end": True}
    assert any("which reads no labels" in line for line in check(folder, "vkd", training=training).lines)


@pytest.mark.parametrize(
    ("method", "metric", "choices"),
    [("vkd", "accuracy", "loss or agreement"), ({"name": "kd", "alpha": 1.0}, "eval/loss", "loss")],
)
def test_a_choice_by_labels_needs_labelled_validation_rows(
    folder: Path, method: Any, metric: str, choices: str
) -> None:
    training = {"metric_for_best_model": metric}
    with pytest.raises(ValueError, match=f"metric_for_best_model is '{metric}', which reads labels, but") as error:
        check(folder, method, training=training)
    assert str(error.value).endswith(f"have none in validation; binarize with labelled: all, or write {choices}")
    check(folder, method, training=training, unlabelled=("train",))


def test_models_are_compared_where_validation_rows_have_labels(folder: Path) -> None:
    section = {"kind": "evaluate", "corpus": "corpus", "task": "classification", "models": {"one": "teacher"}}
    stage = evaluate.Stage("evaluate", evaluate.Config.model_validate(section))
    corpus = _corpora.of_folder(folder / "corpus")
    model = _models.model_of("one", config_of(folder, "kd").teachers[0], {}).config
    earlier = {"teacher": Input(ModelFacts({"": model}, corpus.tokenizer_hash))}
    for unlabelled in ((), ("train",)):
        stage.plan(ScalingConfig(), {**earlier, "corpus": Input(replace(corpus, unlabelled=unlabelled))})
    with pytest.raises(ValueError, match=r"^models are compared by their labels, but rows of corpus 'corpus' have non"):
        stage.plan(ScalingConfig(), {**earlier, "corpus": Input(replace(corpus, unlabelled=BOTH))})


def write_parts(tmp_path: Path, folder: Path) -> None:
    """A corpus of some of the labelled one's rows, without labels to train on."""
    for part, labelled in {"train": "none", "validation": "all"}.items():
        source = Corpus.open(str(folder / "corpus" / part))
        encoding = classification.EncodeConfig(labels=CLASSES, labelled=labelled)
        columns = classification.columns(encoding)
        rows = source.read_rows(range(5))
        values = [{"label": 0, "second": len(row)} for row in rows]
        section = {"name": "classification", "labels": list(CLASSES), "max_length": 40, "labelled": labelled}
        write_corpus(
            tmp_path / part,
            rows,
            tokenizer_hash=source.manifest.tokenizer.hash,
            encoding=section,
            columns=columns,
            values=values,
        )


def test_a_folder_tells_which_of_its_parts_have_labels_and_mixes_with_its_like(tmp_path: Path, folder: Path) -> None:
    write_parts(tmp_path, folder)
    found = _corpora.of_folder(tmp_path)
    assert found.unlabelled == ("train",)
    assert not has_classes(found.labels, found.columns)
    references = train_stage(folder, corpus=[str(folder / "corpus"), str(tmp_path)]).config.corpus
    with pytest.raises(ValueError, match=r"has unlabelled \('train',\), .* has \(\); binarize both alike"):
        _corpora.facts_of(references, {})
    with pytest.raises(ValueError, match=r"few_shot is 2, but corpus .* has no class for each row; leave it out"):
        _corpora.facts_of(train_stage(folder, corpus={"corpus": str(tmp_path), "few_shot": 2}).config.corpus, {})


@pytest.mark.parametrize("method", [*OF_LOGITS, "dfa", "cfl"], ids=str)
def test_batches_without_labels_are_learned_from_and_scored_as_far_as_they_can(
    tmp_path: Path, folder: Path, method: Any
) -> None:
    write_parts(tmp_path, folder)
    section = config_of(folder, method).method
    student, teacher = (load_model(folder / name, head=HEAD, labels=CLASSES) for name in ("large", "teacher"))
    distiller = section.build(student, [teacher])
    losses, found = [], []
    for part in BOTH:
        spec = FeedSpec.make(str(tmp_path / part), {"name": "classification"}, section, seed=0)
        [batch] = validation_batches(spec, micro_batch_size=8)
        loss, _ = distiller(batch, distiller.denominators(batch))
        losses.append(loss.item())
        task = spec.make_task()
        sums = {name: value.numpy() for name, value in task.score(student, batch).items()}
        found.append(list(task.metrics(sums)))
    assert min(losses) > 0
    assert found == [["rows"], ["accuracy", "loss", "rows"]]
