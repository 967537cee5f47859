"""The job that the documentation builds in Python, as a user runs it: as a script, then from its file."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from toys.reviews import documented_block, write_reviews

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
TABLE = """
table = result.table("evaluate")
print("TABLE", table[["model", "seed"]].to_json(orient="values"), "accuracy" in table)
"""


def run(folder: Path, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=800
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_documented_job_runs_and_its_file_finds_everything_finished(tmp_path: Path) -> None:
    folder = write_reviews(tmp_path)
    script = f"import raydistill as rd\nbase = 'base'\n{documented_block()}{TABLE}"
    told = run(folder, "-c", script).splitlines()
    (line,) = [line for line in told if line.startswith("TABLE ")]
    rows = [["teacher", None], *(["student", seed] for seed in (1.0, 2.0, 3.0))]
    assert json.loads(line.split(" ")[1]) == rows
    assert line.endswith("True")
    assert any(line.startswith("train[seed=1] and 2 more: ") for line in told)

    stages = json.loads(run(folder, "-m", "raydistill", "run", "reviews.yaml", "--json"))["stages"]
    assert list(stages) == ["binarize", "teacher", *(f"train[seed={seed}]" for seed in (1, 2, 3)), "evaluate"]
    assert all(stage["skipped"] for stage in stages.values())


# The first tutorial runs one in `make test-all`.
@pytest.mark.long
def test_a_job_of_the_command_new_runs_and_its_student_is_registered(tmp_path: Path) -> None:
    folder = write_reviews(tmp_path)
    columns = ["--data", "reviews.csv", "--text", "review", "--label", "stars"]
    run(folder, "-m", "raydistill", "new", "job", "mine", *columns, "--teacher", "base", "--layers", "3")
    shorter = [f"{stage}.training.max_steps=2" for stage in ("teacher", "student")]
    stages = json.loads(run(folder, "-m", "raydistill", "run", "mine.yaml", *shorter, "--json"))["stages"]
    assert list(stages) == ["corpus", "teacher", "student", "evaluate", "register"]
    assert "mine" in run(folder, "-m", "raydistill", "models", "list")
