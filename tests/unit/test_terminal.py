"""How tables fit a terminal."""

import re

import pytest
from rich.cells import cell_len

from raydistill.report.tables import Entry, group, rows_of
from raydistill.terminal import drawn

MODELS = ["teacher", "student (method.temperature=2)", "student (method.temperature=4)", "[red]alone[/red]"]
FIGURES = {
    "loss": 0.5321,
    "accuracy": 0.9125,
    "macro_f1": 0.9013,
    "parameters": 22_713_216,
    "size_mb": 90.87,
    "latency_ms": 4.32,
    "batch_latency_ms": 1.23,
}


def table(models: list[str], figures: dict[str, float] = FIGURES) -> tuple[list[str], list[list[str]]]:
    entries = [Entry(name, {"seed": seed}, figures) for name in models for seed in (1, 2)]
    header, rows = rows_of(group(entries))
    return header, [list(row) for row in rows]


def cells(lines: list[str]) -> list[list[str]]:
    """What stands between the bars of a drawn table, row by row."""
    return [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in lines if line[:1] in "│┃"]


def is_note(line: str) -> bool:
    return "the terminal has" in line


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("num_models", [1, 2, 4])
def test_no_line_is_wider_than_the_terminal_and_no_cell_is_lost(width: int, num_models: int) -> None:
    header, rows = table(MODELS[:num_models])
    lines = drawn(header, rows, width=width)
    assert max(map(cell_len, lines)) <= width
    found = [cell for row in cells(lines) for cell in row]
    assert {cell for row in [header, *rows] for cell in row} <= {*found}
    assert not any("…" in line for line in lines)


def test_a_table_that_fits_is_drawn_as_it_is() -> None:
    header, rows = table(MODELS, {"loss": 0.5, "accuracy": 0.9})
    lines = drawn(header, rows, width=80)
    assert cells(lines) == [header, *rows]
    assert not any(map(is_note, lines))


def test_few_models_with_many_figures_are_turned_and_the_table_says_so() -> None:
    header, rows = table(MODELS[:1])
    lines = drawn(header, rows, width=80)
    assert cells(lines) == [[name, value] for name, value in zip(header, rows[0], strict=True)]
    assert lines[-1] == "turned, a column for each model: the terminal has 80 columns"


def test_many_models_with_many_figures_stand_in_parts_each_of_which_names_all_models() -> None:
    header, rows = table(MODELS)
    lines = drawn(header, rows, width=80)
    assert sum(row[0] == "model" for row in cells(lines)) == 3
    assert all([row[0] for row in cells(lines)].count(name) == 3 for name in MODELS)
    assert lines[-1] == "one table in 3 parts: the terminal has 80 columns"


def test_a_name_that_is_wider_than_the_terminal_goes_on_in_further_lines() -> None:
    name = "a student of " + "x" * 90
    lines = drawn(["model", "loss"], [[name, "0.5"]], width=80)
    assert max(map(cell_len, lines)) <= 80
    assert "".join("".join(row[0].split()) for row in cells(lines)[1:]) == "".join(name.split())


def test_a_long_reason_goes_on_in_further_lines() -> None:
    reason = "failed: the loss is not finite at step 12; lower optimizer.learning_rate or training.precision"
    lines = drawn(["trial", "loss", "state"], [["0", "0.5", reason], ["1", "0.25", "finished"]], width=80)
    assert max(map(cell_len, lines)) <= 80
    assert " ".join(" ".join(row[2] for row in cells(lines)[1:-1]).split()) == reason


@pytest.mark.parametrize("width", [80, 120])
def test_the_width_is_that_of_the_console(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    header, rows = table(MODELS)
    assert drawn(header, rows) == drawn(header, rows, width=width) != drawn(header, rows, width=200 - width)


def test_without_rules_a_table_that_is_too_wide_is_turned_as_well() -> None:
    header = ["name", "versions", "aliases", "job", "best metric"]
    row = ["sentiment-student", "4, 3, 2, 1", "champion=3, candidate=4", "kd-sentiment", "accuracy 0.8123 (version 4)"]
    assert drawn(header, [row], width=120, ruled=False) == [
        "name               versions    aliases                  job           best metric",
        "sentiment-student  4, 3, 2, 1  champion=3, candidate=4  kd-sentiment  accuracy 0.8123 (version 4)",
    ]
    turned = drawn(header, [row], width=80, ruled=False)
    assert turned[:2] == ["name         sentiment-student", "versions     4, 3, 2, 1"]
    assert turned[-1] == "turned, a column for each name: the terminal has 80 columns"


def test_columns_of_numbers_stand_to_the_right_and_texts_to_the_left() -> None:
    lines = drawn(["", "a", "what"], [["x", "1.5", "no"], ["y", "-20", "maybe"]], width=80, ruled=False)
    assert lines == ["     a  what", "x  1.5  no", "y  -20  maybe"]
