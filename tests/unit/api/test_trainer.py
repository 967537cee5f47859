"""The adapter for transformers' Trainer: the platform's losses, and the Trainer's own features with them."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, TrainerCallback

import raydistill as rd
from raydistill.config.named import MethodSpec
from toys.classifiers import CLASSIFIERS
from toys.models import toy_bert, toy_distilbert
from toys.trainer import logged, platform_steps, rows_of, trainer_of, weights

SEQUENCE, MASKED = "sequence_classification", "masked_lm"
SITES = {
    "interchange_variable_mappings": [
        {"teacher_variable_names": ["$L:1$H:[0:2]$[0:8]"], "student_variable_names": ["$L:0$H:[0:2]$[0:8]"]}
    ]
}
CASES = {
    "kd": (rd.KD, {"alpha": 0.5, "temperature": 2.0}, SEQUENCE, 1),
    "causal": (rd.Causal, {"mapping": SITES, "pairing": "in_batch", "alpha_causal_cos": 0.1}, MASKED, 1),
    "muki": (rd.Muki, {}, SEQUENCE, 2),
    "dfa": (rd.DFA, {}, SEQUENCE, 2),
}
classifier = CLASSIFIERS["bert_classes"]


def models(head, num_teachers, **options):
    student_of, teacher_of = (toy_distilbert, toy_bert) if head == MASKED else (classifier, classifier)
    student = student_of(1, **options)
    return student, [teacher_of(depth, seed=depth, dtype=student.dtype) for depth in range(2, 2 + num_teachers)]


@pytest.mark.parametrize("name", CASES)
def test_losses_terms_and_trained_weights_are_those_of_a_job_over_whole_optimizer_steps(name, tmp_path):
    method, options, head, number = CASES[name]
    expected_student, teachers = models(head, number)
    trainer = trainer_of(tmp_path, method(**options), *models(head, number), head=head)
    spec = MethodSpec.parse({"name": name, **options})
    expected = platform_steps(spec, expected_student, teachers, head=head, seed=trainer.args.seed)
    trainer.train()
    found = logged(trainer, expected[0])
    assert len(found) == 4
    for one, other in zip(found, expected, strict=True):
        # The Trainer adds losses up in float32.
        assert one == pytest.approx(other, rel=1e-6, abs=1e-6)
    torch.testing.assert_close(weights(trainer.model), weights(expected_student), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["kd", "dfa"])
def test_a_resumed_training_ends_as_an_undisturbed_one(name, tmp_path):
    method, options, head, number = CASES[name]
    changes = {"save_strategy": "steps", "save_steps": 2}

    def run(resume):
        trainer = trainer_of(
            tmp_path, method(**options), *models(head, number, dropout=0.1), head=head, changes=changes
        )
        trainer.train(resume_from_checkpoint=resume)
        return weights(trainer.distillation)

    whole = run(None)
    torch.testing.assert_close(run(str(tmp_path / "checkpoint-2")), whole, rtol=0, atol=0)
    adapters = (tmp_path / "checkpoint-2" / "distillation_adapters.safetensors").exists()
    assert adapters == (name == "dfa")


def test_a_saved_folder_is_the_students_alone(tmp_path):
    method, options, head, number = CASES["dfa"]
    trainer = trainer_of(tmp_path, method(**options), *models(head, number, dtype=torch.float32), head=head)
    trainer.train()
    trainer.save_model(tmp_path / "saved")
    opened, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    torch.testing.assert_close(weights(opened), weights(trainer.model), rtol=0, atol=0)
    assert not [file for file in (tmp_path / "saved").iterdir() if "adapters" in file.name]
    assert (tmp_path / "saved" / "tokenizer.json").exists()


def test_metrics_are_of_what_the_student_says_and_the_evaluation_loss_is_the_methods(tmp_path):
    seen = {}

    def accuracy(prediction):
        seen["logits"], seen["labels"] = prediction.predictions, prediction.label_ids
        return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}

    student, teachers = models(SEQUENCE, 1)
    method = rd.KD(temperature=2.0)
    trainer = trainer_of(
        tmp_path, method, student, teachers, head=SEQUENCE, eval_dataset=rows_of(SEQUENCE), compute_metrics=accuracy
    )
    metrics = trainer.evaluate()
    student.eval()
    batch = trainer.data_collator([{k: v for k, v in row.items() if k != "row_id"} for row in rows_of(SEQUENCE)])
    with torch.no_grad():
        logits = student(**{name: batch[name] for name in ("input_ids", "attention_mask")}).logits
        loss = method.build(student, teachers)(batch)[0]
    np.testing.assert_allclose(seen["logits"], logits, atol=1e-9)
    assert metrics["eval_accuracy"] == float((logits.argmax(-1) == batch["labels"]).double().mean())
    # A mean over rows of the means of batches.
    assert metrics["eval_loss"] == pytest.approx(loss.item(), rel=1e-6)
    assert trainer.predict(rows_of(SEQUENCE)).predictions.shape == (6, 3)


def test_callbacks_see_the_student_and_can_stop_the_training(tmp_path):
    seen = []

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **others):
            seen.append(model)
            control.should_training_stop = state.global_step == 3

    student, teachers = models(SEQUENCE, 1)
    trainer = trainer_of(tmp_path, rd.KD(), student, teachers, head=SEQUENCE, callbacks=[Stop()])
    assert trainer.train().global_step == 3
    assert len(seen) == 3
    assert all(one is student for one in seen)
    assert trainer.model is student
    assert student.training


def test_mixed_precision_trains_weights_in_full_precision(tmp_path):
    losses = {}
    for precision in (False, True):
        trainer = trainer_of(
            tmp_path,
            rd.KD(temperature=2.0),
            *models(SEQUENCE, 1, dtype=torch.float32),
            head=SEQUENCE,
            changes={"bf16": precision},
        )
        trainer.train()
        assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}
        losses[precision] = [one["loss"] for one in logged(trainer, ["loss"])]
    assert losses[True] == pytest.approx(losses[False], rel=0.1)
    assert losses[True] != losses[False]


def test_adapters_have_the_rate_of_their_method_with_the_students_schedule(tmp_path):
    method, _, head, number = CASES["dfa"]
    student, teachers = models(head, number)
    trainer = trainer_of(
        tmp_path,
        method(adapter_learning_rate=0.5),
        student,
        teachers,
        head=head,
        changes={"lr_scheduler_type": "linear"},
    )
    trainer.create_optimizer_and_scheduler(10)
    own = {id(parameter) for parameter in student.parameters()}
    rates = {group["lr"] for group in trainer.optimizer.param_groups if id(group["params"][0]) not in own}
    assert rates == {0.5}
    assert {group["lr"] for group in trainer.optimizer.param_groups} == {0.5, trainer.args.learning_rate}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"activation_checkpointing": True}, "args.gradient_checkpointing is True, but methods run blocks by"),
        ({"label_smoothing_factor": 0.1}, "args.label_smoothing_factor is 0.1, but the loss is the method's"),
    ],
)
def test_arguments_that_cannot_work_with_a_method_are_refused(changes, says, tmp_path):
    student, teachers = models(SEQUENCE, 1)
    with pytest.raises(ValueError, match=says):
        trainer_of(tmp_path, rd.KD(), student, teachers, head=SEQUENCE, changes=changes)
    with pytest.raises(ValueError, match="compute_loss_func is given"):
        trainer_of(tmp_path, rd.KD(), student, teachers, head=SEQUENCE, compute_loss_func=print)


def test_a_method_that_cannot_run_says_why_before_and_while_training(tmp_path):
    student, teachers = models(SEQUENCE, 1)
    with pytest.raises(ValueError, match="compares two teachers"):
        trainer_of(tmp_path, rd.Muki(), student, teachers, head=SEQUENCE)
    trainer = trainer_of(tmp_path, rd.Causal(mapping=SITES), *models(MASKED, 1), head=MASKED)
    with pytest.raises(ValueError, match="needs a partner of each row"):
        trainer.train()
