import pytest
import torch

from raydistill.methods import uhc, vkd
from raydistill.methods._base import stored_name
from raydistill.methods._integration import union_ids
from toys.classifiers import toy_classifier, toy_labelled_batch
from toys.dynamic import printed
from toys.families import toy_roberta
from toys.integration import PARTS, STUDENT, TEACHERS, UNION, VKD, divergence, of_logits, student_of, unlabelled
from toys.models import toy_bert, toy_distilbert


# Run on the published code.
@pytest.mark.parametrize(("temperature", "expected", "digits"), [(1.0, VKD, 14), (5.0, 1.89981682834823, 14)])
def test_published_losses(temperature, expected, digits):
    loss, terms = of_logits(vkd, temperature=temperature)
    assert loss.item() == printed(expected, digits)
    assert terms["kd"] == loss


def test_the_weight_scales_the_loss_and_not_the_term():
    loss, terms = of_logits(vkd, kd_alpha=0.5)
    assert loss.item() == printed(VKD / 2, 14)
    assert terms["kd"].item() == printed(VKD, 14)


def test_classes_belong_together_by_name_and_not_by_place():
    turned = (TEACHERS[1][:, [2, 0, 1]], TEACHERS[0][:, [1, 0]])
    loss, _ = of_logits(vkd, turned, labels=(("e", "c", "d"), ("b", "a")))
    assert loss.item() == printed(VKD, 14)


def test_a_class_that_two_teachers_know_counts_with_both_entries():
    loss, _ = of_logits(vkd, labels=(("a", "b"), ("c", "b", "d")), union=UNION[:4])
    entries = torch.cat(TEACHERS, dim=1).softmax(-1)
    target = torch.stack([entries[:, 0], entries[:, 1] + entries[:, 3], entries[:, 2], entries[:, 4]], dim=1)
    assert loss.item() == pytest.approx(divergence(target, STUDENT[:, :4]).mean().item(), abs=1e-12)


def experts():
    """Teachers of other families and widths, which know some of the classes each."""
    return [
        toy_classifier(toy_distilbert, 2, labels=("b", "e"), hidden_size=8),
        toy_classifier(toy_roberta, 3, labels=("c", "a", "d", "b")),
    ]


def evaluate(method, batch):
    return method(batch, method.denominators(batch))


@pytest.mark.parametrize("module", [vkd, uhc])
def test_stored_logits_give_the_loss_of_teachers_that_run(module):
    student, batch = student_of(), unlabelled(toy_labelled_batch("classes"))
    live = module.Method(module.Config(temperature=2.0), student, experts())
    labels = [tuple(teacher.config.id2label.values()) for teacher in live.teachers]
    stored = module.Method(module.Config(temperature=2.0), student, teacher_labels=labels)
    columns = {stored_name(number, "logits"): logits for number, logits in enumerate(live.classes.logits(live, batch))}
    found = evaluate(stored, batch.with_columns(**columns))
    assert found == evaluate(live, batch)
    assert stored.teacher_rows == 0
    assert live.teacher_rows == 2 * 2 * batch.num_rows


def test_given_names_stand_before_those_of_the_configuration():
    teachers = [student_of(("LABEL_0", "LABEL_1")), student_of(("x", "y", "z"))]
    method = vkd.Method(vkd.Config(), student_of(), teachers, teacher_labels=PARTS)
    assert [ids.tolist() for ids in method.classes.ids] == [[0, 1], [2, 3, 4]]


def test_which_classes_a_teacher_knows_is_no_state():
    method = vkd.Method(vkd.Config(), student_of(), teacher_labels=PARTS)
    assert all(name.startswith("student.") for name in method.state_dict())


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ((("a", "b"), ("c", "d")), "no teacher covers 'e'"),
        ((("a", "b"), ("c", "d", "e", "f")), "teachers.1 has the class 'f', the student a, b, c, d, e"),
        ((("a", "b", "a"), ("c", "d", "e")), "teachers.0 has a class twice: a, b, a"),
    ],
)
def test_names_that_do_not_make_up_the_union_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        union_ids(labels, student_of().config)


@pytest.mark.parametrize("module", [vkd, uhc])
def test_any_number_of_teachers_with_tokenizers_of_their_own_and_logits_that_may_be_stored(module):
    needs = module.Method.requirements(module.Config())
    assert (needs.min_teachers, needs.max_teachers, needs.stored) == (1, None, ("logits",))
    assert needs.execution.partial_label_space
    assert needs.execution.cross_tokenizer
    assert not needs.execution.batch_dependent


@pytest.mark.parametrize("module", [vkd, uhc])
def test_scores_are_refused(module):
    with pytest.raises(ValueError, match="a single output, a score"):
        module.Method.check(module.Config(), toy_classifier(toy_bert, 1, labels=()).config, [])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kd_alpha": 0.0}, "kd_alpha is 0, so no classes are learned"),
        ({"kd_alpha": -1.0}, "kd_alpha is -1.0"),
        ({"temperature": 0.0}, "temperature is 0.0"),
    ],
)
@pytest.mark.parametrize("module", [vkd, uhc])
def test_values_out_of_range_are_refused(module, options, message):
    with pytest.raises(ValueError, match=message):
        module.Config(**options)


@pytest.mark.parametrize("module", [vkd, uhc])
def test_agreement_is_the_share_of_rows_with_the_class_of_the_teachers_target(module):
    said = torch.cat(TEACHERS, dim=1).argmax(-1) == STUDENT.argmax(-1)
    assert 0 < said.sum() < 4
    assert of_logits(module)[1]["agreement"].item() == said.double().mean().item()
    assert module.Method.directions["agreement"]
