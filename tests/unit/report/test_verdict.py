import pytest

from raydistill.report.tables import Entry, group
from raydistill.report.verdict import EXPORT, OTHER, STUDENT, TEACHER, Judged, verdict

ROLES = {"teacher": TEACHER, "student": STUDENT, "alone": OTHER, "int8": EXPORT}


def entry(
    model: str, accuracy: float, *, mb: float = 10.0, ms: float = 2.0, spread: float = 0.1, **keys: object
) -> Entry:
    figures = {
        "accuracy": accuracy,
        "parameters": mb * 1e6,
        "size_mb": mb,
        "latency_ms": ms,
        "latency_spread_ms": spread,
    }
    return Entry(model, keys, figures)


def judge(entries, metric="accuracy", *, greater_is_better=True, roles=ROLES):
    rows = group(entries)
    known = {row.name: roles[row.model] for row in rows}
    return verdict(Judged.of(rows, known, metric, greater_is_better=greater_is_better))


TEACHING = entry("teacher", 0.9, mb=40.0, ms=8.0)


def test_one_sentence_tells_quality_size_speed_seeds_and_spread():
    found = judge([TEACHING, *(entry("student", accuracy, seed=seed) for seed, accuracy in enumerate((0.80, 0.82)))])
    assert found.sentence == (
        "student keeps 90.0% of the accuracy of teacher (81.0% against 90.0%) and is 4 times smaller and 4 times "
        "faster; mean of 2 seeds with a spread of 1.4%."
    )
    assert [(tile.label, tile.value) for tile in found.tiles] == [
        ("Quality kept", "90.0%"),
        ("Size", "4 times smaller"),
        ("Speed", "4 times faster"),
        ("Runs", "2 seeds"),
    ]


def test_a_single_seed_is_told():
    assert judge([TEACHING, entry("student", 0.8)]).sentence.endswith("; one seed, so its spread is not known.")


def test_the_best_of_several_students_is_told_about():
    found = judge([TEACHING, *(entry("student", 0.5 + t / 10, temperature=t) for t in (1, 3, 2))])
    assert found.sentence.startswith("student (temperature=3), the best of 3 students, keeps 88.9%")


def test_the_best_other_model_of_the_same_size_stands_beside():
    others = [entry("alone", 0.7), entry("alone", 0.75, mb=11, x=1)]
    tiles = {tile.label: tile.value for tile in judge([TEACHING, entry("student", 0.8), *others]).tiles}
    assert tiles["alone"] == "70.0%"


def test_the_fastest_export_is_told_with_its_gain_on_the_student_and_is_no_baseline():
    exports = [entry("int8", 0.79, mb=10, ms=0.5, x=1), entry("int8", 0.8, mb=10, ms=1.0, x=2)]
    tiles = {tile.label: tile for tile in judge([TEACHING, entry("student", 0.8), *exports]).tiles}
    assert list(tiles) == ["Quality kept", "Size", "Speed", "int8 (x=1)", "Runs"]
    assert tiles["int8 (x=1)"].value == "79.0%"
    assert tiles["int8 (x=1)"].note == "accuracy; as large and 4 times faster, beside student"


def test_of_a_loss_the_distance_to_the_teacher_is_told():
    entries = [Entry("teacher", {}, {"loss": 2.0}), Entry("student", {}, {"loss": 2.5})]
    found = judge(entries, "loss", greater_is_better=False)
    assert found.sentence.startswith(
        "student has a validation loss 25.0% above that of teacher (2.5000 against 2.0000);"
    )


@pytest.mark.parametrize(
    ("mine", "said"),
    [
        ({"mb": 39.0, "ms": 2.0}, "as large and 4 times faster"),
        ({"mb": 80.0, "ms": 16.0}, "2 times larger and 2 times slower"),
        ({"mb": 20.0, "ms": 7.0, "spread": 3.0}, "2 times smaller and as fast within the spread of the measurements"),
    ],
)
def test_what_is_no_gain_is_not_told_as_one(mine, said):
    assert f" and is {said}; " in judge([TEACHING, entry("student", 0.8, **mine)]).sentence


def test_a_correlation_below_zero_is_no_share():
    entries = [Entry("teacher", {}, {"matthews": 0.5}), Entry("student", {}, {"matthews": -0.1})]
    assert judge(entries, "matthews").sentence.startswith("student has matthews -0.1 against 0.5 of teacher;")


def test_without_a_teacher_or_a_student_there_is_a_verdict_too():
    assert judge([entry("student", 0.8)]).sentence.startswith("student has accuracy 80.0%; one seed")
    assert judge([entry("alone", 0.8), entry("alone", 0.9, x=1)]).sentence == (
        "By accuracy the best of 2 models is alone (x=1), with 90.0%."
    )
    assert judge([]).sentence == "Nothing was compared."
