import pytest
import torch
from torch.nn.functional import cross_entropy, log_softmax

from raydistill.losses.divergences import NAMES, divergence_of
from raydistill.methods import kd
from raydistill.tasks import clm
from raydistill.tasks._base import Encoding
from raydistill.user_error import UserError
from toys.families import toy_gpt2
from toys.models import VOCABULARY, parameter_gradients, toy_batch, toy_bert, toy_distilbert

FAMILIES = {"mlm": (toy_bert, toy_distilbert), "clm": (toy_gpt2, toy_gpt2)}


def batch_of(task: str):
    batch = toy_batch()
    if task == "mlm":
        return batch
    return clm.Task(clm.Config(), Encoding(VOCABULARY, {}, (), 40)).prepare_batch(batch)


def logits_of(model, batch):
    """Logits of transformers' own forward pass at flat positions, (B * T, V)."""
    said = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"].long())
    return said.logits.flatten(0, 1)


def whole(options, student, teacher, batch):
    """The loss by logits of all positions."""
    config = kd.Config(**options)
    with torch.no_grad():
        teacher_logits = logits_of(teacher, batch)
    logits = logits_of(student, batch)
    index = batch["token_index"] if config.positions == "all" else batch["label_index"]
    if config.divergence == "mse":
        soft = (logits - teacher_logits)[index].square().sum(-1)
    else:
        log_q, log_p = (log_softmax(each[index] / config.temperature, -1) for each in (logits, teacher_logits))
        divergence = divergence_of(config.divergence, beta=config.beta, skew=config.skew)
        soft = config.temperature**2 * divergence(log_q, log_p)[0]
    hard = cross_entropy(logits[batch["label_index"]], batch["labels"])
    return config.alpha * soft.mean() + (1 - config.alpha) * hard


@pytest.mark.parametrize("task", FAMILIES)
@pytest.mark.parametrize("divergence", [*NAMES, "mse"])
@pytest.mark.parametrize("at_labels", [False, True])
def test_loss_and_gradients_equal_those_of_whole_logits(task, divergence, at_labels):
    make_teacher, make_student = FAMILIES[task]
    teacher, student = make_teacher(3), make_student(2)
    at = {"mlm": "masked", "clm": "completion"}[task] if at_labels else "all"
    options = {"divergence": divergence, "temperature": 2.0, "alpha": 0.6, "positions": at, "beta": 0.3, "skew": 0.2}
    batch = batch_of(task)
    loss, terms = kd.Method(kd.Config(**options), student, [teacher])(batch)
    found = parameter_gradients(loss, student)
    expected = whole(options, student, teacher.eval(), batch)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    assert set(terms) == {task, "kd"}
    for name, gradient in parameter_gradients(expected, student).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_term_without_weight_is_left_out(alpha):
    student, teachers = toy_distilbert(2), [toy_bert(3)] if alpha else []
    _, terms = kd.Method(kd.Config(alpha=alpha), student, teachers)(batch_of("mlm"))
    assert set(terms) == ({"kd"} if alpha else {"mlm"})


def test_positions_name_the_heads_that_they_suit():
    heads = {at: kd.Method.requirements(kd.Config(positions=at)).heads for at in ("all", "masked", "completion")}
    assert heads["masked"] == ("masked_lm",)
    assert heads["completion"] == ("causal_lm",)
    assert {"masked_lm", "causal_lm", "sequence_classification"} < set(heads["all"])


def test_classes_are_compared_by_the_same_divergences():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(4, 3, dtype=torch.float64, generator=generator) for _ in range(2))
    rows = kd.Config(divergence="jsd", beta=0.5, temperature=2.0).compare(student, teacher)
    q, p = (student / 2).softmax(-1), (teacher / 2).softmax(-1)
    mixture = (p + q) / 2
    expected = 4 * ((p * (p / mixture).log()).sum(-1) + (q * (q / mixture).log()).sum(-1)) / 2
    torch.testing.assert_close(rows, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"divergence": "kl"}, "divergence is 'kl'; choices: forward_kl"),
        ({"divergence": "jsd", "beta": 2.0}, "beta is 2.0; it must be between 0 and 1"),
        ({"positions": "none"}, "positions is 'none'; choices: all, masked, completion"),
    ],
)
def test_wrong_options_are_refused_with_their_choices(options, message):
    with pytest.raises(UserError, match=message):
        kd.Config(**options)
