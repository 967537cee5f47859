import math

import pytest
import torch

from raydistill.methods import muki
from raydistill.methods._base import stored_name
from toys.classifiers import toy_classifier, toy_labelled_batch
from toys.dynamic import printed
from toys.integration import STUDENT, TEACHERS, UNION, divergence, of_logits, student_of, unlabelled
from toys.models import toy_bert, toy_distilbert

FILE = torch.tensor([[0.9, 0.2], [0.3, 0.35], [0.1, 0.8], [0.6, 0.59]], dtype=torch.float64)
"""Scores that the published values read from a file."""
SINGLE_PASS = [
    [0.614440408098, 0.321851511817],
    [0.886502196035, 0.638281221248],
    [0.784943775697, 0.822645955053],
    [0.861237445102, 0.324907024157],
]


def with_scores(scores=FILE, rows=range(4), **options):
    """Loss and terms with scores of a file in place of the teachers'."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(muki, "teacher_scores", lambda *_: scores[list(rows)])
        return of_logits(muki, rows=rows, **options)


# Run on the published code.
@pytest.mark.parametrize(
    ("evaluate", "choice", "margin", "expected"),
    [
        (with_scores, "soft", False, 0.916149870535),
        (with_scores, "soft", True, 0.406017257567),
        (with_scores, "hard", False, 1.092251789267),
        (with_scores, "hard", True, 0.439752258074),
        (lambda **options: of_logits(muki, **options), "soft", False, 1.095010644279),
        (lambda **options: of_logits(muki, **options), "soft", True, 0.279760436774),
        (lambda **options: of_logits(muki, **options), "hard", False, 1.567754408622),
        (lambda **options: of_logits(muki, **options), "hard", True, 0.379871401336),
    ],
)
def test_published_losses(evaluate, choice, margin, expected):
    loss, terms = evaluate(teacher_choice=choice, margin_reweighting=margin)
    assert loss.item() == printed(expected, 12)
    assert terms["kd"] == loss


def test_published_scores_of_a_single_pass():
    config = muki.Config()
    method = muki.Method(config, student_of(), teacher_labels=(UNION[:2], UNION[2:]))
    scores = muki.teacher_scores(method, unlabelled(toy_labelled_batch("classes", range(4))), config, TEACHERS)
    for found, expected in zip(scores.tolist(), SINGLE_PASS, strict=True):
        assert found == printed(expected, 12)


def test_scores_of_a_single_pass_are_taken_at_the_temperature():
    _, terms = of_logits(muki, temperature=2.0)
    for number, logits in enumerate(TEACHERS):
        own = (logits / 2).softmax(-1)
        entropy = -(own * own.log()).sum(-1) / math.log(logits.shape[-1])
        assert terms[f"teacher_{number}_score"].item() == pytest.approx((1 - entropy).mean().item(), abs=1e-12)


def padded(number, temperature=1.0):
    """A teacher's own probabilities among all classes."""
    own = (TEACHERS[number] / temperature).softmax(-1)
    zeros = torch.zeros(4, 5 - own.shape[1], dtype=torch.float64)
    return torch.cat([own, zeros] if number == 0 else [zeros, own], dim=1)


def test_the_soft_target_is_a_mean_weighted_by_the_scores_and_no_temperature_squared_stands_before_it():
    loss, terms = with_scores(temperature=2.0, teacher_score_temperature=0.5, margin_reweighting=False, kd_alpha=3.0)
    shares = (FILE / 0.5).softmax(-1)
    target = shares[:, :1] * padded(0, 2.0) + shares[:, 1:] * padded(1, 2.0)
    assert loss.item() == pytest.approx(3 * divergence(target, STUDENT / 2).mean().item(), abs=1e-12)
    for number in range(2):
        assert terms[f"teacher_{number}_share"].item() == pytest.approx(shares[:, number].mean().item(), abs=1e-12)
    assert "margin" not in terms


def test_the_margin_weighs_rows_and_is_not_divided_by_its_sum():
    loss, terms = with_scores(teacher_choice="hard")
    rows = torch.stack([divergence(padded(number), STUDENT) for number in range(2)], dim=1)
    chosen = rows[torch.arange(4), [0, 1, 1, 0]]
    margin = (FILE[:, 0] - FILE[:, 1]).abs() + 1e-6
    assert loss.item() == pytest.approx((margin * chosen).mean().item(), abs=1e-12)
    assert terms["margin"].item() == pytest.approx(margin.mean().item(), abs=1e-12)
    assert terms["teacher_0_share"].item() == 0.5


@pytest.mark.parametrize("choice", ["hard", "soft"])
def test_a_batch_of_one_row_has_that_rows_loss(choice):
    alone = [with_scores(teacher_choice=choice, rows=[row])[0].item() for row in range(4)]
    assert sum(alone) / 4 == pytest.approx(with_scores(teacher_choice=choice)[0].item(), abs=1e-12)


def test_a_single_teacher_of_all_classes_is_distilled_plainly():
    teacher = (torch.cat(TEACHERS, dim=1),)
    loss, _ = of_logits(muki, teacher, labels=(UNION,), margin_reweighting=False)
    assert loss.item() == pytest.approx(divergence(teacher[0].softmax(-1), STUDENT).mean().item(), abs=1e-12)


def test_probabilities_that_underflow_leave_a_finite_loss():
    extreme = tuple(1e4 * logits for logits in TEACHERS)
    for choice in ("soft", "hard"):
        assert torch.isfinite(of_logits(muki, extreme, teacher_choice=choice)[0])


def experts():
    return [
        toy_classifier(toy_distilbert, 2, labels=("b", "e")),
        toy_classifier(toy_bert, 3, labels=("c", "a", "d", "b"), hidden_size=8),
        toy_classifier(toy_bert, 1, labels=("e", "d")),
    ]


def evaluate(method, batch):
    return method(batch, method.denominators(batch))


@pytest.mark.parametrize("scores", ["single_pass", "dropout"])
def test_stored_outputs_give_the_loss_of_teachers_that_run(scores):
    config = muki.Config(scores=scores, teacher_dropout=0.2 if scores == "dropout" else None)
    student, batch = student_of(), unlabelled(toy_labelled_batch("classes"))
    live = muki.Method(config, student, experts())
    labels = [tuple(teacher.config.id2label.values()) for teacher in live.teachers]
    logits = live.classes.logits(live, batch)
    columns = {stored_name(number, "logits"): one for number, one in enumerate(logits)}
    if scores == "dropout":
        found = muki.teacher_scores(live, batch, config, logits).unbind(dim=1)
        columns |= {stored_name(number, "dropout_scores"): one for number, one in enumerate(found)}
    stored = muki.Method(config, student, teacher_labels=labels)
    assert evaluate(stored, batch.with_columns(**columns)) == evaluate(live, batch)
    assert stored.teacher_rows == 0


@pytest.mark.parametrize(
    ("options", "stored", "coupled"),
    [
        ({}, ("logits",), False),
        ({"scores": "dropout"}, ("logits", "dropout_scores"), True),
    ],
)
def test_what_it_reads_may_be_stored(options, stored, coupled):
    needs = muki.Method.requirements(muki.Config(**options))
    assert (needs.min_teachers, needs.max_teachers) == (1, None)
    assert (needs.stored, needs.execution.batch_dependent_when_live) == (stored, coupled)
    # What is stored of a row is its own.
    assert not needs.execution.batch_dependent
    assert needs.execution.partial_label_space
    assert needs.execution.cross_tokenizer


def test_a_margin_with_one_teacher_is_refused():
    student = student_of().config
    with pytest.raises(ValueError, match="margin_reweighting is true, which compares two teachers, but teachers has 1"):
        muki.Method.check(muki.Config(), student, [student])
    muki.Method.check(muki.Config(margin_reweighting=False), student, [student])
    muki.Method.check(muki.Config(), student, [student, student])


def test_scores_of_texts_and_teachers_that_run_without_dropout_are_refused():
    student, score = student_of().config, toy_classifier(toy_bert, 1, labels=()).config
    with pytest.raises(ValueError, match="the student has a single output, a score"):
        muki.Method.check(muki.Config(), score, [student, student])
    with pytest.raises(ValueError, match=r"teachers\.0 has no dropout"):
        muki.Method.check_running(muki.Config(scores="dropout"), [student, student])
    # A capture may have their scores.
    muki.Method.check(muki.Config(scores="dropout"), student, [student, student])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher_choice": "first"}, "teacher_choice is 'first'; choices: soft, hard"),
        ({"teacher_score_temperature": 0.0}, "teacher_score_temperature is 0.0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"kd_alpha": 0.0}, "kd_alpha is 0"),
        ({"scores": "margin"}, "scores is 'margin'; choices: single_pass, dropout"),
        ({"scores": "dropout", "dropout_passes": 1}, "dropout_passes is 1"),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        muki.Config(**options)
