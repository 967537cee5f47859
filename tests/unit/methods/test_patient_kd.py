import copy

import pytest
import torch
from transformers import BertConfig

from raydistill.losses.hidden_states import pkd_loss
from raydistill.methods import patient_kd
from raydistill.methods._base import stored_name
from raydistill.models import layer_plan
from raydistill.optim.parameter_groups import parameter_groups
from toys.classifiers import CLASSIFIERS, toy_labelled_batch
from toys.models import largest_difference, parameter_gradients

LAYERS = {"student_layers": (0, 1), "teacher_layers": (1, 3)}


def make(student=None, teachers=None, **options):
    student = student or CLASSIFIERS["bert_classes"](3)
    teachers = [CLASSIFIERS["bert_classes"](4, seed=5)] if teachers is None else teachers
    return patient_kd.Method(patient_kd.Config(**{**LAYERS, **options}), student, teachers)


def evaluate(method, batch):
    return method(batch, method.denominators(batch))


def of_depth(num_layers, plan=None, **options):
    config = BertConfig(num_hidden_layers=num_layers, **options)
    if plan is not None:
        layer_plan.set_plan(config, layer_plan.make_plan(plan, num_layers))
    return config


@pytest.mark.parametrize(("normalized", "expected"), [(True, 0.4950743616), (False, 0.9069791436)])
def test_published_values_of_the_distance_of_states(normalized, expected):
    count = torch.arange(24, dtype=torch.float64)
    teacher, student = count.sin().view(3, 2, 4), (0.5 * count).cos().view(3, 2, 4)
    found = pkd_loss(student, teacher, normalized=normalized).mean().item()
    # The published value is a float32 mean of 24 values below 4, of inputs that were rounded to float32.
    assert found == pytest.approx(expected, abs=torch.finfo(torch.float32).eps)


def test_the_distance_is_that_of_torch():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, 2, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    raw = torch.nn.functional.mse_loss(student, teacher)
    assert pkd_loss(student, teacher, normalized=False).mean().item() == pytest.approx(raw.item(), abs=1e-14)
    cosine = torch.nn.functional.cosine_similarity(student, teacher, dim=-1)
    # Vectors of length 1 differ by 2 - 2 cos, spread over the width.
    expected = (2 - 2 * cosine).mean().item() / 4
    assert pkd_loss(student, teacher, normalized=True).mean().item() == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize(
    ("student", "published"),
    [
        (of_depth(2), ((0,), (5,))),
        (of_depth(3), ((0, 1), (3, 7))),
        (of_depth(6), ((0, 1, 2, 3, 4), (1, 3, 5, 7, 9))),
        (of_depth(1, "sps"), ((0,), (5,))),
        (of_depth(2, "sps"), ((0, 1, 2), (2, 5, 8))),
        (of_depth(3, "sps"), ((0, 1, 2, 3, 4), (1, 3, 5, 7, 9))),
        (of_depth(6, "sps"), ((2, 5), (3, 7))),
        (of_depth(6, "stochastic"), (tuple(range(11)), tuple(range(11)))),
    ],
)
def test_published_layers_of_pea_kd_follow_the_depth_with_the_plan(student, published):
    config, teacher = patient_kd.Config(), of_depth(12)
    patient_kd.Method.check(config, student, [teacher])
    assert config.layers(layer_plan.num_steps(student), 12) == published
    assert patient_kd.Method.stored_layers(config, student, teacher) == tuple(layer + 1 for layer in published[1])


@pytest.mark.parametrize(
    ("depths", "teacher_layers"),
    [((6, 12), (1, 3, 5, 7, 9)), ((3, 12), (9, 10)), ((6, 24), (3, 7, 11, 15, 19)), ((3, 24), (7, 15))],
)
def test_published_layers_of_patient_kd(depths, teacher_layers):
    student_layers, found = patient_kd.Config(table="pkd").layers(*depths)
    assert found == teacher_layers
    assert student_layers == tuple(range(len(teacher_layers)))


def test_a_tables_student_layers_do_not_depend_on_the_teacher_which_may_be_stored():
    for entries in patient_kd.TABLES.values():
        for student, _ in entries:
            assert len({layers[0] for (depth, _), layers in entries.items() if depth == student}) == 1
        assert all(len(mine) == len(theirs) for mine, theirs in entries.values())


def test_cls_states_of_the_named_blocks_are_compared():
    method = make()
    batch = toy_labelled_batch("classes")
    loss, terms = evaluate(method, batch)
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"].long()}
    student, teacher = (
        model(**inputs, output_hidden_states=True).hidden_states for model in (method.student, method.teachers[0])
    )
    pairs = [(student[1][:, 0], teacher[2][:, 0]), (student[2][:, 0], teacher[4][:, 0])]
    unit = torch.nn.functional.normalize
    expected = torch.stack([(unit(mine) - unit(theirs)).square().mean() for mine, theirs in pairs]).mean()
    assert terms["pkd"].item() == pytest.approx(expected.item(), abs=1e-12)
    assert loss.item() == pytest.approx((0.5 * terms["kd"] + 0.5 * terms["ce"] + 100 * terms["pkd"]).item())


def test_states_of_a_student_with_a_plan_are_compared_in_running_order():
    student = CLASSIFIERS["bert_classes"](2)
    layer_plan.set_plan(student.config, layer_plan.make_plan("sps", 2))
    method = make(student, student_layers=(0, 1, 2), teacher_layers=(0, 1, 2))
    loss, _ = evaluate(method, toy_labelled_batch("classes"))
    loss.backward()
    assert all(parameter.grad is not None for parameter in student.parameters())
    config = patient_kd.Config(student_layers=(4,), teacher_layers=(0,))
    with pytest.raises(ValueError, match="student_layers has 4; the model has layers 0 to 3"):
        patient_kd.Method.check(config, student.config, [method.teachers[0].config])


def test_the_patience_of_a_student_that_is_its_teacher_vanishes():
    teacher = CLASSIFIERS["bert_classes"](4, seed=5)
    method = make(copy.deepcopy(teacher), [teacher], student_layers=(0, 2), teacher_layers=(0, 2))
    assert evaluate(method, toy_labelled_batch("classes"))[1]["pkd"].item() < 1e-20


@pytest.mark.parametrize("options", [{}, {"projection": True, "teacher_width": 16}])
def test_stored_outputs_give_the_loss_and_gradient_of_a_running_teacher(options):
    teacher, student = CLASSIFIERS["bert_classes"](4, seed=5), CLASSIFIERS["bert_classes"](3)
    live = make(student, [teacher], **options)
    batch = toy_labelled_batch("classes")
    with torch.no_grad():
        said = teacher.eval()(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"].long(), output_hidden_states=True
        )
    numbers = patient_kd.Method.stored_layers(live.config, student.config, teacher.config)
    states = torch.stack([said.hidden_states[number][:, 0] for number in numbers], dim=1)
    columns = {stored_name(0, "logits"): said.logits, stored_name(0, "cls_states"): states}
    stored = make(copy.deepcopy(student), [], **options)
    losses = [evaluate(live, batch)[0], evaluate(stored, batch.with_columns(**columns))[0]]
    assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-12)
    gradients = [parameter_gradients(loss, method) for loss, method in zip(losses, (live, stored), strict=True)]
    assert largest_difference(*gradients) < 1e-11


@pytest.mark.parametrize(
    ("options", "kinds", "needed"),
    [
        ({}, ("logits", "cls_states"), 1),
        ({"alpha": 0.0}, ("cls_states",), 1),
        ({"beta": 0.0}, ("logits",), 1),
        ({"alpha": 0.0, "beta": 0.0}, (), 0),
        ({"projection": True}, (), 1),
        ({"projection": True, "teacher_width": 16}, ("logits", "cls_states"), 1),
    ],
)
def test_only_what_has_a_weight_is_read_of_the_teacher(options, kinds, needed):
    config = patient_kd.Config(**options)
    needs = patient_kd.Method.requirements(config)
    assert (needs.stored, needs.min_teachers, needs.max_teachers) == (kinds, needed, needed)


def test_a_projection_is_drawn_from_its_seed_and_trained_in_one_group():
    narrow = CLASSIFIERS["bert_classes"](3, hidden_size=8)
    torch.manual_seed(1)
    methods = [make(copy.deepcopy(narrow), projection=True, projection_seed=seed) for seed in (0, 0, 1)]
    weights = [method.projection.weight for method in methods]
    assert weights[0].shape == (16, 8)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    evaluate(methods[0], toy_labelled_batch("classes"))[0].backward()
    assert weights[0].grad.abs().sum() > 0
    groups = parameter_groups(methods[0], weight_decay=0.1)
    assert sum(weights[0] is parameter for group in groups for parameter in group["params"]) == 1


def test_widths_that_differ_need_a_projection():
    narrow, wide = of_depth(3, hidden_size=24, num_attention_heads=2), of_depth(12)
    with pytest.raises(ValueError, match="projection is false, but the student's hidden_size is 24 and the"):
        patient_kd.Method.check(patient_kd.Config(), narrow, [wide])
    patient_kd.Method.check(patient_kd.Config(projection=True), narrow, [wide])
    with pytest.raises(ValueError, match="teacher_width is 24; the teacher's hidden_size is 768"):
        patient_kd.Method.check(patient_kd.Config(projection=True, teacher_width=24), narrow, [wide])


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (
            of_depth(5),
            of_depth(12),
            "no layers for a student of 5 and a teacher of 12 layers, only for 2 and 12, 3 and 12",
        ),
        (of_depth(3), of_depth(24), "no layers for a student of 3 and a teacher of 24 layers"),
        (of_depth(1), of_depth(12), "a student of one layer has none to compare, use method kd"),
    ],
)
def test_depths_without_published_layers_are_refused(student, teacher, message):
    with pytest.raises(ValueError, match=message) as caught:
        patient_kd.Method.check(patient_kd.Config(), student, [teacher])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": -1.0}, "beta is -1.0"),
        ({"alpha": 1.5}, "alpha is 1.5"),
        ({"table": "pdk"}, "table is 'pdk'; choices: pea_kd, pkd"),
        ({"student_layers": (0,)}, "teacher_layers is missing"),
        ({"student_layers": (0, 1), "teacher_layers": (0,)}, "student_layers has 2 layers, teacher_layers 1"),
        ({"student_layers": (), "teacher_layers": ()}, "student_layers is empty"),
        ({"student_layers": (0,), "teacher_layers": (-1,)}, "teacher_layers has -1"),
    ],
)
def test_options_that_cannot_work_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        patient_kd.Config(**options)
