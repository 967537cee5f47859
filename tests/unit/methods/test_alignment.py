"""What ``dfa`` and ``cfl`` share: adapters that train at their own rate, layers, and models that are refused."""

import pytest
import torch

from raydistill.methods import cfl, dfa
from raydistill.optim.parameter_groups import parameter_groups
from toys.classifiers import toy_classifier, toy_labelled_batch
from toys.families import toy_gpt2
from toys.integration import PARTS, UNION, student_of, unlabelled
from toys.models import toy_bert

every_module = pytest.mark.parametrize("module", [dfa, cfl])


def make(module, *, depths=(3, 3), **options):
    teachers = [toy_classifier(toy_bert, depth, labels=part) for depth, part in zip(depths, PARTS, strict=True)]
    return module.Method(module.Config(**options), student_of(num_layers=2), teachers)


def step(method, *, weight_decay=0.0, learning_rate=1e-3):
    """One step of AdamW; returns what each adapter parameter moved by."""
    before = {name: parameter.detach().clone() for name, parameter in method.adapters.named_parameters()}
    groups = parameter_groups(method, weight_decay=weight_decay, learning_rate=learning_rate)
    optimizer = torch.optim.AdamW([{**group, "lr": learning_rate * group["rate_scale"]} for group in groups], eps=1e-15)
    batch = unlabelled(toy_labelled_batch("classes"))
    method(batch, method.denominators(batch))[0].backward()
    optimizer.step()
    return {name: (parameter.detach() - before[name]).abs() for name, parameter in method.adapters.named_parameters()}


@every_module
def test_all_adapters_train_at_their_own_rate(module):
    moved = step(make(module, adapter_learning_rate=0.02))
    # The first step of Adam is as long as the rate, wherever there is a gradient.
    for change in moved.values():
        assert change.max().item() == pytest.approx(0.02, rel=1e-3)


@every_module
def test_parity_groups_leave_the_weights_and_train_the_biases_at_the_students_rate(module):
    moved = step(make(module, parity_optimizer_groups=True))
    assert {name for name, change in moved.items() if change.max() == 0} == {
        name for name in moved if name.endswith("weight")
    }
    for name, change in moved.items():
        if name.endswith("bias"):
            assert change.max().item() == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize(("module", "parity", "expected"), [(dfa, True, 1e-4), (cfl, True, 0.1), (dfa, False, 0.0)])
def test_weight_decay_of_the_adapters_biases(module, parity, expected):
    method = make(module, parity_optimizer_groups=parity)
    biases = {id(parameter) for name, parameter in method.adapters.named_parameters() if name.endswith("bias")}
    groups = parameter_groups(method, weight_decay=0.1, learning_rate=1e-3)
    decays = {group["weight_decay"] for group in groups for parameter in group["params"] if id(parameter) in biases}
    assert decays == {expected}


@every_module
def test_adapters_start_from_a_seed_of_their_own_and_leave_the_global_stream_alone(module):
    student, teachers = student_of(num_layers=2), [student_of(part, num_layers=3) for part in PARTS]
    torch.manual_seed(1)
    following = torch.rand(3)
    made = {}
    for seed, adapter_seed in ((1, 0), (2, 0), (3, 1)):
        torch.manual_seed(seed)
        method = module.Method(module.Config(adapter_seed=adapter_seed), student, teachers)
        if seed == 1:
            assert torch.equal(torch.rand(3), following)
        made[seed] = method.adapters.state_dict()
    assert all(torch.equal(made[1][name], made[2][name]) for name in made[1])
    assert not any(torch.equal(made[1][name], made[3][name]) for name in made[1] if name.endswith("weight"))


@every_module
def test_adapters_start_small_and_with_biases_of_0(module):
    wide = [student_of(part, num_layers=1, hidden_size=256) for part in PARTS]
    method = module.Method(module.Config(), student_of(num_layers=1, hidden_size=256), wide)
    for name, parameter in method.adapters.named_parameters():
        if name.endswith("bias"):
            assert parameter.abs().max() == 0
        else:
            # Of so many draws the deviation is known to 5 standard errors.
            assert parameter.std().item() == pytest.approx(0.02, rel=5 / (2 * parameter.numel()) ** 0.5)


@every_module
def test_adapters_are_part_of_the_state_and_not_of_the_student(module):
    method = make(module)
    assert {name.partition(".")[0] for name in method.state_dict()} == {"student", "adapters"}
    assert {parameter.dtype for parameter in method.adapters.parameters()} == {torch.float64}


@every_module
def test_listed_layers_are_aligned_one_by_one(module):
    student = student_of(num_layers=3)
    teachers = [student_of(part, num_layers=depth) for part, depth in zip(PARTS, (4, 2), strict=True)]
    config = module.Config(student_layers=(0, 2), teacher_layers=((1, 3), (0, 0)))
    method = module.Method(config, student, teachers)
    assert method.adapters.layers == ((1, 3), ((2, 4), (1, 1)))
    assert len(method.adapters) == 2
    batch = unlabelled(toy_labelled_batch("classes"))
    assert torch.isfinite(method(batch, method.denominators(batch))[0])


@every_module
def test_teachers_run_and_read_the_students_tokens(module):
    needs = module.Method.requirements(module.Config())
    assert (needs.min_teachers, needs.max_teachers, needs.stored) == (1, None, ())
    assert needs.execution.partial_label_space
    assert not needs.execution.cross_tokenizer


def config_of(num_layers, family=toy_bert, labels=UNION):
    return toy_classifier(family, num_layers, labels=labels).config


@every_module
@pytest.mark.parametrize(
    ("options", "student", "message"),
    [
        ({}, config_of(2, labels=()), "the student has a single output, a score"),
        ({"num_aligned_layers": 3}, config_of(2), "num_aligned_layers is 3; the student has 2 layers"),
        ({"mask_padding": False}, config_of(2, toy_gpt2), "mask_padding is false, but gpt2 is a decoder"),
        (
            {"student_layers": (2,), "teacher_layers": ((0,), (0,))},
            config_of(2),
            r"method\.student_layers has 2; the model has layers 0 to 1",
        ),
        (
            {"student_layers": (0,), "teacher_layers": ((0,), (-1,))},
            config_of(2),
            r"method\.teacher_layers\.1 has -1; the model has layers 0 to 2",
        ),
        (
            {"student_layers": (0,), "teacher_layers": ((0,),)},
            config_of(2),
            "teacher_layers has lists for 1 teachers, but teachers has 2",
        ),
    ],
)
def test_models_that_do_not_fit_are_refused(module, options, student, message):
    with pytest.raises(ValueError, match=message):
        module.Method.check(module.Config(**options), student, [config_of(3), config_of(3)])


@every_module
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"align_alpha": 0.0, "rec_alpha": 0.0}, "align_alpha and rec_alpha are 0"),
        ({"align_alpha": -1.0}, "align_alpha is -1.0"),
        ({"kd_alpha": 0.0}, "kd_alpha is 0"),
        ({"num_aligned_layers": 0}, "num_aligned_layers is 0; it must be at least 1, or -1 for all"),
        ({"num_aligned_layers": -2}, "num_aligned_layers is -2"),
        ({"adapter_learning_rate": 0.0}, "adapter_learning_rate is 0.0"),
        ({"student_layers": (0,)}, "teacher_layers is missing"),
        ({"student_layers": (), "teacher_layers": ((), ())}, "student_layers is empty"),
        ({"student_layers": (0, 1), "teacher_layers": ((0, 1), (0,))}, r"teacher_layers\.1 has 1 layers"),
    ],
)
def test_values_out_of_range_are_refused(module, options, message):
    with pytest.raises(ValueError, match=message):
        module.Config(**options)
