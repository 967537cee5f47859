import runpy

import pytest
from typer.testing import CliRunner

from raydistill import discovery, plugins
from raydistill.cli import app
from raydistill.config.named import EncodingSpec, MethodSpec, SourceSpec, TaskSpec
from raydistill.testing import METHOD_CHECKS


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    discovery.use([])


def new(*arguments):
    return CliRunner().invoke(app, ["new", *arguments])


def written(kind, name):
    """What the written test file defines, once the file is known as a plug-in."""
    result = new(kind, name)
    assert result.exit_code == 0, result.stderr
    with open(f"{name}.py", encoding="utf-8") as file:
        discovery.use([plugins.of_file(f"{name}.py", file.read())])
    return runpy.run_path(f"test_{name}.py")


@pytest.mark.parametrize("check", METHOD_CHECKS, ids=lambda check: check.__name__)
def test_a_new_method_keeps_the_contract_by_the_test_that_is_written_with_it(check):
    tests = written("method", "my_method")
    assert len(tests["OPTIONS"]) == 2
    for options in tests["OPTIONS"]:
        tests["test_contract"](check, options)
    assert MethodSpec.parse({"name": "my_method", "temperature": 3}).requirements.min_teachers == 1


def test_a_new_task_passes_its_tests_and_is_read_by_jobs():
    tests = written("task", "my_task")
    for name in [name for name in tests if name.startswith("test_")]:
        tests[name]()
    assert TaskSpec.parse("my_task").higher_is_better(("no", "yes")) == {"accuracy": True, "loss": False}
    assert EncodingSpec.parse({"name": "my_task", "labels": ["no", "yes"]}).labels == ("no", "yes")


def test_a_new_source_passes_its_test_and_is_read_by_jobs(tmp_path):
    written("source", "my_source")["test_a_line_is_an_example"](tmp_path)
    assert SourceSpec.parse({"name": "my_source", "path": "a.txt"}).is_listed_early
    with pytest.raises(ValueError, match=r"path is 'a\.txt', which does not exist"):
        SourceSpec.parse({"name": "my_source", "path": "a.txt"}).items()


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("kd", "there is a method named kd already; give another name\n"),
        ("My-method", "the name is 'My-method'; use letters a to z, digits and _, starting with a letter\n"),
    ],
)
def test_a_name_that_no_plug_in_can_have_is_refused(name, line):
    result = new("method", name)
    assert (result.exit_code, result.stderr) == (2, line)


def test_no_file_is_overwritten(tmp_path):
    (tmp_path / "test_mine.py").write_text("mine")
    result = new("method", "mine")
    assert (result.exit_code, result.stderr) == (2, "test_mine.py exists; give another name or remove it\n")
    assert not (tmp_path / "mine.py").exists()
