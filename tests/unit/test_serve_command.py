"""``raydistill serve -o``: a file that Ray Serve deploys, and one line for what is wrong."""

import pytest
import yaml
from typer.testing import CliRunner

from raydistill.cli import app
from raydistill.prediction.serving import IMPORT_PATH, Service, as_arguments


def invoke(*arguments):
    return CliRunner().invoke(app, ["serve", *map(str, arguments)])


def test_the_file_names_the_application_and_what_is_not_as_by_default(tmp_path):
    done = invoke("models:/student@champion", "--replicas", 3, "--storage", tmp_path, "-o", tmp_path / "serve.yaml")
    assert done.exit_code == 0, done.output
    made = yaml.safe_load((tmp_path / "serve.yaml").read_text())
    arguments = {"model": "models:/student@champion", "storage": str(tmp_path), "replicas": 3}
    assert made["http_options"] == {"host": "127.0.0.1", "port": 8000}
    assert made["applications"] == [
        {"name": "raydistill", "route_prefix": "/", "import_path": IMPORT_PATH, "args": arguments}
    ]
    assert as_arguments(Service(**arguments)) == arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tracking-uri", "postgresql://me:secret@host/db"], "--tracking-uri: it holds a password"),
        ([], "serve.yaml exists; give another file or remove it"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(tmp_path, options, message):
    if not options:
        (tmp_path / "serve.yaml").write_text("mine")
    done = invoke("student", *options, "-o", tmp_path / "serve.yaml")
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr
    assert "secret" not in done.stderr
    assert not (tmp_path / "serve.yaml").exists() or (tmp_path / "serve.yaml").read_text() == "mine"
