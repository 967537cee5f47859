import pytest

from raydistill.data.sources._base import DROPPED
from raydistill.data.sources._questions import question_example

TEXT = {"question": "who?", "context": "abc def"}


@pytest.mark.parametrize(
    "answers",
    [
        {"text": ["def"], "answer_start": [4]},
        [{"text": "def", "answer_start": 4}],
        [{"text": "def", "answer_start": "4"}],
    ],
)
def test_answers_of_either_form_become_texts_and_starts(answers):
    assert question_example({**TEXT, "answers": answers})["answers"] == {"text": ["def"], "answer_start": [4]}


@pytest.mark.parametrize("start", [3, -1, 40])
def test_a_question_whose_first_answer_is_elsewhere_is_left_out(start):
    answers = {"text": ["def"], "answer_start": [start]}
    assert question_example({**TEXT, "answers": answers}) == {DROPPED: "misplaced answer"}


@pytest.mark.parametrize("answers", [None, [], {"text": [], "answer_start": []}, [{"text": "", "answer_start": 0}]])
def test_a_question_without_an_answer_stays(answers):
    assert question_example({**TEXT, "answers": answers})["answers"] == {"text": [], "answer_start": []}


@pytest.mark.parametrize(
    "values",
    [
        {**TEXT, "context": None},
        {**TEXT, "question": 3},
        {**TEXT, "answers": [{"text": "def", "answer_start": None}]},
        {**TEXT, "answers": {"text": ["def"], "answer_start": []}},
        {**TEXT, "answers": "def"},
    ],
)
def test_what_is_no_text_or_no_answer_is_refused_in_one_line(values):
    with pytest.raises(ValueError, match=r"which is not text|each has a text and an answer_start"):
        question_example(values)
