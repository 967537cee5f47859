import pytest
import torch
from torch.nn.functional import mse_loss

from raydistill.methods import dfa
from toys.classifiers import CLASSIFIERS, toy_classifier, toy_labelled_batch
from toys.dynamic import printed
from toys.families import toy_gpt2
from toys.integration import PARTS, VKD, hidden_states_of, of_states, student_of, unlabelled
from toys.models import toy_bert, toy_distilbert

ALIGN = 1.08099569092998
REC = 2.60207655258765


@pytest.mark.parametrize("mask_padding", [True, False])
def test_published_loss(mask_padding):
    # Run on the published code; its rows have no padding, so both masks agree.
    loss, terms = of_states(dfa, mask_padding=mask_padding)
    assert loss.item() == printed(4.75516761706659, 14)
    assert terms["kd"].item() == printed(VKD, 14)
    assert terms["align"].item() == printed(ALIGN, 14)
    assert terms["rec"].item() == printed(REC, 14)


def test_weights_scale_the_loss_and_not_the_terms():
    loss, terms = of_states(dfa, kd_alpha=0.5, align_alpha=2.0, rec_alpha=0.0)
    assert loss.item() == pytest.approx(0.5 * VKD + 2 * ALIGN, abs=1e-12)
    assert terms["rec"].item() == printed(REC, 14)


@pytest.mark.parametrize(
    ("depths", "expected"),
    [
        ((12, 12), tuple(range(12, 0, -1))),
        ((6, 12), (12, 10, 8, 6, 4, 2)),
        # Depths that the published code fails for: shallower teachers, and those whose depth is no multiple.
        ((4, 2), (2, 2, 1, 1)),
        ((3, 4), (4, 3, 2)),
        ((2, 5), (5, 3)),
    ],
)
def test_teacher_layers_are_spread_over_the_teacher_and_never_its_embeddings(depths, expected):
    assert tuple(dfa.matching_layer(below, *depths) for below in range(depths[0])) == expected


def experts(**options):
    """Teachers of other depths, widths and families."""
    return [
        toy_classifier(toy_distilbert, 6, labels=PARTS[0], hidden_size=8, **options),
        toy_classifier(toy_bert, 2, labels=PARTS[1], hidden_size=24, **options),
    ]


def tokens_of(states, batch, *, mask_padding):
    """States (R, D) of real tokens, or of all places."""
    return states[batch["attention_mask"]] if mask_padding else states.flatten(0, 1)


@pytest.mark.parametrize("mask_padding", [True, False])
@pytest.mark.parametrize(("number", "pairs"), [(-1, [(3, 6, 2), (2, 4, 2), (1, 2, 1)]), (2, [(3, 6, 2), (2, 4, 2)])])
def test_terms_are_those_of_transformers_states_and_the_adapters(mask_padding, number, pairs):
    student, teachers = student_of(num_layers=3), experts()
    config = dfa.Config(num_aligned_layers=number, mask_padding=mask_padding)
    method = dfa.Method(config, student, teachers)
    batch = unlabelled(toy_labelled_batch("classes"))
    _, terms = method(batch, method.denominators(batch))
    own = hidden_states_of(student, batch)
    others = [hidden_states_of(teacher.eval(), batch) for teacher in teachers]
    align = rec = 0.0
    for adapter, (of_student, *of_teachers) in zip(method.adapters, pairs, strict=True):
        states = [
            tokens_of(one[k], batch, mask_padding=mask_padding) for one, k in zip(others, of_teachers, strict=True)
        ]
        code = adapter.t_encoder(torch.cat(states, dim=-1))
        align += mse_loss(adapter.s_encoder(tokens_of(own[of_student], batch, mask_padding=mask_padding)), code)
        decoded = adapter.t_decoder(code)
        rec += mse_loss(decoded[:, :8], states[0]) + mse_loss(decoded[:, 8:], states[1])
    assert terms["align"].item() == pytest.approx(align.item(), abs=1e-12)
    assert terms["rec"].item() == pytest.approx(rec.item(), abs=1e-12)


def test_the_alignment_moves_the_student_and_not_the_code():
    method = dfa.Method(dfa.Config(rec_alpha=0.0), student_of(num_layers=2, hidden_size=8), experts())
    batch = unlabelled(toy_labelled_batch("classes"))
    method(batch, method.denominators(batch))[0].backward()
    for block in method.adapters:
        assert block.s_encoder.weight.grad.abs().max() > 0
        assert block.t_encoder.weight.grad.abs().max() == 0


def test_a_decoders_last_states_are_those_after_its_norm():
    student, teacher = toy_classifier(toy_gpt2, 2), CLASSIFIERS["gpt2_classes"](2, seed=4)
    method = dfa.Method(dfa.Config(num_aligned_layers=1), student, [teacher])
    batch = unlabelled(toy_labelled_batch("classes"))
    _, terms = method(batch, method.denominators(batch))
    states = hidden_states_of(teacher.eval(), batch)[-1][batch["attention_mask"]]
    (adapter,) = method.adapters
    expected = mse_loss(adapter.t_decoder(adapter.t_encoder(states)), states)
    assert terms["rec"].item() == pytest.approx(expected.item(), abs=1e-12)


@pytest.mark.parametrize(("mask_padding", "coupled"), [(True, False), (False, True)])
def test_only_computed_padding_couples_rows(mask_padding, coupled):
    assert dfa.Method.requirements(dfa.Config(mask_padding=mask_padding)).execution.batch_dependent == coupled


def test_biases_decay_as_published_with_parity_groups():
    method = dfa.Method(dfa.Config(parity_optimizer_groups=True), student_of(num_layers=2), experts())
    assert method.adapters.group_rule.bias_decay == 1e-4
    assert method.adapters.group_rule.learning_rate is None
