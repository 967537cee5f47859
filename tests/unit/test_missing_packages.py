"""Commands where packages of the runtime half are not installed."""

import subprocess
import sys

import pytest

from raydistill.environment import missing_package

JOB = """\
name: toy
stages:
  corpus: {kind: binarize, source: {name: text, path: texts.txt}, tokenizer: model}
"""


def run_without(missing, *arguments, folder):
    hidden = f"import sys; sys.modules.update(dict.fromkeys({missing})); sys.argv = ['raydistill', *{arguments}]"
    code = f"{hidden}\nfrom raydistill.__main__ import main\nmain()"
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("missing", "arguments"),
    [
        (["typer"], ["ls", "methods"]),
        (["pydantic"], ["validate", "job.yaml"]),
        (["yaml"], ["run", "job.yaml", "--dry-run"]),
    ],
)
def test_a_command_that_lacks_a_package_names_the_extra_in_one_line(missing, arguments, tmp_path):
    (tmp_path / "job.yaml").write_text(JOB)
    done = run_without(missing, *arguments, folder=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line == (
        f"this command needs the package {missing[0]}, which is not installed; pip install 'raydistill[runtime]'"
    )


def test_a_module_of_ours_that_is_missing_is_no_package_to_install():
    with pytest.raises(ModuleNotFoundError, match=r"raydistill\.gone"):
        missing_package(ModuleNotFoundError("No module named 'raydistill.gone'", name="raydistill.gone"))
