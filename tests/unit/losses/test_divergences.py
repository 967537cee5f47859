import pytest
import torch
from torch.nn.functional import kl_div, log_softmax, softmax

from raydistill.losses.chunked_head import vocabulary_losses
from raydistill.losses.divergences import NAMES, divergence_of, logits_gradient
from raydistill.losses.top_k import top_k_of

ROWS, VOCABULARY = 6, 37


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2


def kl(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return (first * (first / second).log()).sum(-1)


def plain(name: str, q: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """The definitions in probabilities."""
    beta, skew = 0.3, 0.2
    mixture = beta * p + (1 - beta) * q
    return {
        "forward_kl": lambda: kl(p, q),
        "reverse_kl": lambda: kl(q, p),
        "jsd": lambda: beta * kl(p, mixture) + (1 - beta) * kl(q, mixture),
        "skew_kl": lambda: kl(p, skew * p + (1 - skew) * q),
        "skew_reverse_kl": lambda: kl(q, skew * q + (1 - skew) * p),
        "tvd": lambda: (p - q).abs().sum(-1) / 2,
    }[name]()


@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradient_equal_the_plain_formula(name):
    student, teacher = drawn(0, ROWS, VOCABULARY).requires_grad_(), drawn(1, ROWS, VOCABULARY)
    expected = plain(name, softmax(student, -1), softmax(teacher, -1))
    (wanted,) = torch.autograd.grad(expected.sum(), student)
    log_q = log_softmax(student.detach(), -1)
    values, slope = divergence_of(name, beta=0.3, skew=0.2)(log_q, log_softmax(teacher, -1))
    torch.testing.assert_close(values, expected.detach(), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(logits_gradient(log_q, slope), wanted, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_generalized_jsd_is_that_of_torchs_kl_div_as_trl_writes_it(beta):
    log_q, log_p = log_softmax(drawn(0, ROWS, VOCABULARY), -1), log_softmax(drawn(1, ROWS, VOCABULARY), -1)
    if beta in (0.0, 1.0):
        first, second = (log_q, log_p) if beta == 0 else (log_p, log_q)
        expected = kl_div(first, second, reduction="none", log_target=True)
    else:
        weight = torch.tensor(beta, dtype=torch.float64)
        mixture = torch.logsumexp(torch.stack([log_q + torch.log(1 - weight), log_p + torch.log(weight)]), dim=0)
        of_teacher = kl_div(mixture, log_p, reduction="none", log_target=True)
        of_student = kl_div(mixture, log_q, reduction="none", log_target=True)
        expected = beta * of_teacher + (1 - beta) * of_student
    values, _ = divergence_of("jsd", beta=beta)(log_q, log_p)
    torch.testing.assert_close(values, expected.sum(-1), rtol=1e-12, atol=1e-13)


# generalized_jsd_loss of GKDTrainer in TRL 1.16.0, reduction "none": the sum of each of two rows, and
# the gradient of both in the first row's logits.
OF_TRL = {
    (0.0, 1.0): (
        (1.881538739414735, 3.239398928334048),
        (-0.699784847168979, 0.5301473114635877, -0.0004042700210967649, -5.305163813974258e-06, 0.1700471108903019),
    ),
    (0.1, 1.0): (
        (0.1435478548353503, 0.2028196551937514),
        (-0.0372840246874911, 0.02688539186219294, -0.0005712634789089155, -7.209176884493476e-05, 0.01104198807305201),
    ),
    (0.5, 2.0): (
        (0.1357761868810158, 0.2064048064380326),
        (-0.03447591592903074, 0.01213985477265836, -0.003462016003499858, -0.001229122034033901, 0.02702719919390614),
    ),
    (0.9, 1.0): (
        (0.1195698316999781, 0.156918183435091),
        (
            -0.0150786445629335,
            -0.002980046858665127,
            -0.001875694841095271,
            -0.0002467696310155225,
            0.02018115589370944,
        ),
    ),
    (1.0, 2.0): (
        (0.6021466759785381, 0.8253718187933186),
        (-0.1257501404304389, -0.01870042371116008, -0.02696615458174142, -0.009720842987681668, 0.181137561711022),
    ),
}
"""By beta and temperature."""


@pytest.mark.parametrize(("beta", "temperature"), OF_TRL)
def test_the_generalized_jsd_has_the_values_and_gradients_that_trl_gives_for_the_same_logits(beta, temperature):
    places = torch.arange(10, dtype=torch.float64)
    student, teacher = (3 * torch.sin(1.7 * places)).view(2, 5), (3 * torch.cos(0.9 * places)).view(2, 5)
    log_q, log_p = (log_softmax(logits / temperature, -1) for logits in (student, teacher))
    values, slope = divergence_of("jsd", beta=beta)(log_q, log_p)
    gradient = logits_gradient(log_q, slope) / temperature
    expected, expected_gradient = OF_TRL[beta, temperature]
    torch.testing.assert_close(values, values.new_tensor(expected), rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient[0], values.new_tensor(expected_gradient), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_slopes_are_finite_where_a_probability_vanishes(name):
    student, teacher = torch.zeros(2, 5), torch.zeros(2, 5)
    student[0, 0], teacher[1, 1] = 300.0, 300.0
    log_q = log_softmax(student, -1)
    values, slope = divergence_of(name)(log_q, log_softmax(teacher, -1))
    assert torch.isfinite(values).all()
    assert torch.isfinite(logits_gradient(log_q, slope)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "kl"}, "divergence is 'kl'; choices: forward_kl, reverse_kl, jsd"),
        ({"name": "jsd", "beta": 1.5}, "beta is 1.5; it must be between 0 and 1"),
        ({"name": "skew_kl", "skew": 1.0}, "skew is 1.0; it must be at least 0 and less than 1"),
    ],
)
def test_unknown_names_and_shares_outside_their_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        divergence_of(**options)


@pytest.mark.parametrize("with_labels", [True, False])
@pytest.mark.parametrize("k", [None, 5])
@pytest.mark.parametrize("name", NAMES)
def test_the_chunked_head_equals_whole_logits(name, k, with_labels):
    tau, width, labelled = 2.0, 4, 3
    states, weight, bias = (
        drawn(seed, *shape).requires_grad_()
        for seed, shape in enumerate([(9, width), (VOCABULARY, width), (VOCABULARY,)])
    )
    teacher_states, teacher_weight = drawn(3, 9, 6), drawn(4, VOCABULARY, 6)
    labels = torch.arange(labelled)
    logits, teacher_logits = states @ weight.T + bias, teacher_states @ teacher_weight.T
    log_q, log_p = log_softmax(logits / tau, -1), log_softmax(teacher_logits / tau, -1)
    kept = None if k is None else top_k_of(teacher_logits / tau, k)
    if kept is not None:
        log_q, log_p = (
            torch.cat(
                [of.gather(-1, kept.ids), of.scatter(-1, kept.ids, float("-inf")).logsumexp(-1, keepdim=True)], -1
            )
            for of in (log_q, log_p)
        )
    full = {"kl": tau**2 * divergence_of(name)(log_q, log_p)[0].sum()}
    weights = {"kl": 0.7}
    if with_labels:
        full["ce"] = torch.nn.functional.cross_entropy(logits[:labelled], labels, reduction="sum")
        weights["ce"] = 1.3
    expected = sum(weights[term] * value for term, value in full.items())
    teacher = (teacher_states, (teacher_weight, None)) if kept is None else (None, None)
    total, sums = vocabulary_losses(
        states,
        (weight, bias),
        *teacher,
        weights=weights,
        labels=labels if with_labels else None,
        temperature=tau,
        divergence=divergence_of(name),
        teacher_top_k=kept,
        chunk_rows=4,
    )
    for term, value in full.items():
        torch.testing.assert_close(sums[term], value.detach(), rtol=1e-11, atol=1e-12)
    given = [states, weight, bias]
    for found, wanted in zip(torch.autograd.grad(total, given), torch.autograd.grad(expected, given), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11)
