"""What a user's slip on the command line or in a job file is told as: one line with a remedy, and never a traceback."""

import json
import math
import os
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from raydistill.cli import app
from raydistill.config import yaml_text
from raydistill.user_error import UserError

JOB = """\
name: toy
storage: {storage}
stages:
  corpus: {{kind: binarize, source: {{name: text, path: texts/*.txt}}, tokenizer: some/folder}}
  student: {{kind: train, corpus: corpus, method: finetune, student: {{init: checkpoint, checkpoint: a/b}}{more}}}
"""
INTERRUPTED_WHILE_IMPORTING = """
import sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupting())
import runpy
runpy.run_module("raydistill", run_name="__main__", alter_sys=True)
"""


def refused(*arguments):
    """The line on standard error of a command that is refused."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 2, result.output
    assert not isinstance(result.exception, Exception)
    (line,) = result.stderr.splitlines()
    return line


@pytest.fixture
def job(tmp_path):
    def write(more="", storage="runs"):
        path = tmp_path / "toy.yaml"
        path.write_text(JOB.format(storage=storage, more=more))
        return path

    return write


@pytest.mark.parametrize("address", ["http://h:99999", "http://h:x", "http://[::1", "h:99999"])
def test_an_address_that_is_none_is_refused(address):
    line = refused("status", "--address", address)
    assert line == f"--address is {address!r}; give the address of the dashboard, such as http://127.0.0.1:8265"


@pytest.mark.parametrize("command", ["validate", "run"])
def test_a_storage_in_the_home_of_nobody_is_refused(job, command):
    line = refused(command, job(), "storage=~no-such-user/x")
    assert (
        "storage: '~no-such-user/x' starts at ~no-such-user, which is not a user here; write the folder in full" in line
    )


def test_a_job_in_the_home_of_nobody_does_not_exist():
    assert "~no-such-user/toy.yaml does not exist; give a job file" in refused("validate", "~no-such-user/toy.yaml")


def test_an_argument_that_is_too_long_for_a_file_is_no_job(job):
    assert "the job is 'aaa" in refused("validate", "a" * 300)
    assert "the job is 'a/a/a" in refused("run", "a/" * 3000)
    assert "is a key of no stage" in refused("validate", job(), f"{'a' * 150}.b={'c' * 150}")


def test_a_matrix_key_that_is_no_word_is_refused(job):
    line = refused("validate", job(", matrix: {5: [1]}"))
    assert "stages.student.matrix has the key 5; write dotted keys, such as method.temperature: [1, 2]" in line
    assert "matrix.method has" not in line


def test_a_matrix_of_a_million_runs_is_refused_at_once(job):
    axis = ", ".join(map(str, range(100)))
    start = time.perf_counter()
    line = refused("validate", job(f", matrix: {{seed: [{axis}], a: [{axis}], b: [{axis}]}}"))
    assert "stages.student" in line
    assert "a matrix makes over 1,000 runs of this stage; list fewer values" in line
    assert "over 1,000 runs" in refused("validate", job(f", matrix: {{seed: {[*range(20_000)]}}}"))
    assert time.perf_counter() - start < 20


def test_matrices_that_multiply_from_stage_to_stage_are_bounded(tmp_path):
    axes = {"seed": [*range(40)], "tokenizer": [f"t{number}" for number in range(40)]}
    corpora = [
        {"kind": "binarize", "source": {"name": "text", "path": "a"}, "tokenizer": "a", "matrix": {key: axis}}
        for key, axis in axes.items()
    ]
    train = {"kind": "train", "method": "finetune", "student": {"init": "checkpoint", "checkpoint": "second"}}
    stages = {"first": corpora[0], "second": corpora[1], "student": {**train, "corpus": "first"}}
    path = tmp_path / "toy.yaml"
    path.write_text(json.dumps({"name": "toy", "stages": stages}))
    assert "stages.student: a matrix makes over 1,000 runs of this stage" in refused("validate", path)


def aliases(first, line):
    return "\n".join(
        [f"a0: &a0 {first}", *(line(number, ", ".join([f"*a{number - 1}"] * 9)) for number in range(1, 9))]
    )


@pytest.mark.parametrize(
    "text",
    [
        aliases("[x, x, x, x, x, x, x, x, x]", lambda number, same: f"a{number}: &a{number} [{same}]"),
        aliases("{a: 1, b: 2}", lambda number, same: f"a{number}: &a{number} {{<<: [{same}]}}"),
    ],
    ids=["lists", "merged"],
)
def test_nine_lines_of_aliases_do_not_fill_the_memory(text):
    start = time.perf_counter()
    with pytest.raises(UserError, match=r"^toy\.yaml: it has over 100,000 values, aliases written out"):
        yaml_text.parse(text, source="toy.yaml")
    assert time.perf_counter() - start < 20


@pytest.mark.parametrize("value", ["9" * 5000, "!!int x", "!!timestamp 2001-99-99", "[" * 2000])
def test_a_value_that_no_number_holds_is_told_with_the_file(value):
    with pytest.raises(UserError, match=r"^toy\.yaml"):
        yaml_text.parse(f"seed: {value}", source="toy.yaml")


def test_json_has_null_where_a_figure_is_no_number():
    from raydistill.commands.reporting import emit

    def show(data):
        import typer

        shown = typer.Typer()
        shown.command()(lambda: emit(data, json_text=True, lines=[]))
        return CliRunner().invoke(shown).stdout

    found = json.loads(
        show({"loss": math.nan, "entries": [{"metrics": {"f1": math.inf}}], "seed": 1, "accuracy": 0.5, "lines": (1,)}),
        parse_constant=pytest.fail,
    )
    assert found == {
        "loss": None,
        "entries": [{"metrics": {"f1": None}}],
        "seed": 1,
        "accuracy": 0.5,
        "lines": [1],
    }


def test_ctrl_c_while_the_command_starts_exits_130_without_a_traceback():
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_WHILE_IMPORTING, "ls", "jobs"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    assert (done.returncode, done.stderr) == (130, "")
