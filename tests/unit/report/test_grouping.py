import pytest

from raydistill.report.grouping import grouped, short_keys


def test_runs_that_differ_in_their_seed_alone_are_one_group_in_the_order_of_their_first_run():
    runs = [
        ("distill", {"seed": 1, "method.temperature": 2}),
        ("teacher", {}),
        ("distill", {"seed": 1, "method.temperature": 4}),
        ("distill", {"method.temperature": 2, "seed": 2}),
    ]
    assert grouped(runs) == [
        ("distill (temperature=2)", [0, 3]),
        ("teacher", [1]),
        ("distill (temperature=4)", [2]),
    ]


def test_values_that_only_look_alike_stay_apart():
    assert [members for _, members in grouped([("a", {"k": 2}), ("a", {"k": "2"}), ("a", {"k": [2]})])] == [
        [0],
        [1],
        [2],
    ]


def test_several_keys_and_lists_are_named_as_yaml_writes_them():
    name = grouped([("student", {"student.layers": [0, 2], "training.precision": "fp32", "a.flag": True})])[0][0]
    assert name == "student (layers=[0, 2], precision=fp32, flag=true)"


@pytest.mark.parametrize(
    ("keys", "short"),
    [
        (["method.temperature", "optimizer.learning_rate"], ["temperature", "learning_rate"]),
        (["a.method.temperature", "b.method.temperature"], ["a.method.temperature", "b.method.temperature"]),
        (["a.x.t", "b.y.t"], ["x.t", "y.t"]),
        (["temperature", "method.temperature"], ["temperature", "method.temperature"]),
        (["corpus", "corpus"], ["corpus"]),
    ],
)
def test_a_key_is_shortened_as_far_as_it_stays_unique(keys, short):
    assert list(short_keys(keys).values()) == short
