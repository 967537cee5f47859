import pytest

from raydistill.tasks._answers import known_answers, match, normalized


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Cat", "cat"),
        ("an apple, a day.", "apple day"),
        ("theatre", "theatre"),
        ("the-cat", "thecat"),
        ("a.b.c", "abc"),
        ("U.S.A.\n\tin \u00a0spring", "usa in spring"),
        ("the", ""),
        ("\u201cthe\u201d", "\u201c \u201d"),
        ("\u201cdas Haus\u201d", "\u201cdas haus\u201d"),
    ],
)
def test_texts_lose_case_punctuation_articles_and_extra_space(text, expected):
    assert normalized(text) == expected


@pytest.mark.parametrize(
    ("prediction", "answers", "exact", "f1"),
    [
        ("The Cat!", ["cat"], 1, 1),
        ("black cat", ["cat"], 0, 2 / 3),
        # Two of two words predicted, two of three given: p = 1, r = 2/3.
        ("big cat", ["big black cat"], 0, 0.8),
        # A word counts as often as both have it: p = 1/3, r = 1/2; p = r = 2/3.
        ("no no no", ["no yes"], 0, 0.4),
        ("no no no", ["no no yes"], 0, 2 / 3),
        ("dog", ["cat"], 0, 0),
        # The best of several answers, each metric by itself.
        ("black cat", ["cat", "a black, cat", "dog"], 1, 1),
        ("black cat", ["black dog", "very black cat"], 0, 0.8),
        ("", [], 1, 1),
        ("the", [], 1, 1),
        ("cat", [], 0, 0),
        ("", ["cat"], 0, 0),
        # Answers of which nothing is left do not count beside others.
        ("", ["the", "cat"], 0, 0),
        ("", ["the"], 1, 1),
    ],
)
def test_exact_match_and_f1(prediction, answers, exact, f1):
    found = match(prediction, answers)
    assert found == (exact, pytest.approx(f1, abs=1e-15))


def test_without_answers_the_empty_one_is_known():
    assert known_answers([]) == known_answers(["The", "..."]) == [""]
