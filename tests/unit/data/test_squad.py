import json

import pytest

from raydistill.config.named import SourceSpec

CONTEXT = "Z\u00fcrich is a city. It is old."
EXAMPLE = {
    "id": "a",
    "question": "What is old?",
    "context": CONTEXT,
    "answers": {"text": ["Z\u00fcrich", "city"], "answer_start": [0, 12]},
}
NO_ANSWER = {**EXAMPLE, "id": "b", "answers": {"text": [], "answer_start": []}}


def nested(*questions):
    return {"version": "v2.0", "data": [{"title": "t", "paragraphs": [{"context": CONTEXT, "qas": list(questions)}]}]}


def question(name="a", answers=(("Z\u00fcrich", 0), ("city", 12)), **more):
    listed = [{"text": text, "answer_start": start} for text, start in answers]
    return {"id": name, "question": "What is old?", "answers": listed, **more}


def read_all(folder, content) -> list[dict]:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "dev.json").write_text(text, encoding="utf-8")
    source = SourceSpec.parse({"name": "squad", "path": str(folder / "dev.json")})
    items = source.items()
    return [dict(example) for item in items for example in source.read(item)]


def test_the_nested_form_gives_each_question_with_its_context_and_all_answers(tmp_path):
    content = nested(question(), question("b", (), is_impossible=True))
    assert read_all(tmp_path, content) == [EXAMPLE, NO_ANSWER]


def test_an_impossible_question_has_no_answer_even_where_some_are_written(tmp_path):
    content = nested(question("b", is_impossible=True, plausible_answers=[{"text": "city", "answer_start": 12}]))
    assert read_all(tmp_path, content) == [NO_ANSWER]


def test_flat_questions_and_questions_one_a_line_give_the_same(tmp_path):
    assert read_all(tmp_path, {"data": [EXAMPLE, NO_ANSWER]}) == [EXAMPLE, NO_ANSWER]
    assert read_all(tmp_path, f"{json.dumps(EXAMPLE)}\n\n{json.dumps(NO_ANSWER)}\n") == [EXAMPLE, NO_ANSWER]
    assert read_all(tmp_path, json.dumps(EXAMPLE)) == [EXAMPLE]


@pytest.mark.parametrize(
    ("written", "expected"), [("false", EXAMPLE), ("False", EXAMPLE), ("true", NO_ANSWER), (0, EXAMPLE)]
)
def test_is_impossible_may_be_written_as_a_text(tmp_path, written, expected):
    found = read_all(tmp_path, nested(question(is_impossible=written)))
    assert [one["answers"] for one in found] == [expected["answers"]]


@pytest.mark.parametrize("start", [1, -6, 900])
def test_a_question_whose_first_answer_is_elsewhere_is_left_out_with_a_reason(tmp_path, start):
    content = nested(question(answers=[("Z\u00fcrich", start)]), question())
    assert read_all(tmp_path, content) == [{"dropped": "misplaced answer"}, EXAMPLE]


def test_a_text_from_the_contexts_end_does_not_count_as_its_start(tmp_path):
    assert read_all(tmp_path, nested(question(answers=[("old.", -4)]))) == [{"dropped": "misplaced answer"}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"dev\.json is not JSON"),
        (f"{json.dumps(EXAMPLE)}\n{{", r"dev\.json line 2 is not JSON"),
        ({"rows": []}, "has no list 'data'"),
        ({"data": {"a": 1}}, "has no list 'data'"),
        ({"data": [{"paragraphs": [{"qas": []}]}]}, "article 1 paragraph 1 has no context or no qas"),
        ({"data": [{"question": "q"}]}, "question 1 has no context"),
        (nested({"id": "a"}), "article 1 paragraph 1 question 1 has no question"),
        (
            nested({"id": "a", "question": "q"}),
            "paragraph 1 question 1 has no answers; where there is none write an empty",
        ),
        (nested({**question(), "answers": None}), "question 1 has no answers"),
        (nested(question(is_impossible="maybe")), "question 1 has 'maybe' as is_impossible; write true or false"),
        (nested("why"), "question 1 has no context and no question"),
        (nested({**question(), "answers": [{"text": "city"}]}), "each has a text and an answer_start"),
        (nested({**question(), "answers": {"text": ["a"], "answer_start": []}}), "each has a text and an answer_start"),
    ],
)
def test_files_of_another_form_are_refused_by_name_and_place(tmp_path, content, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_all(tmp_path, content)
    assert "\n" not in str(caught.value)
