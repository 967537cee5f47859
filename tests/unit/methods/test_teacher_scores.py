"""Scores of teachers: of one pass, of live passes with dropout, and stored."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raydistill.batch import Batch, encoding_prefix
from raydistill.data.teacher_inference import TeacherOutputs
from raydistill.methods import kd, muki
from raydistill.methods._base import Distiller
from raydistill.methods.muki import check_dropping, check_scores, teacher_scores
from raydistill.models.classes import with_classes
from raydistill.models.dropout_scores import dropout_scores, pass_seeds, single_pass_scores
from raydistill.models.load import load_model
from raydistill.models.offloading import put_away
from raydistill.models.predictions import predict
from toys.capture import capture_stage, context_of, run_of, write_labelled
from toys.classifiers import CLASSES, toy_classifier, toy_labelled_batch
from toys.families import toy_roberta
from toys.models import toy_bert

HEAD = "sequence_classification"
DROPOUT = muki.Config(scores="dropout", dropout_passes=4)


def distiller_of(teachers: Sequence[nn.Module]) -> Distiller:
    return kd.Method(kd.Config(), toy_classifier(toy_bert, 1, dropout=0.3), teachers)


def two_teachers(dropout: float = 0.3) -> list[nn.Module]:
    """One of two classes and one of three, of different families."""
    return [
        toy_classifier(toy_bert, 2, labels=("red", "green"), dropout=dropout),
        toy_classifier(toy_roberta, 2, labels=CLASSES, dropout=dropout, seed=3),
    ]


def logits_of(distiller: Distiller, batch: Batch) -> list[Tensor]:
    return [distiller.teacher_logits(batch, number=number) for number in range(len(distiller.teachers))]


def scores_of(distiller: Distiller, batch: Batch, config: muki.Config = DROPOUT) -> Tensor:
    return teacher_scores(distiller, batch, config, logits_of(distiller, batch))


def sines(shape: tuple[int, ...], a: float, b: float, scale: float) -> Tensor:
    n = torch.arange(math.prod(shape), dtype=torch.float64)
    return (scale * torch.sin(a * n**2 + b * n + 0.1)).reshape(shape)


PUBLISHED_LOGITS = [sines((4, 2), 0.21, 0.9, 3), sines((4, 3), 0.13, 0.5, 3)]


def test_scores_of_one_pass_are_the_published_ones() -> None:
    """Section 9.1 of the specification, from the original classes."""
    expected = [
        [0.614440408098, 0.321851511817],
        [0.886502196035, 0.638281221248],
        [0.784943775697, 0.822645955053],
        [0.861237445102, 0.324907024157],
    ]
    found = teacher_scores(distiller_of([]), toy_labelled_batch("classes", range(4)), muki.Config(), PUBLISHED_LOGITS)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-11, rtol=0)


def test_scores_of_one_pass_are_those_of_the_tempered_soft_labels() -> None:
    config = muki.Config(temperature=3.0)
    found = teacher_scores(distiller_of([]), toy_labelled_batch("classes", range(4)), config, PUBLISHED_LOGITS)
    for number, logits in enumerate(PUBLISHED_LOGITS):
        p = (logits / 3).softmax(-1)
        torch.testing.assert_close(found[:, number], 1 + (p * p.log()).sum(-1) / math.log(p.shape[-1]))


def training_flags(distiller: Distiller) -> list[bool]:
    """Filled, whenever a part of a teacher runs, with whether it drops."""
    seen: list[bool] = []
    for teacher in distiller.teachers:
        for part in list(teacher.modules())[1:]:
            part.register_forward_pre_hook(lambda module, inputs: seen.append(module.training))
    return seen


def test_dropout_of_teachers_is_active_in_the_passes_and_off_before_and_after() -> None:
    distiller, batch = distiller_of(two_teachers()), toy_labelled_batch("classes")
    distiller.train()
    seen = training_flags(distiller)
    before = logits_of(distiller, batch)
    assert seen
    assert not any(seen)
    seen.clear()
    scores = teacher_scores(distiller, batch, DROPOUT, before)
    assert seen
    assert all(seen)
    seen.clear()
    after = logits_of(distiller, batch)
    assert seen
    assert not any(seen)
    assert all(map(torch.equal, before, after))
    assert not any(part.training for teacher in distiller.teachers for part in teacher.modules())
    for number, logits in enumerate(before):
        # Passes that all were alike would have the score of one.
        assert not torch.isclose(scores[:, number], single_pass_scores(logits), atol=1e-3).any()


def test_every_pass_drops_something_else() -> None:
    distiller, batch = distiller_of(two_teachers()), toy_labelled_batch("classes")
    one, two = (
        dropout_scores(distiller.teachers[0], batch, head=HEAD, seeds=[seed])
        for seed in pass_seeds(batch, seed=batch.seed, passes=2)
    )
    assert not torch.isclose(one, two).any()


def test_the_students_own_dropout_is_the_same_with_the_passes_and_without() -> None:
    distiller, batch = distiller_of(two_teachers()), toy_labelled_batch("classes")
    distiller.train()
    torch.manual_seed(0)
    expected = predict(distiller.student, batch, head=HEAD).logits
    following = torch.rand(3)
    torch.manual_seed(0)
    scores_of(distiller, batch)
    assert all(part.training for part in distiller.student.modules())
    assert torch.equal(predict(distiller.student, batch, head=HEAD).logits, expected)
    assert torch.equal(torch.rand(3), following)


def test_scores_repeat_with_the_seed_and_the_batch_and_change_with_either() -> None:
    distiller, batch = distiller_of(two_teachers()), toy_labelled_batch("classes")
    first = scores_of(distiller, batch)
    torch.rand(7)
    assert torch.equal(scores_of(distiller, batch), first)
    of_seed = muki.Config(scores="dropout", dropout_passes=4, dropout_seed=batch.seed)
    assert torch.equal(scores_of(distiller, batch, of_seed), first)
    other = muki.Config(scores="dropout", dropout_passes=4, dropout_seed=batch.seed + 1)
    assert not torch.isclose(scores_of(distiller, batch, other), first).any()
    turned = scores_of(distiller, toy_labelled_batch("classes", range(5, -1, -1))).flip(0)
    assert not torch.isclose(turned, first).any()


def test_a_single_row_has_scores() -> None:
    found = scores_of(distiller_of(two_teachers()), toy_labelled_batch("classes", [2]))
    assert found.shape == (1, 2)
    assert ((found >= 0) & (found <= 1)).all()


@pytest.mark.parametrize("config", [DROPOUT, muki.Config()], ids=["dropout", "single_pass"])
def test_scores_have_no_gradient(config: muki.Config) -> None:
    distiller, batch = distiller_of(two_teachers()), toy_labelled_batch("classes")
    for teacher in distiller.teachers:
        teacher.requires_grad_(True)
    logits = [predict(teacher, batch, head=HEAD).logits for teacher in distiller.teachers]
    assert logits[0].requires_grad
    assert not teacher_scores(distiller, batch, config, logits).requires_grad


def test_rows_of_live_passes_are_counted() -> None:
    distiller, batch = distiller_of(two_teachers()), toy_labelled_batch("classes")
    logits = logits_of(distiller, batch)
    counted = distiller.teacher_rows
    teacher_scores(distiller, batch, DROPOUT, logits)
    assert distiller.teacher_rows - counted == 2 * 4 * batch.num_rows
    teacher_scores(distiller, batch, muki.Config(), logits)
    assert distiller.teacher_rows - counted == 2 * 4 * batch.num_rows


def test_stored_scores_are_taken_as_they_are_and_no_teacher_runs() -> None:
    batch = toy_labelled_batch("classes", range(4))
    stored = {"teacher_0_dropout_scores": torch.rand(4), "teacher_1_dropout_scores": torch.rand(4)}
    found = teacher_scores(distiller_of([]), batch.with_columns(**stored), DROPOUT, PUBLISHED_LOGITS)
    assert torch.equal(found, torch.stack([*stored.values()], dim=1))


def test_teacher_dropout_replaces_that_of_the_checkpoint() -> None:
    batch = toy_labelled_batch("classes")
    config = muki.Config(scores="dropout", dropout_passes=4, teacher_dropout=0.3)
    expected = scores_of(distiller_of(two_teachers()), batch)
    assert torch.equal(scores_of(distiller_of(two_teachers(0.0)), batch, config), expected)


def test_passes_read_the_encoding_of_their_teacher() -> None:
    batch, teachers = toy_labelled_batch("classes"), two_teachers()
    ids = batch["input_ids"].clone()
    ids[:, 1:4] = 7
    further = {"input_ids": ids, **{name: batch[name] for name in ("attention_mask", "lengths", "token_index")}}
    both = batch.with_columns(**{encoding_prefix(1) + name: column for name, column in further.items()})
    distiller = distiller_of(teachers)
    distiller.encodings = (0, 1)
    found, own = scores_of(distiller, both), scores_of(distiller_of(teachers), batch)
    of_further = scores_of(distiller_of(teachers), batch.with_columns(input_ids=ids))
    assert torch.equal(found, torch.stack([own[:, 0], of_further[:, 1]], dim=1))
    assert not torch.isclose(of_further[:, 1], own[:, 1]).any()


def test_passes_of_a_teacher_whose_weights_wait_in_a_file_are_those_of_one_in_memory() -> None:
    batch = toy_labelled_batch("classes")
    expected = scores_of(distiller_of(two_teachers()), batch)
    waiting = [put_away(teacher, device=torch.device("cpu")) for teacher in two_teachers()]
    # Weights in a mapped file are aligned otherwise, and sums are rounded in another order.
    torch.testing.assert_close(scores_of(distiller_of(waiting), batch), expected, atol=1e-12, rtol=0)


ROWS = np.arange(8)
PASSES = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("scores")
    write_labelled(found)
    return found


@pytest.fixture(scope="module")
def captured(folder: Path) -> dict[str, Any]:
    """What a capture with the seed 5 stores of eight rows in one batch, which it sorts by length, and that batch."""
    stage = capture_stage(folder, outputs=["dropout_scores"], dropout_passes=PASSES)
    outputs = TeacherOutputs(run_of(stage, 0, context_of(stage, folder / "out")))
    builder = outputs._builders[0]
    order = np.argsort(builder.corpus.lengths[ROWS], kind="stable")
    assert order[0] != 0
    found = outputs.of(0, ROWS)["dropout_scores"]
    return {"found": torch.from_numpy(found), "order": order, "builder": builder}


def teacher_of(folder: Path) -> Distiller:
    return distiller_of([load_model(folder / "teacher", head=HEAD, labels=CLASSES)])


def test_live_scores_of_the_batch_and_the_seed_of_a_capture_are_the_stored_ones(
    folder: Path, captured: dict[str, Any]
) -> None:
    batch = captured["builder"].batch(ROWS[captured["order"]], epoch=0, step=0)
    config = muki.Config(scores="dropout", dropout_passes=PASSES, dropout_seed=5)
    live = scores_of(teacher_of(folder), batch, config)[:, 0]
    assert torch.equal(live, captured["found"][captured["order"]])


def test_live_scores_of_another_batch_are_the_stored_ones_within_their_sampling_error(
    folder: Path, captured: dict[str, Any]
) -> None:
    batch = captured["builder"].batch(ROWS, epoch=0, step=0)
    distiller = teacher_of(folder)
    config = muki.Config(scores="dropout", dropout_passes=PASSES, dropout_seed=5)
    live = scores_of(distiller, batch, config)[:, 0].double()
    difference = live - captured["found"].double()
    assert (difference != 0).all()
    of_row, of_mean = sampling_errors(distiller.teachers[0], batch)
    assert (difference.abs() <= of_row).all()
    assert difference.mean().abs() <= of_mean
    # A teacher that drops nothing has other scores than that.
    quiet = single_pass_scores(distiller.run_teacher(batch).logits).double()
    assert (quiet - captured["found"].double()).mean().abs() > 1.5 * of_mean


def sampling_errors(teacher: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """How far the scores of two independent means of PASSES passes may lie apart, in each row (B,) and in their mean.

    u is a function of the mean of the passes' p, with gradient (1 + log p_c) / log C and second derivatives
    1 / (p_c log C): to first order the difference is normal with variance 2 g' S g / K, S the covariance of one pass,
    of which five standard deviations are allowed; the second-order terms are of the size of tr(H S) / K. What is
    dropped of one row has nothing to do with what is dropped of another, so the variance of the mean is a B-th.
    """
    torch.manual_seed(99)
    teacher.train()
    with torch.no_grad():
        passes = torch.stack([predict(teacher, batch, head=HEAD).logits.double().softmax(-1) for _ in range(150)])
    teacher.eval()
    mean, log_classes = passes.mean(0), math.log(passes.shape[-1])
    gradient = (1 + mean.log()) / log_classes
    first = ((passes - mean) * gradient).sum(-1).var(0)
    second = (passes.var(0) / mean).sum(-1) / log_classes
    variance = 2 * first / PASSES
    of_row, of_mean = variance.sqrt(), variance.mean().sqrt() / len(variance) ** 0.5
    return 5 * of_row + second / PASSES, 5 * of_mean + second.mean() / PASSES


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scores": "margin"}, "scores is 'margin'; choices: single_pass, dropout"),
        ({"temperature": 0.0}, "temperature is 0.0; it must be positive and finite"),
        ({"scores": "dropout", "dropout_passes": 1}, "dropout_passes is 1; a mean needs at least 2"),
        ({"scores": "dropout", "teacher_dropout": 1.0}, "teacher_dropout is 1.0; it must be between 0 and 1, or null"),
        ({"teacher_dropout": 0.1}, "teacher_dropout is 0.1, but scores is 'single_pass', which drops nothing; remove"),
        ({"dropout_seed": 0}, "dropout_seed is 0, but scores is 'single_pass', which drops nothing; remove it"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        muki.Config(**options)
    assert "\n" not in str(error.value)


def test_a_teacher_with_a_single_output_is_refused() -> None:
    base = toy_bert(1).config
    teachers = [with_classes(base, CLASSES), with_classes(base, ())]
    with pytest.raises(ValueError, match=r"teachers\.1 has a single output, so it is equally sure of all rows; give"):
        check_scores(teachers)
    check_scores(teachers[:1])


def test_a_teacher_without_dropout_is_refused_unless_it_is_given_some() -> None:
    teachers = [with_classes(toy_bert(1, dropout=dropout).config, CLASSES) for dropout in (0.1, 0.0)]
    with pytest.raises(ValueError, match=r"teachers\.1 has no dropout; give method\.teacher_dropout, such as 0\.1"):
        check_dropping(DROPOUT, teachers)
    check_dropping(DROPOUT, teachers[:1])
    check_dropping(muki.Config(), teachers)
    check_dropping(muki.Config(scores="dropout", teacher_dropout=0.1), teachers)


def test_what_is_read_of_teachers_may_be_stored_and_live_passes_couple_rows() -> None:
    single, dropout = muki.Method.requirements(muki.Config()), muki.Method.requirements(DROPOUT)
    assert single.stored == ("logits",)
    assert dropout.stored == ("logits", "dropout_scores")
    assert dropout.execution.batch_dependent_when_live
    assert not single.execution.batch_dependent_when_live
