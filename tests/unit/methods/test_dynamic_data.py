import copy

import pytest
import torch

from raydistill.batch import padded_rows
from raydistill.methods import dynamic_data
from raydistill.methods.dynamic_data import ORDERS, Config, Method
from raydistill.models.predictions import predict
from toys.classifiers import CLASSIFIERS, toy_labelled_batch
from toys.dynamic import CROSS_ENTROPY, SMALL, STUDENT, UNCERTAINTY, count_rows, fixture_batch, of_logits, printed

BATCH = fixture_batch((SMALL,))


@pytest.mark.parametrize(
    ("objective", "expected", "digits"), [("mse", 7.96094102656369, 14), ("kl", 4.231114786975, 12)]
)
def test_published_losses_without_selection(objective, expected, digits):
    loss, terms = of_logits(dynamic_data, BATCH, selection="none", objective=objective)
    assert loss.item() == printed(expected, digits)
    assert terms["ce"].item() == printed(CROSS_ENTROPY, 13)


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        # Run on the published code; soft labels are the softmax of the teacher's logits.
        ("entropy", [2, 4, 3, 0, 1]),
        ("entropy_r", [1, 0, 3, 4, 2]),
        ("kl", [1, 3, 2, 4, 0]),
        ("kl_r", [0, 4, 2, 3, 1]),
        ("kl_b", [1, 0, 3, 4, 2]),
    ],
)
def test_published_orders(selection, expected):
    batch = BATCH.with_columns(soft_labels=SMALL.softmax(-1))
    assert ORDERS[selection](STUDENT, batch).tolist() == expected


PROBABILITIES = torch.tensor([[0.50, 0.45, 0.05], [0.40, 0.30, 0.30], [0.60, 0.20, 0.20]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("selection", "expected"),
    [("confidence", [1, 0, 2]), ("lc", [1, 0, 2]), ("confidence_r", [2, 0, 1]), ("margin", [0, 1, 2])],
)
def test_least_confident_rows_and_those_with_two_likely_classes_come_first(selection, expected):
    assert ORDERS[selection](PROBABILITIES.log(), BATCH).tolist() == expected


def test_of_two_classes_all_orders_by_uncertainty_coincide():
    logits = STUDENT[:, :2]
    orders = {tuple(ORDERS[name](logits, BATCH).tolist()) for name in ("entropy", "confidence", "margin")}
    assert len(orders) == 1


def test_the_loss_compares_the_chosen_rows_alone_and_labels_of_all():
    loss, terms = of_logits(dynamic_data, BATCH, selection="entropy", ratio=0.4, kd_alpha=2.0, ce_alpha=0.5)
    # Rows 2 and 4 are the least certain.
    expected = (STUDENT[[2, 4]] - SMALL[[2, 4]]).square().mean()
    assert terms["kd"].item() == pytest.approx(expected.item(), abs=1e-12)
    assert loss.item() == pytest.approx(0.5 * CROSS_ENTROPY + 2 * expected.item(), abs=1e-11)
    assert terms["chosen_share"].item() == pytest.approx(0.4)
    assert terms["uncertainty"].item() == pytest.approx(sum(UNCERTAINTY) / 5, abs=1e-11)
    assert terms["chosen_uncertainty"].item() == pytest.approx((UNCERTAINTY[2] + UNCERTAINTY[4]) / 2, abs=1e-11)


def test_a_choice_is_never_empty():
    # The published loss of this case is not a number.
    loss, terms = of_logits(dynamic_data, BATCH, selection="entropy", ratio=0.1)
    assert loss.item() == pytest.approx(CROSS_ENTROPY + (STUDENT[2] - SMALL[2]).square().mean().item(), abs=1e-11)
    assert terms["chosen_share"].item() == pytest.approx(0.2)


@pytest.mark.parametrize(("rows", "ratio", "chosen"), [(5, 0.1, 1), (5, 0.5, 2), (100, 0.29, 28), (7, 1.0, 7)])
def test_the_number_of_chosen_rows_is_the_published_product_cut_off(rows, ratio, chosen):
    assert Config(ratio=ratio).num_chosen(rows) == chosen
    assert Config(ratio=ratio, selection="none").num_chosen(rows) == rows


@pytest.mark.parametrize(("selection", "expected"), [("margin", [3]), ("random", [3]), ("none", [6])])
def test_the_teacher_runs_on_the_chosen_rows_alone(selection, expected):
    teacher = CLASSIFIERS["bert_classes"](2, seed=3)
    seen = count_rows(teacher)
    method = Method(Config(selection=selection), CLASSIFIERS["bert_classes"](1), [teacher])
    batch = method.prepare_batch(method.config, toy_labelled_batch("classes"))
    method(batch, method.denominators(batch))
    assert seen == expected


@pytest.mark.parametrize("family", ["bert_classes", "distilbert_classes", "roberta_classes", "gpt2_classes"])
def test_chosen_rows_get_the_logits_that_they_have_among_all(family):
    model = CLASSIFIERS[family](2)
    batch = toy_labelled_batch("classes")
    if family == "bert_classes":
        batch = batch.with_columns(token_types=batch["token_index"] % 2)
    rows = torch.tensor([4, 0, 3])
    found = predict(model, padded_rows(batch, rows), head="sequence_classification").logits
    expected = predict(model, batch, head="sequence_classification").logits[rows]
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_stored_logits_give_the_loss_and_gradient_of_a_running_teacher():
    teacher, student = CLASSIFIERS["bert_classes"](3, seed=5), CLASSIFIERS["bert_classes"](2)
    batch = toy_labelled_batch("classes")
    with torch.no_grad():
        said = teacher.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"].long()).logits
    live, without = Method(Config(), student, [teacher]), Method(Config(), copy.deepcopy(student), [])
    losses = []
    for method, one in ((live, batch), (without, batch.with_columns(teacher_0_logits=said))):
        loss, _ = method(one, method.denominators(one))
        loss.backward()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-12)
    for first, second in zip(live.student.parameters(), without.student.parameters(), strict=True):
        torch.testing.assert_close(first.grad, second.grad, atol=1e-12, rtol=0)


def drawn(rows=range(40), **keys):
    batch = toy_labelled_batch("classes", rows=range(6), **keys).with_columns(row_id=torch.tensor(list(rows)))
    return batch["row_id"][Method.prepare_batch(Config(selection="random"), batch)["chosen_rows"]].tolist()


def test_a_random_choice_is_of_different_rows_and_depends_on_seed_and_step():
    first = drawn()
    assert len(set(first)) == len(first) == 20
    assert drawn() == first
    assert sorted(drawn(step=1)) != sorted(first) != sorted(drawn(seed=4))


def test_a_random_choice_does_not_depend_on_the_order_of_rows():
    assert drawn(range(39, -1, -1)) == drawn()


def test_a_random_choice_takes_all_rows_equally_often():
    counts = torch.zeros(40)
    for step in range(400):
        counts[drawn(step=step)] += 1
    # Binomial: 400 draws at a half have a standard deviation of 10.
    assert (counts - 200).abs().max() < 45


def test_rows_without_soft_labels_are_refused_before_the_step():
    with pytest.raises(ValueError, match=r"method\.selection is 'kl_b', which compares with soft labels"):
        Method.prepare_batch(Config(selection="kl_b"), toy_labelled_batch("classes"))


def test_soft_labels_choose_the_rows_that_differ_most_from_them():
    batch = BATCH.with_columns(soft_labels=SMALL.softmax(-1))
    _, terms = of_logits(dynamic_data, batch, selection="kl", ratio=0.4)
    expected = (STUDENT[[1, 3]] - SMALL[[1, 3]]).square().mean()
    assert terms["kd"].item() == pytest.approx(expected.item(), abs=1e-12)


def score_config():
    return CLASSIFIERS["bert_scores"](1).config


@pytest.mark.parametrize("selection", ["kl", "kl_fix", "kl_r", "kl_b"])
def test_selections_by_soft_labels_are_refused_before_a_run_since_no_corpus_has_any(selection):
    of_classes = CLASSIFIERS["bert_classes"](1).config
    with pytest.raises(ValueError, match="which compares with soft labels, but rows of a corpus have class ids alone"):
        Method.check(Config(selection=selection), of_classes, [of_classes])


@pytest.mark.parametrize("selection", [name for name in ORDERS if not name.startswith("kl")])
def test_selections_by_class_are_refused_for_scores(selection):
    with pytest.raises(ValueError, match=f"method.selection is '{selection}', which needs classes, but labels are"):
        Method.check(Config(selection=selection), score_config(), [score_config()])


@pytest.mark.parametrize("selection", ["none", "random"])
def test_other_selections_take_scores(selection):
    Method.check(Config(selection=selection), score_config(), [score_config()])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"selection": "entropy-r"}, "selection is 'entropy-r'; choices: none, random, entropy, entropy_r"),
        ({"ratio": 0.0}, "ratio is 0.0"),
        ({"ratio": 1.5}, "ratio is 1.5"),
        ({"kd_alpha": 0.0}, "kd_alpha is 0"),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Config(**options)
