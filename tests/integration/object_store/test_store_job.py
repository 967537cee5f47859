"""A whole job whose outputs lie on a real S3 server, its driver and its workers without a common disk."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest

from raydistill.data.storages import storage_at
from raydistill.job.load import load_job
from raydistill.job.preflight import check_job
from raydistill.job.run import run_job
from raydistill.store_paths import local_path, shown
from raydistill.training.history import read_history
from toys.store import BUCKET, job_data, keys, s3_server, without_ray_address, write_inputs, write_job

DRIVER = Path(__file__).with_name("two_machines.py")

pytestmark = [pytest.mark.timeout(1500), pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("store")
    write_inputs(found)
    return found


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[Any]:
    with s3_server(folder / "cache-of-tests") as found:
        yield found


def data_of(folder: Path, name: str) -> dict[str, Any]:
    uri = f"sqlite:///{folder / name}.db"
    return job_data(folder, f"s3://{BUCKET}/{name}", tracking={"uri": uri})


def start(folder: Path, kind: str, caches: str, *jobs: dict[str, Any]) -> subprocess.Popen[bytes]:
    """Jobs one after another in a process of its own, whose cache folders begin with ``caches``."""
    files = [write_job(folder / f"{caches}-{number}.yaml", data) for number, data in enumerate(jobs)]
    folders = [str(folder / f"{caches}-{who}") for who in ("driver", "worker")]
    environment = {**without_ray_address(), "PYTHONPATH": str(Path(__file__).parents[2])}
    with (folder / f"{caches}.log").open("wb") as log:
        command = [sys.executable, str(DRIVER), kind, *folders, *map(str, files)]
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)


def log_of(folder: Path, caches: str) -> str:
    return (folder / f"{caches}.log").read_text(encoding="utf-8", errors="replace")


@pytest.fixture(scope="module")
def killed(client: Any, folder: Path) -> list[str]:
    """What is in the bucket of a job whose driver was killed when its student's training had a second checkpoint."""
    driver = start(folder, "kept", "first", data_of(folder, "runs"))
    try:
        deadline = time.monotonic() + 600
        while not any("/checkpoint_000000010/manifest.json" in key for key in keys(client, "runs/toy/student-")):
            assert driver.poll() is None, log_of(folder, "first")[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        driver.kill()
        driver.wait()
    return keys(client, "runs/toy/")


@pytest.fixture(scope="module")
def results(killed: list[str], client: Any, folder: Path) -> list[dict[str, Any]]:
    """The job run to its end by machines with empty disks, in groups of Ray Train, and one that reads its outputs."""
    data = data_of(folder, "more")
    stage = data["stages"]["evaluate"]
    stage["corpus"] = shown(output("runs", "corpus", client))
    stage["models"] = {"student": shown(output("runs", "student", client) / "student")}
    jobs = (data_of(folder, "runs"), {**data, "stages": {"evaluate": stage}})
    status = start(folder, "cluster", "second", *jobs).wait(timeout=900)
    assert status == 0, log_of(folder, "second")[-5000:]
    return [json.loads(line) for line in log_of(folder, "second").splitlines() if line.startswith('{"job"')]


@pytest.fixture(scope="module")
def finished(results: list[dict[str, Any]]) -> dict[str, Any]:
    return results[0]


@pytest.fixture(scope="module")
def undisturbed(ray_cluster: None, folder: Path) -> dict[int, float]:
    """Losses of the same student, trained in one go with its outputs in a folder."""
    data = job_data(folder, str(folder / "local"))
    data["stages"] = {name: data["stages"][name] for name in ("corpus", "student")}
    return losses(run_job(load_job(data), echo=lambda line: None).outputs["student"])


def output(name: str, stage: str, client: Any) -> Path:
    [found] = {key.split("/")[2] for key in keys(client, f"{name}/toy/{stage}-")}
    return local_path(f"s3://{BUCKET}/{name}/toy/{found}")


def losses(folder: Path) -> dict[int, float]:
    lines = [line for line in read_history(folder) if "train/loss" in line]
    assert len(lines) == len({line["step"] for line in lines})
    return {line["step"]: line["train/loss"] for line in lines}


def test_all_stages_finish_and_their_outputs_are_in_the_bucket(finished: dict[str, Any], client: Any) -> None:
    assert list(finished["stages"]) == ["corpus", "student", "evaluate", "register", "report"]
    found = {key.partition("/")[2].partition("-")[0] + "/" + key.split("/", 3)[-1] for key in keys(client, "runs/toy/")}
    assert {f"toy/{stage}/stage.json" for stage in finished["stages"]} <= found
    assert {"toy/student/student/model.safetensors", "toy/student/initial/config.json"} <= found
    assert {"toy/corpus/train/manifest.json", "toy/report/report.html"} <= found
    assert any(key.startswith("runs/teacher_outputs/") for key in keys(client))
    assert any(key.startswith("runs/artifacts/") for key in keys(client))


def test_workers_have_fetched_what_they_read_into_their_own_folder(
    finished: dict[str, Any], client: Any, folder: Path
) -> None:
    bucket = folder / "second-worker" / "raydistill-s3" / BUCKET / "runs"
    # A checkpoint that lies on the driver's machine went to the bucket for them.
    [sent] = [key for key in keys(client, "runs/models/") if key.endswith("/model.safetensors")]
    files = {path.relative_to(bucket.parent).as_posix() for path in bucket.rglob("model.safetensors")}
    assert sent in files
    assert {key for key in keys(client, "runs/toy/student-") if key.endswith("initial/model.safetensors")} <= files


def test_no_more_checkpoints_are_kept_than_asked_for(finished: dict[str, Any], client: Any) -> None:
    names = {key.split("/")[4] for key in keys(client, "runs/toy/student-") if "/checkpoints/checkpoint_0" in key}
    assert names == {"checkpoint_000000035", "checkpoint_000000040"}


def test_a_machine_with_an_empty_disk_skips_all_that_is_finished(
    finished: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYDISTILL_CACHE", str(folder / "empty"))
    job = load_job(data_of(folder, "runs"))
    assert all(preview.finished for preview in check_job(job))
    lines: list[str] = []
    result = run_job(job, echo=lines.append)
    assert result.skipped == list(job.runs)
    assert lines[0].startswith(f"corpus: finished before, skipped (s3://{BUCKET}/runs/toy/corpus-")
    assert result.summaries["evaluate"] == finished["stages"]["evaluate"]["summary"]


def test_the_student_is_fetched_and_loads_with_plain_transformers(
    finished: dict[str, Any], client: Any, folder: Path
) -> None:
    student = storage_at(output("runs", "student", client) / "student").fetch()
    code = f"""
import sys
sys.modules["raydistill"] = None
from transformers import AutoModelForSequenceClassification
model = AutoModelForSequenceClassification.from_pretrained({str(student)!r})
print(model.config.num_hidden_layers, sorted(model.config.id2label.values()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["2 ['blue', 'green', 'red']"], done.stderr[-2000:]


def test_the_registered_student_comes_out_of_the_bucket(finished: dict[str, Any], folder: Path) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'runs'}.db")
    found = mlflow.transformers.load_model(finished["stages"]["register"]["summary"]["uri"], return_type="components")
    assert found["model"].config.num_hidden_layers == 2


def test_a_training_killed_on_one_machine_goes_on_from_the_bucket_on_another_with_the_same_losses(
    killed: list[str], finished: dict[str, Any], undisturbed: dict[int, float], client: Any
) -> None:
    assert not any("/student-" in key and key.endswith("/stage.json") for key in killed)
    assert [name for name, stage in finished["stages"].items() if stage["skipped"]] == ["corpus"]
    assert list(undisturbed) == list(range(1, 41))
    assert losses(output("runs", "student", client)) == undisturbed


def test_the_restarted_training_goes_on_with_its_run_in_mlflow(finished: dict[str, Any], folder: Path) -> None:
    tracking = mlflow.MlflowClient(f"sqlite:///{folder / 'runs'}.db")
    experiment = tracking.get_experiment_by_name("toy")
    assert experiment.artifact_location == f"s3://{BUCKET}/runs/artifacts"
    runs = tracking.search_runs([experiment.experiment_id])
    assert sorted(run.info.run_name for run in runs) == sorted(["toy", *finished["stages"]])
    [student] = [run.info.run_id for run in runs if run.info.run_name == "student"]
    steps = [one.step for one in tracking.get_metric_history(student, "train/loss")]
    # Step 1 comes from the machine that was killed: the other one did not repeat it.
    assert steps.count(1) == steps.count(40) == 1


def test_another_job_reads_the_corpus_and_the_student_of_this_one_by_their_uris(results: list[dict[str, Any]]) -> None:
    before, again = (one["stages"]["evaluate"]["summary"]["entries"] for one in results)
    assert [one["model"] for one in again] == ["student"]
    [student] = [one for one in before if one["model"] == "student"]
    assert again[0]["figures"] == student["figures"]
