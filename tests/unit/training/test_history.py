"""The history of a training, also after a crash."""

from pathlib import Path

from raydistill.training.history import append_history, cut_history, read_history


def write(folder: Path, *steps: int) -> None:
    """One line a step."""
    for step in steps:
        append_history(folder, step, {"train/loss": step / 3})


def steps(folder: Path) -> list[int]:
    """Steps of the lines in order."""
    return [line["step"] for line in read_history(folder)]


def test_lines_come_back_exactly_and_in_order(tmp_path: Path):
    append_history(tmp_path, 0, {"eval/loss": 0.1 + 0.2, "eval/perplexity": float("inf")})
    append_history(tmp_path, 10, {"train/loss": 1e-300})
    assert read_history(tmp_path) == [
        {"step": 0, "eval/loss": 0.1 + 0.2, "eval/perplexity": float("inf")},
        {"step": 10, "train/loss": 1e-300},
    ]


def test_there_is_no_history_before_a_training(tmp_path: Path):
    assert read_history(tmp_path) == []


def test_a_line_that_a_crash_left_half_written_is_no_line(tmp_path: Path):
    write(tmp_path, 1, 2)
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"step": 3, "train/lo')
    assert steps(tmp_path) == [1, 2]


def test_a_restored_training_writes_on_behind_the_restored_step(tmp_path: Path):
    write(tmp_path, 0, 2, 2, 4, 6)
    before = read_history(tmp_path)
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"step": 8, "train/lo')
    cut_history(tmp_path, 4)
    write(tmp_path, 6)
    assert read_history(tmp_path) == before


def test_a_training_that_starts_again_starts_an_empty_history(tmp_path: Path):
    write(tmp_path, 0, 2)
    cut_history(tmp_path, -1)
    assert steps(tmp_path) == []
