"""Language models distilled from several teachers: mixed by weights, or one for the rows of each corpus."""

import math
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy, log_softmax

from raydistill.batch import Batch
from raydistill.losses.chunked_head import vocabulary_losses
from raydistill.losses.divergences import NAMES, divergence_of
from raydistill.losses.top_k import TopK, mixed, top_k_divergence, top_k_of
from raydistill.methods import kd
from raydistill.models.offloading import put_away
from raydistill.tasks import clm
from raydistill.tasks._base import Encoding
from raydistill.user_error import UserError
from toys.families import toy_gpt2
from toys.models import VOCABULARY, parameter_gradients, toy_batch, toy_bert, toy_distilbert

FAMILIES = {"mlm": (toy_bert, toy_distilbert), "clm": (toy_gpt2, toy_gpt2)}
WEIGHTS = (1.0, 3.0)


def batch_of(task: str, numbers: list[int] | None = None) -> Batch:
    batch = toy_batch()
    if task == "clm":
        batch = clm.Task(clm.Config(), Encoding(VOCABULARY, {}, (), 40)).prepare_batch(batch)
    return batch if numbers is None else batch.with_columns(teacher_number=torch.tensor(numbers))


def teachers_of(task: str) -> list[torch.nn.Module]:
    return [FAMILIES[task][0](depth, seed=depth).eval() for depth in (3, 2)]


def student_of(task: str) -> torch.nn.Module:
    return FAMILIES[task][1](2, seed=7)


def logits_of(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Logits of transformers' own forward pass at flat positions, (B * T, V)."""
    said = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"].long())
    return said.logits.flatten(0, 1)


def log_probs_of_teachers(config: kd.Config, teachers: list[torch.nn.Module], batch: Batch) -> torch.Tensor:
    """The logarithm of what the student is compared with, at all flat positions."""
    with torch.no_grad():
        each = torch.stack([log_softmax(logits_of(one, batch) / config.temperature, -1) for one in teachers])
    if config.teacher_weights:
        shares = torch.tensor(config.teacher_weights, dtype=each.dtype) / sum(config.teacher_weights)
        return (each.exp() * shares[:, None, None]).sum(0).log()
    of_row = batch["teacher_number"].repeat_interleave(batch["input_ids"].shape[1])
    return each.gather(0, of_row[None, :, None].expand(1, -1, each.shape[-1]))[0]


def whole(config: kd.Config, student: torch.nn.Module, teachers: list[torch.nn.Module], batch: Batch) -> torch.Tensor:
    """The loss by logits of all positions."""
    logits = logits_of(student, batch)
    index = batch["token_index"] if config.positions == "all" else batch["label_index"]
    log_q = log_softmax(logits[index] / config.temperature, -1)
    divergence = divergence_of(config.divergence, beta=config.beta, skew=config.skew)
    soft = config.temperature**2 * divergence(log_q, log_probs_of_teachers(config, teachers, batch)[index])[0]
    hard = cross_entropy(logits[batch["label_index"]], batch["labels"])
    return config.alpha * soft.mean() + (1 - config.alpha) * hard


def assert_equals_whole(config: kd.Config, task: str, batch: Batch, teachers: list[torch.nn.Module]) -> kd.Method:
    student = student_of(task)
    method = kd.Method(config, student, teachers)
    loss, terms = method(kd.Method.prepare_batch(config, batch))
    found = parameter_gradients(loss, student)
    expected = whole(config, student, teachers, batch)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    assert set(terms) == ({task, "kd"} if config.alpha < 1 else {"kd"})
    for name, gradient in parameter_gradients(expected, student).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12)
    return method


@pytest.mark.parametrize(
    ("task", "divergence", "at"),
    [
        *(("clm", name, "all") for name in NAMES),
        ("mlm", "forward_kl", "all"),
        ("mlm", "jsd", "masked"),
        ("clm", "forward_kl", "completion"),
    ],
)
def test_a_mixture_equals_the_weighted_mean_of_whole_probabilities(task: str, divergence: str, at: str) -> None:
    config = kd.Config(divergence=divergence, temperature=2.0, alpha=0.6, positions=at, teacher_weights=WEIGHTS)
    batch = batch_of(task)
    method = assert_equals_whole(config, task, batch, teachers_of(task))
    assert method.teacher_rows == 2 * batch.num_rows


def test_weights_are_divided_by_their_sum_and_equal_teachers_are_one() -> None:
    batch, teacher, losses = batch_of("clm"), teachers_of("clm")[0], []
    for weights, teachers in ((), [teacher]), ((2.0, 5.0), [teacher, teacher]):
        losses.append(kd.Method(kd.Config(teacher_weights=weights), student_of("clm"), teachers)(batch)[0].item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-12)


@pytest.mark.parametrize("task", FAMILIES)
@pytest.mark.parametrize(("alpha", "at_labels"), [(0.6, False), (1.0, False), (0.6, True)])
def test_rows_of_each_corpus_learn_from_its_teacher_alone(task: str, alpha: float, at_labels: bool) -> None:
    at = {"mlm": "masked", "clm": "completion"}[task] if at_labels else "all"
    config = kd.Config(temperature=2.0, alpha=alpha, positions=at, teacher_of={"plays": 0, "code": 1})
    batch = batch_of(task, numbers())
    method = assert_equals_whole(config, task, batch, teachers_of(task))
    assert method.teacher_rows == batch.num_rows


@pytest.mark.parametrize("divergence", ["reverse_kl", "tvd"])
def test_a_batch_without_a_row_of_one_teacher_asks_it_about_one_row_and_learns_nothing_of_it(divergence: str) -> None:
    config = kd.Config(divergence=divergence, teacher_of={"plays": 0, "code": 1})
    batch = batch_of("clm", [1] * toy_batch().num_rows)
    method = assert_equals_whole(config, "clm", batch, teachers_of("clm"))
    assert method.teacher_rows == batch.num_rows + 1


@pytest.mark.parametrize("options", [{"teacher_weights": WEIGHTS}, {"teacher_of": {"plays": 0, "code": 1}}])
def test_teachers_whose_weights_wait_their_turn_say_the_same(options: dict[str, Any]) -> None:
    config = kd.Config(**options)
    batch = kd.Method.prepare_batch(config, batch_of("clm", numbers()))
    losses = []
    for away in (False, True):
        teachers = teachers_of("clm")
        for teacher in teachers if away else ():
            put_away(teacher, device=torch.device("cpu"))
        losses.append(kd.Method(config, student_of("clm"), teachers)(batch)[0].item())
        assert all(parameter.numel() == 0 for one in teachers for parameter in one.parameters()) is away
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def numbers() -> list[int]:
    return [number % 2 for number in range(toy_batch().num_rows)]


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_size_of_chunks_changes_no_mixture() -> None:
    states, weight = drawn(0, 11, 8), drawn(1, 37, 8).requires_grad_()
    members = [(0.3, drawn(2, 11, 5), (drawn(3, 37, 5), drawn(4, 37))), (0.7, drawn(5, 11, 8), (drawn(6, 37, 8), None))]
    found = []
    for rows in (2, 5, 11):
        loss, sums = vocabulary_losses(
            states, (weight, None), weights={"kl": 0.5}, temperature=1.5, mixture=members, chunk_rows=rows
        )
        found.append((sums["kl"], *torch.autograd.grad(loss, weight)))
    for other in found[1:]:
        for value, expected in zip(other, found[0], strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-13)


def sharp(seed: int) -> torch.Tensor:
    """Logits that two seeds share in part, so that their likeliest ids do too."""
    return 3 * drawn(99, 6, 50) + drawn(seed, 6, 50)


@pytest.mark.parametrize("name", NAMES)
def test_stored_ids_are_mixed_exactly_where_all_are_kept_and_never_diverge_more(name: str) -> None:
    logits = [sharp(seed) for seed in (1, 2, 3)]
    shares = [0.2, 0.3, 0.5]
    log_p = torch.stack([log_softmax(one, -1) + math.log(share) for one, share in zip(logits, shares, strict=True)])
    student, log_p = sharp(4), log_p.logsumexp(0)
    exact = divergence_of(name)(log_softmax(student, -1), log_p)[0]
    for ks in ((50, 50, 50), (8, 8, 8), (16, 4, 9), (1, 1, 1)):
        kept = mixed([top_k_of(one, k) for one, k in zip(logits, ks, strict=True)], shares)
        values, _ = top_k_divergence(student, kept, divergence_of(name))
        assert (values <= exact + 1e-12).all()
        if ks == (50, 50, 50):
            torch.testing.assert_close(values, exact, rtol=1e-9, atol=1e-12)
        assert_joins_the_mixture(kept, log_p)


def assert_joins_the_mixture(kept: TopK, log_p: torch.Tensor) -> None:
    """Ids that are kept have the mixture's probabilities, the tail has all others'."""
    known = ~kept.log_probs.isinf()
    torch.testing.assert_close(kept.log_probs[known], log_p.gather(-1, kept.ids)[known], rtol=1e-9, atol=1e-12)
    total = kept.log_probs.exp().sum(-1) + kept.log_tail.exp()
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-12, atol=1e-12)


def test_an_id_counts_to_the_tail_unless_every_teacher_kept_it() -> None:
    kept = mixed([top_k_of(sharp(1), 12), top_k_of(sharp(2), 7)], [0.5, 0.5])
    expected = (top_k_of(sharp(1), 12).ids[:, :, None] == top_k_of(sharp(2), 7).ids[:, None]).any(-1)
    assert torch.equal(~kept.log_probs.isinf(), expected)
    assert 0 < expected.sum() < expected.numel()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher_weights": (1.0, 0.0)}, r"teacher_weights\.1 is 0\.0; it must be positive"),
        ({"teacher_weights": (1.0, 1.0), "divergence": "mse"}, "divergence is 'mse', but several teachers are mixed"),
        ({"teacher_weights": (1.0,), "teacher_of": {"plays": 0}}, "teacher_weights and teacher_of are given"),
        ({"teacher_of": {"plays": 0, "code": 2}}, "teacher_of has the teachers 0, 2; number them from 0"),
    ],
)
def test_wrong_teachers_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        kd.Config(**options)


def test_several_teachers_are_those_of_language_models_and_as_many_as_named() -> None:
    for options in ({"teacher_weights": WEIGHTS}, {"teacher_of": {"plays": 0, "code": 1, "letters": 0}}):
        needs = kd.Method.requirements(kd.Config(**options))
        assert (needs.min_teachers, needs.max_teachers) == (2, 2)
        assert needs.heads == ("masked_lm", "causal_lm")
        assert kd.Method.requirements(kd.Config(alpha=0.0, **options)).max_teachers == 0


def test_a_batch_that_does_not_tell_its_corpora_is_refused() -> None:
    with pytest.raises(UserError, match=r"teacher_of names corpora, but the batch does not tell which"):
        kd.Method.prepare_batch(kd.Config(teacher_of={"plays": 0, "code": 1}), batch_of("clm"))
