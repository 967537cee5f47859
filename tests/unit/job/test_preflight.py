"""What the preflight prints of the runs of a matrix."""

from raydistill.job.preflight import Preview, report_lines


def test_runs_of_one_stage_with_equal_lines_are_told_once() -> None:
    previews = [
        Preview("corpus", True, ["texts"]),
        Preview("student[seed=1]", False, ["small"]),
        Preview("student[seed=2]", False, ["small"]),
        Preview("student[seed=3]", True, ["small"]),
        Preview("other[seed=1]", False, ["small"]),
    ]
    assert report_lines(previews) == {
        "corpus": ["texts", "finished before, will be skipped"],
        "student[seed=1] and 1 more": ["small"],
        "student[seed=3]": ["small", "finished before, will be skipped"],
        "other[seed=1]": ["small"],
    }
