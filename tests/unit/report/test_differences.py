import pytest

from raydistill.report.differences import Predictions, agreement, confusion, examples


def predictions(model: str, said: str, label: str | None = "aabb", sure: float = 0.9) -> Predictions:
    columns: dict[str, list[object]] = {"row_id": [10, 11, 12, 13], "prediction": list(said)}
    if label is not None:
        columns["label"] = list(label)
    for name in "ab":
        columns[f"probability.{name}"] = [sure - row / 100 if one == name else 1 - sure for row, one in enumerate(said)]
    return Predictions(model, columns)


TEACHER, STUDENT = predictions("teacher", "aaba"), predictions("student", "abbb")
TEXTS = {row: f"text {row}" for row in range(10, 14)}


def texts(rows):
    return {row: TEXTS[row] for row in rows}


def test_a_confusion_counts_rows_by_true_and_predicted_class():
    found = confusion(STUDENT)
    assert found is not None
    assert found.labels == ["a", "b"]
    assert found.counts == [[1, 1], [0, 2]]
    assert found.share(0, 1) == 0.5


def test_there_is_no_confusion_without_labels_or_with_too_many_classes():
    assert confusion(predictions("student", "abbb", label=None)) is None
    many = {f"probability.{number}": [0.0] for number in range(21)}
    assert confusion(Predictions("m", {"row_id": [0], "label": ["1"], "prediction": ["1"], **many})) is None


def test_agreement_counts_rows_that_both_one_or_none_has_right():
    table = agreement(STUDENT, TEACHER)
    assert table is not None
    assert [row[:2] for row in table.rows] == [
        ["both right", "2"],
        ["the teacher alone right", "1"],
        ["the student alone right", "1"],
        ["both wrong", "0"],
    ]
    assert agreement(predictions("student", "abbb", None), predictions("teacher", "aaba", None)) is None


def test_rows_that_differ_are_shown_by_who_is_right_with_text_and_sureness():
    teacher_right, student_right = examples(STUDENT, TEACHER, texts)
    assert (teacher_right.title, student_right.title) == ("The teacher alone is right", "The student alone is right")
    (one,) = teacher_right.examples
    assert (one.row, one.text, one.label) == (11, "text 11", "a")
    assert [(answer.role, answer.text, answer.is_right) for answer in one.answers] == [
        ("teacher", "a (89%)", True),
        ("student", "b (89%)", False),
    ]


def test_the_surest_mistakes_come_first_and_long_texts_are_cut():
    (found,) = examples(predictions("student", "bbaa"), predictions("teacher", "aabb"), lambda rows: {10: "x" * 500})
    assert [one.row for one in found.examples] == [10, 11, 12, 13]
    assert (len(found.examples[0].text), found.examples[0].text[-1]) == (400, "…")
    assert found.examples[1].text == ""


def test_scores_are_shown_where_they_lie_farthest_apart():
    columns = {"row_id": [0, 1, 2], "label": [1.0, 2.0, 3.0]}
    student = Predictions("student", {**columns, "prediction": [1.1, 2.5, 3.0]})
    teacher = Predictions("teacher", {**columns, "prediction": [1.0, 1.0, 3.0]})
    assert agreement(student, teacher) is None
    (found,) = examples(student, teacher, lambda rows: {})
    assert found.title == "They differ most"
    assert [one.row for one in found.examples] == [1, 0]
    assert found.examples[0].answers[1].text == "2.500"
    assert found.examples[0].answers[1].is_right is None


@pytest.mark.parametrize(("exact", "is_right"), [(1.0, True), (0.0, False)])
def test_an_answer_that_matches_any_known_one_is_right(exact, is_right):
    columns = {"row_id": [0], "label": ["the sea"], "prediction": ["sea"], "exact_match": [exact]}
    assert Predictions("student", columns).is_right(0) is is_right
