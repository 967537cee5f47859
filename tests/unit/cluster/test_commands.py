"""``submit``, ``status``, ``logs``, ``stop`` and ``resume`` on the command line, before anything reaches a cluster."""

import json
from types import SimpleNamespace

import pytest
import yaml
from typer.testing import CliRunner

from raydistill.cli import app
from raydistill.commands import cluster_jobs, submit

JOB = """
name: toy
storage: /shared/runs
stages:
  corpus:
    kind: binarize
    source: {name: text, path: texts/*.txt}
    tokenizer: hub/name
"""


def invoke(*arguments, **variables):
    return CliRunner().invoke(app, list(arguments), env={"RAY_API_SERVER_ADDRESS": None, **variables})


@pytest.fixture
def job(tmp_path, monkeypatch):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("one")
    (tmp_path / "toy.yaml").write_text(JOB)
    monkeypatch.chdir(tmp_path)
    return "toy.yaml"


class Api:
    """A cluster with one job."""

    address = "http://head:8265"

    def __init__(self, **values):
        defaults = {
            "submission_id": "toy-1",
            "status": "RUNNING",
            "start_time": 1_000,
            "end_time": None,
            "metadata": {"raydistill_name": "toy", "raydistill_storage": "/shared/runs"},
            "message": "Job is currently running.",
            "driver_exit_code": None,
            "runtime_env": {},
        }
        self.info = SimpleNamespace(**{**defaults, **values})
        self.interrupts = False

    def jobs(self):
        return [self.info]

    def job(self, job_id):
        return self.info

    def stop(self, job_id):
        self.info.status = "STOPPED"
        return True

    def follow(self, job_id, echo):
        echo("a line\n")
        if self.interrupts:
            raise KeyboardInterrupt
        return self.info


@pytest.fixture
def api(monkeypatch):
    """Lets the commands find a cluster."""

    def use(**values):
        found = Api(**values)
        for module in (cluster_jobs, submit):
            monkeypatch.setattr(module, "connected", lambda address: found)
        return found

    return use


@pytest.mark.parametrize("command", ["submit", "status", "logs", "stop", "resume"])
def test_each_command_has_help_with_an_example(command):
    done = invoke(command, "--help")
    assert done.exit_code == 0
    assert f"raydistill {command}" in done.output.replace("\n", " ")
    assert "--address" in done.output


def test_local_files_are_refused_before_anything_is_sent(job, api):
    api()
    done = invoke("submit", job)
    assert done.exit_code == 2
    assert done.output.startswith("stages.corpus.source.path is 'texts/*.txt', on this machine")


def test_a_mistake_in_the_job_is_told_as_run_tells_it(job, api):
    api()
    done = invoke("submit", job, "corpus.source.pth=x")
    assert done.exit_code == 2
    assert "pth" in done.output


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--kuberay"], "--kuberay needs --image"),
        (["--image", "x"], "--image goes with --kuberay"),
        (["--claim", "x"], "--claim goes with --kuberay"),
        (["--kuberay", "--image", "x", "--upload"], "--kuberay sends no files"),
        (["--env", "NO_SUCH_VARIABLE"], "--env NO_SUCH_VARIABLE has no value"),
    ],
)
def test_options_that_do_not_fit_are_refused(job, api, options, line):
    api()
    done = invoke("submit", job, *options)
    assert done.exit_code == 2
    assert done.output.startswith(line)


def test_kuberay_prints_what_kubectl_applies_and_asks_no_cluster(job):
    done = invoke(
        "submit", job, "corpus.source.path=/shared/texts/*.txt", "--kuberay", "--image", "x", "--claim", "runs"
    )
    assert done.exit_code == 0, done.output
    config_map, ray_job = yaml.safe_load_all(done.output)
    assert ray_job["kind"] == "RayJob"
    assert yaml.safe_load(config_map["data"]["job.yaml"])["stages"]["corpus"]["source"]["path"] == "/shared/texts/*.txt"


def test_ctrl_c_leaves_the_job_running_and_says_how_to_follow_and_stop_it(api):
    api().interrupts = True
    done = invoke("logs", "toy-1", "--follow")
    assert done.exit_code == 130
    assert "a line\ntoy-1 goes on without this terminal\n" in done.output
    assert "raydistill logs toy-1 --follow --address http://head:8265" in done.output
    assert "raydistill stop toy-1 --address http://head:8265" in done.output


def test_the_address_is_left_out_where_the_commands_find_it(api):
    api().interrupts = True
    done = invoke("logs", "toy-1", "--follow", RAY_API_SERVER_ADDRESS="http://head:8265")
    assert "--address" not in done.output


def test_a_failed_job_ends_the_command_with_its_status(api):
    api(status="FAILED", driver_exit_code=2, end_time=2_000)
    done = invoke("logs", "toy-1", "--follow")
    assert done.exit_code == 2
    assert "toy-1 failed, exit status 2\n  continue it: raydistill resume toy-1" in done.output


def test_status_tells_of_all_jobs_and_of_one(api):
    api(status="FAILED", driver_exit_code=1, end_time=3_661_000)
    rows = invoke("status").output.splitlines()
    assert rows[0].split() == ["id", "status", "started", "time"]
    assert rows[1].split()[:2] == ["toy-1", "failed"]
    assert rows[1].endswith("1:01:00")
    one = invoke("status", "toy-1").output
    assert "exit status: 1" in one
    assert "storage: /shared/runs" in one
    data = json.loads(invoke("status", "toy-1", "--json").output)
    assert (data["status"], data["exit_code"], data["seconds"]) == ("failed", 1, 3660.0)


def test_stop_says_how_to_continue(api):
    api()
    done = invoke("stop", "toy-1")
    assert done.exit_code == 0
    assert "toy-1 is stopped; continue it: raydistill resume toy-1" in done.output


def test_a_running_job_is_not_resumed(api):
    api(metadata={"raydistill_job": "name: toy"})
    done = invoke("resume", "toy-1")
    assert done.exit_code == 2
    assert "toy-1 has not ended (it is RUNNING)" in done.output
