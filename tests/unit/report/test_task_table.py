import pytest

from raydistill.report.tables import Entry, group, markdown
from raydistill.report.task_table import TaskColumn, in_hundredths, note, task_entries

# GLUE's development sets as published for six layers, a row a model; the average is over eight tasks.
TASKS = ("CoLA", "MNLI", "MRPC", "QNLI", "QQP", "RTE", "SST-2", "STS-B")
PUBLISHED = {
    "DistilBERT": (75.80, (40.43, 78.95, 87.45, 84.76, 84.96, 60.10, 89.38, 80.40)),
    "DIITO": (77.14, (45.17, 79.68, 88.18, 85.83, 85.31, 60.94, 90.32, 81.69)),
}


def column(scores: dict[str, float], *, metric: str = "accuracy", **assignment: object) -> TaskColumn:
    entries = [Entry(model, assignment, {metric: score, "loss": 9.0}) for model, score in scores.items()]
    return TaskColumn(entries, [metric])


def test_the_average_of_published_scores_is_the_published_average():
    columns = {
        task: column({model: scores[place] / 100 for model, (_, scores) in PUBLISHED.items()})
        for place, task in enumerate(TASKS)
    }
    lines = markdown(group(task_entries(columns, TASKS)), in_hundredths).splitlines()
    assert lines[0] == "| model | average | CoLA | MNLI | MRPC | QNLI | QQP | RTE | SST-2 | STS-B |"
    for line, (model, (average, scores)) in zip(lines[2:], PUBLISHED.items(), strict=True):
        assert line == f"| {model} | {average:.2f} | {' | '.join(f'{score:.2f}' for score in scores)} |"


def test_several_metrics_of_a_task_are_their_mean():
    entry = Entry("a", {}, {"accuracy": 0.8, "f1": 0.9, "loss": 1.0})
    (found,) = task_entries({"MRPC": TaskColumn([entry], ["accuracy", "f1"])}, ["MRPC"])
    assert found.figures == {"average": pytest.approx(0.85), "MRPC": pytest.approx(0.85)}


def test_seeds_are_averaged_each_by_itself_and_shown_with_their_spread():
    first = {1: 0.5, 2: 0.7}
    columns = {
        "A": TaskColumn([Entry("s", {"seed": seed}, {"f1": score}) for seed, score in first.items()], ["f1"]),
        # The other way round: each seed has the same average.
        "B": TaskColumn([Entry("s", {"seed": seed}, {"f1": 1.2 - score}) for seed, score in first.items()], ["f1"]),
    }
    lines = markdown(group(task_entries(columns, ["A", "B"])), in_hundredths).splitlines()
    assert lines[2] == "| s | 2 | 60.00 ± 0.00 | 60.00 ± 14.14 | 60.00 ± 14.14 |"


def test_a_model_that_lacks_an_averaged_task_has_no_average():
    columns = {"A": column({"a": 0.5, "b": 0.6}), "B": column({"a": 0.7}), "C": column({"b": 0.1})}
    found = {entry.model: entry.figures for entry in task_entries(columns, ["A", "B"])}
    assert found == {"a": {"average": 0.6, "A": 0.5, "B": 0.7}, "b": {"A": 0.6, "C": 0.1}}


def test_runs_that_differ_in_more_than_their_seed_are_rows_of_their_own():
    columns = {
        task: TaskColumn([Entry("s", {"method": method}, {"f1": 0.5}) for method in ("kd", "finetune")], ["f1"])
        for task in "AB"
    }
    names = [row.name for row in group(task_entries(columns, ["A"]))]
    assert names == ["s (method=kd)", "s (method=finetune)"]


def test_the_note_tells_metrics_and_what_the_average_is_over():
    columns = {"A": column({"a": 0.5}, metric="matthews"), "B": TaskColumn([], ["accuracy", "f1"])}
    assert note(columns, ["A", "B"]) == (
        "In hundredths: A (matthews), B (accuracy and f1), of several metrics their mean; the average is over all "
        "columns."
    )
    assert note(columns, ["A"]).endswith("the average is over A.")


def test_a_table_without_averaged_columns_has_no_average():
    columns = {"A": column({"a": 0.5}), "B": column({"a": 0.7})}
    (found,) = task_entries(columns, [])
    assert found.figures == {"A": 0.5, "B": 0.7}
    assert note(columns, []) == "In hundredths: A (accuracy), B (accuracy)."
