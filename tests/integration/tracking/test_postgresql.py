"""The registry on an MLflow server over PostgreSQL, with an artifact store behind the server."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import mlflow
import pytest
import yaml
from typer.testing import CliRunner, Result

from integration.tracking.mlflow_server import Server, free_port
from raydistill.cli import app
from raydistill.job.load import load_job
from raydistill.registry import promotion
from raydistill.search.campaign import run_campaign
from raydistill.search.report import log_report
from raydistill.tracking.writer import MlflowWriter, Store
from toys.course import live
from toys.registry import register_versions
from toys.search import STAGE, make_search, write_job

PASSWORD = "hunter2"
_BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """URI of a database of a server of its own, which root starts as the user ``postgres``."""
    if not _BINARIES:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    port, folder = free_port(), Path(tempfile.mkdtemp(prefix="raydistill-pg-"))
    as_server: list[str] = []
    if os.geteuid() == 0:
        as_server = ["runuser", "-u", "postgres", "--"]
        shutil.chown(folder, "postgres")

    def call(program: str, *arguments: str) -> None:
        command = [*as_server, str(_BINARIES[-1].parent / program), "-D", str(folder / "data"), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/")

    (folder / "password").write_text(PASSWORD)
    (folder / "password").chmod(0o644)
    call("initdb", "-U", "tracker", "--auth=scram-sha-256", f"--pwfile={folder / 'password'}")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    call("pg_ctl", "-o", options, "-l", str(folder / "log"), "-w", "start")
    yield f"postgresql://tracker:{PASSWORD}@127.0.0.1:{port}/postgres"
    call("pg_ctl", "-m", "immediate", "stop")
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def server(postgresql: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"), postgresql)
    server.start()
    register_versions(
        MlflowWriter(Store(server.uri, None, "experiment"), tmp_path_factory.mktemp("spool") / "runs.json"),
        tmp_path_factory.mktemp("students"),
    )
    yield server
    server.kill()


def models(uri: str, *arguments: object) -> Result:
    return CliRunner().invoke(app, ["models", *map(str, arguments), "--tracking-uri", uri])


def data(uri: str, *arguments: object) -> dict:
    result = models(uri, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_versions_are_listed_shown_and_compared_through_the_server(server: Server) -> None:
    [row] = data(server.uri, "list")
    assert (row["versions"], row["aliases"]["candidate"]) == ([4, 3, 2, 1], 4)
    assert data(server.uri, "show", "student/2")["lineage"]["campaign"] == "search-1"
    rows = {row["what"]: row for row in data(server.uri, "compare", "student/2", "student/3")["rows"]}
    assert rows["accuracy"]["difference"] == pytest.approx(-0.03)


def test_the_gate_promotes_and_refuses_on_the_server(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    # A version that passes is fetched from the artifact store and reloaded in a process of its own.
    assert data(server.uri, "promote", "student", 2, "--to", "champion")["promoted"]
    monkeypatch.setattr(promotion, "_reload", lambda folder: [])
    refused = models(server.uri, "promote", "student", 3, "--to", "champion")
    assert refused.exit_code == 2
    assert "worse than 0.88 of student version 2" in refused.stderr
    assert data(server.uri, "promote", "student", 3, "--to", "champion", "--force")["promoted"]
    assert data(server.uri, "list")[0]["aliases"]["champion"] == 3


def test_a_student_is_pulled_from_the_artifact_store(server: Server, tmp_path: Path) -> None:
    assert models(server.uri, "pull", "student/2", tmp_path / "pulled").exit_code == 0
    assert (tmp_path / "pulled" / "model.safetensors").stat().st_size > 1000
    assert "# student" in (tmp_path / "pulled" / "README.md").read_text()


def test_the_database_itself_is_read_and_its_password_never_shown(
    server: Server, postgresql: str, tmp_path: Path
) -> None:
    assert data(postgresql, "list")[0]["versions"] == [4, 3, 2, 1]
    unknown = models(postgresql, "show", "studnet")
    assert unknown.exit_code == 2
    assert PASSWORD not in unknown.output


def test_a_campaign_has_its_trials_page_tables_and_best_job_on_the_server(
    server: Server, tmp_path: Path, ray_cluster: None
) -> None:
    write_job(tmp_path)
    search = make_search(
        tmp_path,
        name="toy-server",
        overrides={**live(tmp_path), "tracking.uri": server.uri},
        space={"method.temperature": [1.0, 2.0]},
        scheduler="fifo",
        searcher="grid",
        budget={},
    )
    result = run_campaign(search, resume=False, echo=lambda line: None, finish=partial(log_report, search))
    assert [trial.state for trial in result.trials] == ["finished"] * 2
    client = mlflow.MlflowClient(server.uri)
    experiment = client.get_experiment_by_name("toy-server")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"toy-server", "trial 0", "trial 1"}
    campaign = runs["toy-server"]
    assert {runs[f"trial {number}"].data.tags["mlflow.parentRunId"] for number in (0, 1)} == {campaign.info.run_id}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert [runs[f"trial {trial.number}"].data.metrics["validation/loss"] for trial in result.trials] == [
        trial.metric for trial in result.trials
    ]
    kept = {file.path for file in client.list_artifacts(campaign.info.run_id)}
    assert {"campaign.html", "trials.csv", "best.yaml"} <= kept
    assert campaign.info.artifact_uri.startswith("mlflow-artifacts:")
    for name in ("trials.csv", "campaign.html", "best.yaml"):
        fetched = Path(client.download_artifacts(campaign.info.run_id, name, str(tmp_path)))
        assert fetched.read_bytes() == (result.folder / name).read_bytes()
    assert set(load_job(yaml.safe_load((tmp_path / "best.yaml").read_text())).stages) == {STAGE}
