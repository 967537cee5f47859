import pytest

from raydistill.config import yaml_text
from raydistill.user_error import UserError


def parse(text):
    return yaml_text.parse(text, source="job.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("5.0e-4", 5e-4),
        (".5", 0.5),
        ("-3", -3),
        ("010", 10),
        ("0x10", 16),
        ("-.inf", float("-inf")),
        ("true", True),
        ("null", None),
        ("", None),
    ],
)
def test_numbers_and_constants_are_read_as_yaml_1_2_defines_them(text, value):
    found = parse(f"key: {text}")["key"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["on", "off", "yes", "no", "2024-01-01", "12:30:00", "1.2.3", "e4"])
def test_words_dates_and_times_stay_text(text):
    assert parse(f"key: {text}") == {"key": text}


def test_a_syntax_error_tells_file_and_line():
    with pytest.raises(ValueError, match=r"^job\.yaml, line 3, column 2: expected .*; correct the YAML there$"):
        parse("a: 1\nb: [\nc")


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3", "x:\n  a: 1\n  a: 1"])
def test_a_repeated_key_is_refused_with_its_line(text):
    line = text.count("\n") + 1
    with pytest.raises(ValueError, match=rf"line {line}, .*the key 'a' is written twice"):
        parse(text)


def test_a_merged_key_may_be_overridden_even_when_its_mapping_is_merged_again():
    text = "a: &a {k: 1, j: 1}\nb: &b {<<: *a, k: 2}\nc: {<<: *b, k: 3}\nd: {<<: *b}"
    assert parse(text) == {"a": {"k": 1, "j": 1}, "b": {"k": 2, "j": 1}, "c": {"k": 3, "j": 1}, "d": {"k": 2, "j": 1}}


def test_an_alias_is_a_copy_of_its_anchor():
    content = parse("a: &x {k: [1]}\nb: *x")
    content["b"]["k"].append(2)
    assert content["a"] == {"k": [1]}


def test_a_mapping_that_holds_itself_is_refused():
    with pytest.raises(ValueError, match="contains itself"):
        parse("a: &x\n  b: *x")


def test_python_objects_are_refused():
    with pytest.raises(ValueError, match="could not determine a constructor"):
        parse("a: !!python/object/apply:os.getcwd []")


@pytest.mark.parametrize(("text", "what"), [("", "empty"), ("- 1", "a list"), ("word", "a str")])
def test_a_file_that_is_no_mapping_is_refused(text, what):
    with pytest.raises(ValueError, match=f"job.yaml is {what}; write keys and values"):
        yaml_text.parse_mapping(text, source="job.yaml")


@pytest.mark.parametrize("number", ["1" + "0" * 400, "-1" + "0" * 400, "0x" + "f" * 400])
def test_a_whole_number_that_is_no_float_is_refused_with_its_line(number):
    with pytest.raises(UserError, match=r"^job.yaml: line 2 has a whole number of 40[12] characters; write a smaller"):
        parse(f"a: 1\nb: [{number}]")
    assert parse("1" + "0" * 300) == 10**300


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: a\ndescription: What it is\nstages: {x: 1}\n", "What it is"),
        ("stages: {description: inner, list: [1, description]}\ndescription: >\n  Two\n  lines\n", "Two lines\n"),
        ("note: description\nother: 1\n", ""),
        ("description: {a: 1}\n", ""),
        ("description: What it is\nbroken: [\n", "What it is"),
    ],
)
def test_the_text_of_one_key_is_read_no_further_than_there(text, expected):
    assert yaml_text.text_of(text, "description") == expected
