import pytest
import torch
from torch.nn.functional import mse_loss, normalize

from raydistill.methods import dynamic_objective
from raydistill.methods.dynamic_objective import Config, Method
from toys.classifiers import CLASSIFIERS, toy_labelled_batch
from toys.dynamic import CROSS_ENTROPY, SMALL, STUDENT, UNCERTAINTY, fixture_batch, g, printed, says

STUDENT_STATES = tuple(g((5, 3, 4), 0.11 + 0.01 * i, 0.3, 1) for i in range(3))
TEACHER_STATES = tuple(g((5, 3, 4), 0.23 + 0.01 * i, 0.6, 1) for i in range(5))
REP_STATIC = 1.78778591319197
REP_ROWS = [1.565372256918, 1.250923171128, 1.307372990656, 1.535765060835, 1.028309686944]
PUBLISHED_STATIC = {"strategy": "static", "rep_norm_dim": "tokens"}


def of_states(logits=STUDENT, *, positions="padded", **options):
    """Loss and terms of a method whose models say the fixture's logits and states."""
    model = CLASSIFIERS["bert_classes"](1)
    method = Method(Config(positions=positions, **options), model, [model])
    batch = fixture_batch().with_columns(lengths=torch.full((5,), 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamic_objective, "predict", lambda *_, **__: says(logits, STUDENT_STATES))
        patch.setattr(dynamic_objective.Method, "run_teacher", lambda *_, **__: says(SMALL, TEACHER_STATES))
        return method(batch, method.denominators(batch))


@pytest.mark.parametrize("positions", ["padded", "valid"])
@pytest.mark.parametrize(
    ("options", "expected", "digits"),
    [
        # Run on the published code; its rows have no padding, so both positions agree.
        ({**PUBLISHED_STATIC}, 9.74872693975566, 14),
        ({**PUBLISHED_STATIC, "objective": "kl"}, 6.01890070016697, 14),
        ({}, 4.93143834442889, 14),
        ({"objective": "kl"}, 3.4913862904048, 13),
    ],
)
def test_published_losses(positions, options, expected, digits):
    loss, terms = of_states(positions=positions, **options)
    assert loss.item() == printed(expected, digits)
    assert terms["ce"].item() == printed(CROSS_ENTROPY, 13)


def test_published_loss_of_hidden_states_normalized_over_tokens():
    assert of_states(**PUBLISHED_STATIC)[1]["rep"].item() == printed(REP_STATIC, 14)


def test_published_losses_of_hidden_states_and_mean_weights():
    _, terms = of_states()
    assert terms["rep"].item() == pytest.approx(sum(REP_ROWS) / 5, abs=1e-11)
    assert terms["kd_weight"].item() == printed(0.35696308012, 11)
    assert terms["rep_weight"].item() == printed(0.64303691988, 11)


def test_published_gradient_of_the_first_row():
    logits = STUDENT.clone().requires_grad_()
    of_states(logits)[0].backward()
    assert logits.grad[0].tolist() == printed([-0.233465772882, 0.180544826472, -0.221518048538], 11)


def test_weights_without_gradient_leave_that_of_the_weighted_losses():
    logits = STUDENT.clone().requires_grad_()
    of_states(logits, detach_weight=True)[0].backward()
    label = STUDENT.softmax(-1) - torch.nn.functional.one_hot(fixture_batch()["labels"], 3)
    soft = 2 / 3 * (STUDENT - SMALL) * (1 - torch.tensor(UNCERTAINTY, dtype=torch.float64))[:, None]
    # The uncertainties were printed with 12 digits.
    torch.testing.assert_close(logits.grad, (label + soft) / 5, atol=1e-11, rtol=0)


def test_the_reverse_strategy_swaps_the_weights():
    loss, terms = of_states(strategy="uncertainty_r")
    soft = (STUDENT - SMALL).square().mean(-1).tolist()
    mixed = [w * kd + (1 - w) * rep for w, kd, rep in zip(UNCERTAINTY, soft, REP_ROWS, strict=True)]
    assert loss.item() == pytest.approx(CROSS_ENTROPY + sum(mixed) / 5, abs=1e-10)
    assert terms["kd_weight"].item() == printed(0.64303691988, 11)


def test_alphas_weigh_the_terms_and_a_zero_leaves_one_out():
    full = of_states()[1]
    loss, terms = of_states(**PUBLISHED_STATIC, ce_alpha=0.5, kd_alpha=0.0, rep_alpha=2.0)
    assert loss.item() == pytest.approx(0.5 * CROSS_ENTROPY + 2 * REP_STATIC, abs=1e-11)
    assert set(terms) == {"ce", "rep"}
    loss, terms = of_states(rep_alpha=0.0, detach_weight=True)
    assert set(terms) == {"ce", "kd", "kd_weight"}
    assert terms["kd"] == full["kd"]


def hidden_states_of(model, batch):
    """States of transformers' own forward (L + 1, B, T, D), padding too."""
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"].long()}
    found = model(**inputs, output_hidden_states=True)
    return found.logits, torch.stack(found.hidden_states)


def expected_states_loss(student, teacher, mask, *, dim, pairs):
    """Per row and layer pair: mean over states and width of the squared difference of normalized states."""
    losses = []
    for row, real in enumerate(mask):
        total = 0.0
        for own, of_teacher in pairs:
            first, second = student[own][row][real], teacher[of_teacher][row][real]
            total = total + mse_loss(normalize(first, dim=dim), normalize(second, dim=dim))
        losses.append(total)
    return torch.stack(losses)


@pytest.mark.parametrize("family", ["bert_classes", "distilbert_classes", "gpt2_classes"])
@pytest.mark.parametrize(("rep_norm_dim", "dim"), [("hidden", -1), ("tokens", 0)])
@pytest.mark.parametrize("positions", ["valid", "padded"])
def test_the_loss_of_states_is_that_of_transformers_states(family, rep_norm_dim, dim, positions):
    if (family, positions) == ("gpt2_classes", "padded"):
        pytest.skip("padding of decoders is refused")
    student, teacher = CLASSIFIERS[family](2), CLASSIFIERS[family](5, seed=4)
    batch = toy_labelled_batch("classes")
    method = Method(
        Config(strategy="static", rep_norm_dim=rep_norm_dim, positions=positions, kd_alpha=0.0, ce_alpha=0.0),
        student,
        [teacher],
    )
    loss, _ = method(batch, method.denominators(batch))
    _, own = hidden_states_of(student, batch)
    with torch.no_grad():
        _, of_teacher = hidden_states_of(teacher.eval(), batch)
    mask = batch["attention_mask"] if positions == "valid" else torch.ones_like(batch["attention_mask"])
    # Of 5 layers for 2: the embeddings, the third state, the last.
    expected = expected_states_loss(own, of_teacher, mask, dim=dim, pairs=[(0, 0), (1, 2), (2, 5)]).mean()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-12)
    gradients = [
        torch.autograd.grad(one, list(student.parameters()), allow_unused=True, materialize_grads=True)
        for one in (loss, expected)
    ]
    torch.testing.assert_close(*gradients, atol=1e-11, rtol=0)


def test_padding_computed_changes_no_logits_and_needs_no_token_types_of_its_own():
    student, teacher = CLASSIFIERS["bert_classes"](2), CLASSIFIERS["bert_classes"](4, seed=4)
    batch = toy_labelled_batch("classes")
    batch = batch.with_columns(token_types=batch["token_index"] % 2)
    terms = []
    for positions in ("valid", "padded"):
        method = Method(Config(positions=positions), student, [teacher])
        terms.append(method(batch, method.denominators(batch))[1])
    for name in ("ce", "kd", "kd_weight"):
        assert terms[0][name].item() == pytest.approx(terms[1][name].item(), abs=1e-12)
    assert abs(terms[0]["rep"] - terms[1]["rep"]) > 1e-3


def test_scores_are_distilled_without_weights():
    student, teacher = CLASSIFIERS["bert_scores"](1), CLASSIFIERS["bert_scores"](2, seed=4)
    batch = toy_labelled_batch("scores")
    method = Method(Config(strategy="static", rep_alpha=0.0, kd_alpha=0.5), student, [teacher])
    loss, terms = method(batch, method.denominators(batch))
    said = [hidden_states_of(model, batch)[0].squeeze(-1) for model in (student, teacher)]
    expected = mse_loss(said[0], batch["labels"].double()) + 0.5 * mse_loss(*said)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-12)
    assert set(terms) == {"mse", "kd"}


def config_of(num_layers, family="bert_classes", **options):
    return CLASSIFIERS[family](num_layers, **options).config


@pytest.mark.parametrize(
    ("options", "student", "teacher", "message"),
    [
        ({}, config_of(1), config_of(2, hidden_size=32), "hidden_size is 16 in the student and 32 in the teacher"),
        ({}, config_of(3), config_of(2), "the student has 3 layers, the teacher 2"),
        ({}, config_of(1, "bert_scores"), config_of(2, "bert_scores"), "method.strategy is 'uncertainty', which needs"),
        (
            {"strategy": "static", "objective": "kl"},
            config_of(1, "bert_scores"),
            config_of(2, "bert_scores"),
            "method.objective is 'kl', which needs classes",
        ),
        ({"positions": "padded"}, config_of(1, "gpt2_classes"), config_of(2, "gpt2_classes"), "gpt2 is a decoder"),
    ],
)
def test_models_that_do_not_fit_are_refused(options, student, teacher, message):
    with pytest.raises(ValueError, match=message):
        Method.check(Config(**options), student, [teacher])


def test_without_hidden_states_their_widths_and_depths_do_not_matter():
    Method.check(Config(rep_alpha=0.0), config_of(3), [config_of(2, hidden_size=32)])


@pytest.mark.parametrize(("positions", "coupled"), [("valid", False), ("padded", True)])
def test_only_computed_padding_couples_rows(positions, coupled):
    needs = Method.requirements(Config(positions=positions))
    assert (needs.execution.batch_dependent, needs.stored) == (coupled, ())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "none"}, "strategy is 'none'; choices: uncertainty, uncertainty_r, static"),
        ({"rep_norm_dim": "1"}, "rep_norm_dim is '1'; choices: hidden, tokens"),
        ({"positions": "all"}, "positions is 'all'; choices: valid, padded"),
        ({"rep_alpha": -1.0}, "rep_alpha is -1.0"),
        ({"rep_alpha": 0.0, "kd_alpha": 0.0}, "kd_alpha and rep_alpha are 0"),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Config(**options)
