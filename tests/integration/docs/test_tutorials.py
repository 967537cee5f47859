"""The tutorials as a reader follows them: their files, their commands and their Python, on small models."""

from pathlib import Path

import pytest

from toys.pages import ROOT, Reader, write_examples

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
TUTORIALS = ROOT / "docs" / "tutorials"


def follow(folder: Path, *names: str) -> list[str]:
    write_examples(folder)
    reader = Reader(folder)
    return [text for name in names for text in reader.follow(TUTORIALS / f"{name}.md")]


def test_a_csv_file_becomes_a_registered_student_with_a_report_and_an_export(tmp_path: Path) -> None:
    printed = follow(tmp_path, "own-csv", "search", "cluster")
    assert len(list(tmp_path.glob("runs/reviews/report-*/report.html"))) == 1
    assert (tmp_path / "my-student-int8" / "model.onnx").is_file()
    answers = (tmp_path / "answers.csv").read_text(encoding="utf-8").splitlines()
    assert answers[0] == "review,sentiment,prediction,probability.negative,probability.positive"
    assert len(answers) == 81
    assert (tmp_path / "runs" / "reviews-search" / "campaign.html").is_file()
    assert "kind: RayJob" in (tmp_path / "rayjob.yaml").read_text(encoding="utf-8")
    assert any("reviews" in text and "accuracy" in text for text in printed)


# Jobs of each of these kinds run in `make test-all`, and every file of the pages is checked in `make test`.
@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("language-model", "next token alone"),
        ("partial-teachers", "student (method=muki)"),
        ("sparse-teachers", "rewound (sparsity=60)"),
        ("own-method", "student (method=right_teacher"),
    ],
)
def test_a_tutorial_ends_with_the_table_that_it_promises(name: str, row: str, tmp_path: Path) -> None:
    assert any(row in text for text in follow(tmp_path, name))
