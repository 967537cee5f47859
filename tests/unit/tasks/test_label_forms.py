import pytest

from raydistill.tasks._label_forms import nearest, written_forms
from raydistill.tasks.classification import label_id


@pytest.mark.parametrize(
    ("raw", "labels", "expected"),
    [
        (1.0, ("0", "1"), 1),
        ("1.0", ("0", "1"), 1),
        (1, ("0", "1"), 1),
        ("-1.", ("1", "-1"), 1),
        (True, ("false", "true"), 1),
        ("True", ("False", "True"), 1),
        ("TRUE", ("false", "true"), 1),
        ("1.0", ("1", "1.0"), 1),
    ],
)
def test_a_label_is_found_by_each_form_in_which_it_may_be_written(raw, labels, expected):
    assert label_id({"label": raw}, labels) == expected


@pytest.mark.parametrize("raw", ["1.5", 0.5, "01", "1.0e0", "yes", "nan", "1e400"])
def test_other_numbers_and_words_have_no_further_form(raw):
    assert list(written_forms(raw)) == [str(raw)]


@pytest.mark.parametrize(("raw", "name"), [("01", "1"), (" pos", "pos"), ("Pos", "pos"), (1, "1.00"), ("1e0", "1")])
def test_the_refusal_of_a_label_names_the_one_that_only_its_writing_parts_from_it(raw, name):
    with pytest.raises(
        ValueError, match=rf"names other, {name}; '{name}' is written in another way, so write the same"
    ):
        label_id({"label": raw}, ("other", name))
    assert nearest("else", ("other", name)) == ""
