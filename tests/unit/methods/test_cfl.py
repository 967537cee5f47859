import pytest
import torch
from torch.nn.functional import mse_loss

from raydistill.losses.mean_discrepancy import mmd
from raydistill.methods import cfl
from toys.classifiers import toy_classifier, toy_labelled_batch
from toys.dynamic import printed
from toys.integration import PARTS, VKD, hidden_states_of, of_states, student_of, unlabelled
from toys.models import largest_difference, parameter_gradients, toy_bert, toy_distilbert

ALIGN = 3.70382896007539
REC = 1.0470833342957


@pytest.mark.parametrize("mask_padding", [True, False])
def test_published_loss(mask_padding):
    # Run on the published code; its rows have no padding, so both masks agree.
    loss, terms = of_states(cfl, mask_padding=mask_padding)
    assert loss.item() == printed(5.82300766792005, 14)
    assert terms["kd"].item() == printed(VKD, 14)
    assert terms["align"].item() == printed(ALIGN, 14)
    assert terms["rec"].item() == printed(REC, 13)


def test_weights_scale_the_loss_and_not_the_terms():
    loss, terms = of_states(cfl, kd_alpha=0.5, align_alpha=0.0, rec_alpha=2.0)
    assert loss.item() == pytest.approx(0.5 * VKD + 2 * REC, abs=1e-12)
    assert terms["align"].item() == printed(ALIGN, 14)


def experts():
    """Teachers of other depths, widths and families."""
    return [
        toy_classifier(toy_distilbert, 4, labels=PARTS[0], hidden_size=8),
        toy_classifier(toy_bert, 2, labels=PARTS[1], hidden_size=24),
    ]


@pytest.mark.parametrize("mask_padding", [True, False])
@pytest.mark.parametrize("number", [1, 2])
def test_terms_are_those_of_transformers_states_and_the_adapters(mask_padding, number):
    student, teachers = student_of(num_layers=3), experts()
    method = cfl.Method(cfl.Config(num_aligned_layers=number, mask_padding=mask_padding), student, teachers)
    batch = unlabelled(toy_labelled_batch("classes"))
    _, terms = method(batch, method.denominators(batch))
    own = hidden_states_of(student, batch)
    others = [hidden_states_of(teacher.eval(), batch) for teacher in teachers]
    mask = batch["attention_mask"] if mask_padding else torch.ones_like(batch["attention_mask"])
    align = rec = 0.0
    for below, adapter in enumerate(method.adapters):
        features = adapter.extractor(adapter.align_s(own[-1 - below])) * mask[..., None]
        for states, encode, decode in zip(others, adapter.align_t, adapter.dec_t, strict=True):
            of_teacher = adapter.extractor(encode(states[-1 - below]))
            align += mmd(features, of_teacher * mask[..., None])
            rec += mse_loss(decode(of_teacher)[mask], states[-1 - below][mask])
    assert len(method.adapters) == number
    assert terms["align"].item() == pytest.approx(align.item(), abs=1e-11)
    assert terms["rec"].item() == pytest.approx(rec.item(), abs=1e-12)


def test_the_common_space_has_a_quarter_of_the_students_width():
    method = cfl.Method(cfl.Config(), student_of(num_layers=2, hidden_size=24), experts())
    assert method.adapters[0].extractor[0].in_features == 6


def test_micro_batches_count_by_their_rows():
    method = cfl.Method(cfl.Config(), student_of(num_layers=2), experts())
    parts = [unlabelled(toy_labelled_batch("classes", rows)) for rows in ([0, 1, 2, 3], [4, 5])]
    counts = [method.denominators(part) for part in parts]
    totals = {name: counts[0][name] + counts[1][name] for name in counts[0]}
    alone = [method(part, count)[1] for part, count in zip(parts, counts, strict=True)]
    together = [method(part, totals)[1] for part in parts]
    align = sum(terms["align"] for terms in together)
    assert align.item() == pytest.approx((4 * alone[0]["align"] + 2 * alone[1]["align"]).item() / 6, abs=1e-12)


def test_rows_are_compared_with_each_other_so_cuts_matter():
    method = cfl.Method(cfl.Config(), student_of(num_layers=2), experts())
    assert method.requirements(method.config).execution.batch_dependent
    whole = unlabelled(toy_labelled_batch("classes"))
    totals = method.denominators(whole)
    parts = [unlabelled(toy_labelled_batch("classes", rows)) for rows in (range(3), range(3, 6))]
    losses = [method(whole, totals)[0], sum(method(part, totals)[0] for part in parts)]
    assert largest_difference(*(parameter_gradients(loss, method) for loss in losses)) > 1e-3


def test_a_teacher_with_fewer_layers_than_are_aligned_is_refused():
    student, teachers = student_of(num_layers=3).config, [teacher.config for teacher in experts()]
    with pytest.raises(ValueError, match=r"num_aligned_layers is -1, which aligns 3 layers, but teachers\.1 has 2"):
        cfl.Method.check(cfl.Config(num_aligned_layers=-1), student, teachers)
    cfl.Method.check(cfl.Config(num_aligned_layers=2), student, teachers)


def test_biases_decay_with_parity_groups_as_matrices_do():
    method = cfl.Method(cfl.Config(parity_optimizer_groups=True), student_of(num_layers=2), experts())
    assert method.adapters.group_rule.bias_decay is None
    assert method.adapters.group_rule.learning_rate is None
