"""Method ``causal`` with other divergences than KL(teacher || student) against six whole forward passes."""

import pytest
from torch.nn.functional import log_softmax

from raydistill.losses.divergences import NAMES, divergence_of
from raydistill.user_error import UserError
from reference import six_pass
from reference.comparison import assert_equal, config, make_batch, models, of_package, of_reference

PARAMETERS = {"beta": 0.3, "skew": 0.2}


@pytest.mark.parametrize(
    ("name", "family"), [*((name, "distilbert") for name in NAMES), ("jsd", "gpt2"), ("reverse_kl", "gpt2")]
)
def test_both_soft_terms_and_every_gradient_equal_those_of_the_divergence_on_whole_logits(name, family, monkeypatch):
    divergence = divergence_of(name, **PARAMETERS)

    def on_whole_logits(student, teacher, temperature):
        return (
            temperature**2
            * divergence(log_softmax(student / temperature, -1), log_softmax(teacher / temperature, -1))[0]
        )

    settings = config(family, divergence=name, **PARAMETERS)
    batch = make_batch(settings, family)
    plain = of_package(config(family), *models(family), batch)
    monkeypatch.setattr(six_pass, "tempered_kl", on_whole_logits)
    found = of_package(settings, *models(family), batch)
    assert_equal(found, of_reference(settings, *models(family), batch))
    for term, value in plain.terms.items():
        is_same = abs(value - found.terms[term]) < 1e-6
        assert bool(is_same) is (name == "forward_kl" or term not in ("ce", "causal_ce"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"divergence": "mse"}, "divergence is 'mse'; choices: forward_kl, reverse_kl"),
        ({"divergence": "jsd", "beta": -1.0}, "beta is -1.0; it must be between 0 and 1"),
        ({"divergence": "skew_kl", "skew": 1.0}, "skew is 1.0; it must be at least 0 and less than 1"),
    ],
)
def test_wrong_divergences_are_refused_with_their_choices(options, message):
    with pytest.raises(UserError, match=message):
        config(**options)
