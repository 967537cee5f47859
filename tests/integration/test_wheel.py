"""The built wheel, installed alone into an empty environment, outside the repository."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from typer.testing import CliRunner

from raydistill.cli import app
from toys.checkpoint import save_student

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SOURCES = ["platform", "jobs", "tune_spaces", "pyproject.toml", "README.md", "LICENSE"]
JOB = """\
name: toy
stages:
  corpus: {kind: binarize, source: {name: text, path: texts.txt}, tokenizer: model}
  train: {kind: train, corpus: corpus, method: finetune, student: {init: checkpoint, checkpoint: model}}
"""


def execute(*command, folder, status=0):
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(part) for part in command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A copy of what is built: building beside the sources would reuse files of earlier builds."""
    folder = tmp_path_factory.mktemp("sources")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def build(kind, source, target):
    execute(sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", target, source, folder=target)
    (found,) = target.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return found


@pytest.fixture(scope="module")
def environment(sources, tmp_path_factory):
    """An empty environment with the wheel, which borrows this environment's dependencies but not its raydistill.

    Downloading all dependencies again would cost 2 GB. A path in a .pth file is searched last and its own .pth files
    are not read, so an editable installation of raydistill stays out of reach.
    """
    folder = tmp_path_factory.mktemp("environment")
    wheel = build("wheel", sources, tmp_path_factory.mktemp("wheel"))
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    execute(
        *(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel), folder=folder
    )
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return folder


@pytest.fixture(scope="module")
def command(environment):
    return environment / "bin" / "raydistill"


def test_the_installed_package_is_the_wheels(environment, tmp_path):
    code = "import raydistill; print(raydistill.__file__)"
    found = execute(environment / "bin" / "python", "-c", code, folder=tmp_path).stdout
    assert Path(found.strip()).is_relative_to(environment)


def test_a_reports_page_is_rendered_from_what_is_in_the_wheel(environment, tmp_path):
    code = (
        "from raydistill.report import document, html; verdict = document.Verdict('It is good.'); "
        "print(html.page(document.Document('Report', 'toy', '', verdict, [])))"
    )
    found = execute(environment / "bin" / "python", "-c", code, folder=tmp_path).stdout
    assert "It is good." in found
    assert "prefers-color-scheme" in found


def test_ls_lists_every_job_of_the_repository(command, tmp_path):
    listed = json.loads(execute(command, "ls", "jobs", "--json", folder=tmp_path).stdout)
    in_folder = sorted(str(path.relative_to(ROOT / "jobs").with_suffix("")) for path in ROOT.glob("jobs/**/*.yaml"))
    assert [entry["name"] for entry in listed] == in_folder


@pytest.mark.parametrize("kind", ["methods", "tasks", "sources", "stages", "spaces"])
def test_ls_lists_what_the_repository_has(command, tmp_path, kind):
    here = CliRunner().invoke(app, ["ls", kind]).stdout
    assert execute(command, "ls", kind, folder=tmp_path).stdout == here


def test_a_shipped_job_is_copied_as_it_is(command, tmp_path):
    execute(command, "cp", "demo", "mine.yaml", folder=tmp_path)
    assert (tmp_path / "mine.yaml").read_bytes() == (ROOT / "jobs" / "demo.yaml").read_bytes()


def test_a_job_with_a_local_teacher_is_valid(command, tmp_path):
    save_student(tmp_path / "model")
    (tmp_path / "texts.txt").write_text("w5 w6 w7\n")
    (tmp_path / "job.yaml").write_text(JOB)
    lines = execute(command, "validate", "job.yaml", folder=tmp_path).stdout.splitlines()
    assert lines[0] == "job.yaml: valid"
    assert any(line.startswith("  train: student distilbert") for line in lines)


def test_the_wheel_holds_no_tests(environment):
    assert not list(environment.glob("lib/*/site-packages/tests"))


def test_an_sdist_builds_the_same_package(sources, tmp_path):
    archive = build("sdist", sources, tmp_path)
    shutil.unpack_archive(archive, tmp_path, filter="data")
    (unpacked,) = (path for path in tmp_path.iterdir() if path.is_dir())
    for folder, copied in (("jobs", "_jobs"), ("tune_spaces", "_tune_spaces")):
        for path in (ROOT / folder).rglob("*.yaml"):
            built = unpacked / "platform" / "raydistill" / copied / path.relative_to(ROOT / folder)
            assert built.read_bytes() == path.read_bytes()
