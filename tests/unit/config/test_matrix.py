"""A matrix names the runs of a stage and the values that differ between them."""

import pytest

from raydistill.config.matrix import assigned, axes, combinations, joined, run_name


def labels(matrix: dict) -> list[dict]:
    return [{key: choice.label for key, choice in one.items()} for one in combinations(axes(matrix))]


def test_every_combination_is_one_run_and_the_last_axis_changes_fastest() -> None:
    assert labels({"seed": [1, 2], "method.temperature": [2.0, 4.0]}) == [
        {"seed": 1, "method.temperature": 2.0},
        {"seed": 1, "method.temperature": 4.0},
        {"seed": 2, "method.temperature": 2.0},
        {"seed": 2, "method.temperature": 4.0},
    ]


def test_nested_keys_mean_dotted_keys() -> None:
    assert labels({"method": {"temperature": [1, 2]}}) == [{"method.temperature": 1}, {"method.temperature": 2}]


def test_no_matrix_is_one_run_without_assignment() -> None:
    assert combinations(axes({})) == [{}]
    assert run_name("distill", {}) == "distill"


def test_a_run_is_named_by_its_keys_and_values() -> None:
    assert run_name("distill", {"seed": 1, "method.temperature": 2.5}) == "distill[seed=1,method.temperature=2.5]"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([{"name": "causal", "temperature": 2}, "finetune"], ["causal", "finetune"]),
        ([{"name": "causal", "temperature": 2}, {"name": "causal"}], ["causal#0", "causal#1"]),
        ([[0, 2], [0, 1, 2]], ["0-2", "0-1-2"]),
        (["a b", "c=[d]"], ["a_b", "c_d_"]),
    ],
)
def test_sections_and_lists_get_a_short_label(values: list, expected: list) -> None:
    assert [one["key"] for one in labels({"key": values})] == expected


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ({"seed": 3}, r"matrix.seed is 3; list the values"),
        ({"seed": []}, r"matrix.seed is \[\]; list the values"),
        ({"seed": "12"}, r"matrix.seed is '12'; list the values"),
        ({"seed": [1, 2, 1]}, r"matrix.seed has 1 twice; remove one"),
        ({"seed": [None]}, r"matrix.seed has None; list integers, such as \[1, 2, 3\]"),
        ({"seed": [1, "1"]}, r"matrix.seed has '1'; list integers"),
        ({"seed": [True]}, r"matrix.seed has True; list integers"),
    ],
)
def test_an_axis_without_values_with_one_twice_or_of_seeds_that_are_no_integers_is_refused(
    matrix: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        axes(matrix)


def test_values_are_written_into_a_copy_without_the_matrix() -> None:
    raw = {"method": "causal", "matrix": {"method.temperature": [2]}, "training": {"batch_size": 8}}
    [choices] = combinations(axes(raw["matrix"]))
    assert assigned(raw, choices) == {
        "method": {"name": "causal", "temperature": 2},
        "training": {"batch_size": 8},
    }
    assert raw["method"] == "causal"


def test_assignments_are_joined_where_they_agree() -> None:
    left = [{"seed": 1}, {"seed": 2}]
    right = [{"seed": 2, "size": "a"}, {"seed": 3, "size": "a"}]
    assert joined(left, right) == [{"seed": 2, "size": "a"}]
    assert joined(left, [{"size": "a"}, {"size": "b"}])[1] == {"seed": 1, "size": "b"}
