"""Whether a training runs its teachers, reads a capture or makes its own, and what it says of that."""

from pathlib import Path
from typing import Any

import pytest

from raydistill.config.sections import ScalingConfig
from raydistill.stages import _teacher_plan, _training_plan
from raydistill.stages._base import CorpusFacts, Input
from raydistill.stages._teacher_plan import Choice, Rows
from raydistill.stages.train import Config
from toys.capture import train_stage
from toys.corpus import random_rows, write_corpus

PATIENT = {"name": "patient_kd", "student_layers": [0], "teacher_layers": [1]}


def config_of(*, training: dict[str, Any] | None = None, **changes: Any) -> Config:
    return train_stage(Path(), training=training, **{"corpus": "corpus", "teachers": ["teacher"], **changes}).config


def chosen(epoch: int | None = 90, corpus: int | None = 90, **changes: Any) -> Choice:
    return _teacher_plan.choose(config_of(**changes), Rows(epoch, corpus))


def test_outputs_of_classifiers_are_stored_unless_the_user_says_otherwise() -> None:
    assert chosen().source == "stored"
    assert chosen(method=PATIENT).source == "stored"
    assert chosen(teacher_outputs="live") == Choice("live")
    assert chosen(teacher_outputs="stored") == Choice("stored")
    assert chosen(teacher_outputs="captured") == Choice("captured")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"method": "dynamic_objective"}, "method dynamic_objective has to run its teachers"),
        ({"method": {**PATIENT, "projection": True}}, "method patient_kd has to run its teachers"),
        ({"task": "ner"}, "outputs of task ner, which needs a token_classification head, are not stored"),
        (
            {"teachers": [{"checkpoint": "teacher", "head": "new"}]},
            "teachers.0.head is 'new', whose weights are not trained",
        ),
    ],
)
def test_what_cannot_be_stored_runs_live_and_is_refused_where_it_is_asked_for(
    changes: dict[str, Any], why: str
) -> None:
    found = chosen(**changes)
    assert found == Choice("live", why)
    assert found.lines == [f"teacher outputs: live, because {why}"]
    with pytest.raises(ValueError, match=r"^teacher_outputs is 'stored', but ") as error:
        chosen(**changes, teacher_outputs="stored")
    assert why in str(error.value)
    assert "\n" not in str(error.value)


def test_a_method_without_teachers_has_no_outputs_to_store() -> None:
    assert chosen(method="finetune") == Choice("live")
    with pytest.raises(ValueError, match="neither method finetune nor task classification reads teachers; leave it"):
        chosen(method="finetune", teacher_outputs="stored")


@pytest.mark.parametrize("asked", ["auto", "live", "stored"])
def test_a_task_that_makes_labels_of_stored_outputs_wants_a_capture_with_a_name(asked: str) -> None:
    with pytest.raises(ValueError, match=f"is '{asked}', but task ptp reads stored logits; name a capture stage"):
        chosen(method="finetune", task={"name": "ptp", "t": 0.6}, teacher_outputs=asked)


@pytest.mark.parametrize(
    ("training", "changes", "source"),
    [
        # 2 steps of 22 or 23 rows are half an epoch.
        ({"max_steps": 2}, {}, "live"),
        ({"max_steps": 4}, {}, "stored"),
        ({"stop_after_steps": 2}, {}, "live"),
        ({"stop_after_epochs": 1}, {}, "stored"),
        ({"num_epochs": 1}, {"epoch": 45}, "live"),
        ({"num_epochs": 2}, {"epoch": 45}, "stored"),
        ({"max_steps": 2}, {"matrix": {"seed": [1, 2]}}, "stored"),
        ({"max_steps": 2}, {"matrix": {"training": {"dropout": [0.0, 0.1]}}}, "stored"),
        ({"max_steps": 2}, {"matrix": {"teachers": [["teacher"], ["other"]]}}, "live"),
        ({"max_steps": 2}, {"matrix": {"method.temperature": [1, 2]}}, "stored"),
        ({"max_steps": 2}, {"matrix": {"method": ["kd", PATIENT]}}, "live"),
    ],
)
def test_a_training_that_reads_fewer_rows_than_would_be_stored_runs_its_teacher(
    training: dict[str, Any], changes: dict[str, Any], source: str
) -> None:
    found = chosen(**changes, training=training)
    assert found.source == source
    assert ("fewer than the 90 that would be stored" in found.why) is (source == "live")


def test_an_epoch_that_batches_do_not_divide_counts_its_own_rows() -> None:
    # Four batches of 22 or 23 rows.
    assert chosen(training={"max_steps": 4}).why.startswith("this training reads 90 rows and")
    assert chosen(corpus=91, training={"max_steps": 4}).why.startswith("this training reads 90 rows, fewer than the 91")


def test_a_corpus_that_is_read_twice_is_stored_once(tmp_path: Path) -> None:
    # 135 rows of an epoch of 180 are more than the 90 that there are.
    training, twice = {"max_steps": 6}, [{"corpus": "corpus", "weight": 2.0}]
    forecast = CorpusFacts("classification", 61, 40, rows=90, tokens=900, labels=("red", "green", "blue"))
    config = config_of(training=training, corpus=twice)
    expected = "this training reads 135 rows and the teachers then see each of 90 once"
    assert _training_plan.choice_of(config, {"corpus": Input(forecast)}).why == expected
    write_corpus(tmp_path / "corpus" / "train", random_rows(90))
    assert _training_plan.choice_of(config, {"corpus": Input(folder=tmp_path / "corpus")}).why == expected


def test_teachers_may_be_captured_where_nobody_asked_for_live_ones_and_what_they_say_can_be_stored() -> None:
    assert _teacher_plan.may_capture(config_of())
    assert not _teacher_plan.may_capture(config_of(teacher_outputs="live"))
    assert not _teacher_plan.may_capture(config_of(method="dynamic_objective"))


def forecast_lines(**changes: Any) -> list[str]:
    corpus = CorpusFacts("classification", 61, 40, labels=("red", "green", "blue"))
    return _training_plan.choice_of(config_of(**changes), {"corpus": Input(corpus)}).lines


def test_a_corpus_that_is_not_there_yet_may_turn_out_larger_than_what_is_read() -> None:
    why = "because this training reads 46 rows, unless the corpus turns out to have more"
    override = "teacher_outputs: live overrides it"
    assert forecast_lines(training={"max_steps": 2}) == [f"teacher outputs: stored, {why}; {override}"]
    assert forecast_lines() == [f"teacher outputs: stored, because this training reads 2 epochs; {override}"]
    why = "because this training reads 2 epochs, unless few_shot or weight leave fewer rows"
    few = forecast_lines(corpus=[{"corpus": "corpus", "weight": 0.5}])
    assert few == [f"teacher outputs: stored, {why}; {override}"]


def test_how_outputs_come_to_a_training_is_no_part_of_it_and_whose_they_are_is() -> None:
    identities = {
        name: train_stage(Path(), teacher_outputs=name).identity(ScalingConfig())
        for name in ("auto", "live", "stored", "captured", "other")
    }
    assert identities["auto"] == identities["live"] == identities["stored"] != identities["captured"]
    assert identities["captured"] != identities["other"]


@pytest.mark.parametrize(
    ("outputs", "counts"), [("live", True), ("auto", True), ("stored", False), ("captured", False)]
)
def test_scores_with_dropout_couple_the_rows_of_a_micro_batch_where_teachers_run(outputs: str, counts: bool) -> None:
    method = {"name": "muki", "scores": "dropout"}
    identities = [
        train_stage(Path(), method=method, teacher_outputs=outputs, training={"micro_batch_size": size}).identity(
            ScalingConfig()
        )
        for size in (4, 8)
    ]
    assert (identities[0] != identities[1]) is counts


def test_what_is_drawn_of_a_teacher_is_not_the_same_live_and_stored() -> None:
    of_passes = {"name": "muki", "scores": "dropout", "margin_reweighting": False}
    for method, is_same in ((of_passes, False), ({**of_passes, "scores": "single_pass"}, True)):
        live, stored = (
            train_stage(Path(), method=method, teacher_outputs=name).identity(ScalingConfig())
            for name in ("live", "stored")
        )
        assert (live == stored) is is_same
    assert chosen(method=of_passes).source == "stored"
