from typing import Any

import pytest

from raydistill.report.against import Against, rows_of
from raydistill.report.tables import Entry, group


def entry(model: str, accuracy: float, **assignment: Any) -> Entry:
    return Entry(model, assignment, {"accuracy": accuracy})


ENTRIES = [
    entry("teacher", 0.9),
    entry("rewound", 0.7, sparsity=90, seed=1),
    entry("rewound", 0.8, sparsity=90, seed=2),
    entry("rewound", 0.6, sparsity=5, seed=1),
    entry("sparse", 0.5, sparsity=5),
    entry("other", 0.4, sparsity=5, alpha=0.1),
    entry("other", 0.3, sparsity=5, alpha=0.2),
]


def test_a_model_has_a_line_for_each_value_of_its_other_keys_over_the_numbers_in_order():
    found = Against.of(group(ENTRIES), key="sparsity", figure="accuracy")
    assert [line.label for line in found.lines] == ["rewound", "sparse", "other (alpha=0.1)", "other (alpha=0.2)"]
    assert list(found.lines[0].points) == [5, 90]
    assert found.lines[0].points[90].mean == pytest.approx(0.75)
    assert found.lines[0].points[90].n == 2
    assert found.values == [5, 90]


def test_models_choose_lines():
    found = Against.of(group(ENTRIES), key="sparsity", figure="accuracy", models=["sparse"])
    assert [line.label for line in found.lines] == ["sparse"]


def test_the_table_has_a_row_a_value_and_leaves_out_what_a_line_lacks():
    found = Against.of(group(ENTRIES), key="sparsity", figure="accuracy", models=["rewound", "sparse"])
    assert rows_of(found) == (["sparsity", "rewound", "sparse"], [["5", "60.0%", "50.0%"], ["90", "75.0% ± 7.1%", ""]])
    assert [row[0].order for row in rows_of(found)[1]] == [5, 90]


def test_the_last_part_of_a_dotted_key_is_its_name():
    found = Against.of(group([Entry("a", {"method.alpha": 0.5}, {"loss": 1.0})]), key="method.alpha", figure="loss")
    assert found.short_key == "alpha"


def test_a_key_that_no_row_has_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"against\.key is 'depth', which no row with accuracy has; keys: sparsity"):
        Against.of(group(ENTRIES), key="depth", figure="accuracy")


def test_a_key_of_words_is_refused():
    with pytest.raises(ValueError, match=r"against\.key is 'method', which is 'kd' in a"):
        Against.of(group([entry("a", 0.5, method="kd")]), key="method", figure="accuracy")
