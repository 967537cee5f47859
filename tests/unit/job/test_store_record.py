import pytest

from raydistill.cluster.submission import prepare
from raydistill.data.storages import storage_at
from raydistill.job.load import load_job
from raydistill.job.preflight import check_job
from raydistill.job.record import job_folder, stage_records
from raydistill.job.storage_faults import storage_problem
from raydistill.search.preflight import check_search
from raydistill.search.spaces import load_search
from raydistill.store_paths import remote_uri
from raydistill.tracking.store import store_of
from raydistill.user_error import UserError
from toys.store import BUCKET, empty, job_data, keys, s3_server, write_inputs, write_job

TRACKING = {"uri": "http://127.0.0.1:9"}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with s3_server(tmp_path_factory.mktemp("cache")) as found:
        yield found


@pytest.fixture
def client(server, tmp_path, monkeypatch):
    """An empty bucket, and an empty disk."""
    monkeypatch.setenv("RAYDISTILL_CACHE", str(tmp_path / "cache"))
    empty(server)
    return server


def job(inputs, storage=f"s3://{BUCKET}/runs", **sections):
    return load_job(job_data(inputs, storage, **{"tracking": TRACKING, **sections}))


def problems(found):
    with pytest.raises(UserError) as caught:
        check_job(found)
    return caught.value.lines


def test_a_finished_stage_is_known_to_a_machine_with_an_empty_disk(client, inputs, tmp_path, monkeypatch):
    record = stage_records(job(inputs))["evaluate"]
    record.output.mkdir(parents=True)
    (record.output / "comparison.md").write_text("table")
    assert not record.finished
    record.write({"entries": []}, seconds=1.0)
    monkeypatch.setenv("RAYDISTILL_CACHE", str(tmp_path / "empty"))
    again = stage_records(job(inputs))["evaluate"]
    assert again.output != record.output
    assert again.finished
    assert again.read()["summary"] == {"entries": []}
    assert storage_at(again.output / "comparison.md").fetch().read_text() == "table"


def test_a_record_is_sent_after_all_other_files_and_checkpoints_stay_here(client, inputs):
    record = stage_records(job(inputs))["student"]
    for name in ("student/config.json", "checkpoints/checkpoint_000000001/state.json"):
        (record.output / name).parent.mkdir(parents=True)
        (record.output / name).write_text("{}")
    record.write({}, seconds=1.0)
    assert [key.split("/", 3)[-1] for key in keys(client)] == ["stage.json", "student/config.json"]


def test_the_job_on_a_store_passes_the_preflight_and_tells_its_folder_as_a_uri(client, inputs):
    found = job(inputs)
    assert [preview.stage for preview in check_job(found)] == list(found.runs)
    assert remote_uri(job_folder(found)) == f"s3://{BUCKET}/runs/toy"


def test_a_store_without_a_tracking_uri_is_refused_in_one_line(client, inputs):
    [line] = problems(job(inputs, tracking={}))
    assert line.startswith("tracking.uri is missing (jobs do not read MLFLOW_TRACKING_URI), and storage is 's3://")
    assert "name a server or a database" in line


def test_a_bucket_that_is_not_there_is_refused_in_one_line(client, inputs):
    line = "storage is 's3://nowhere/runs', but there is no bucket 'nowhere'; make it, or name another"
    assert problems(job(inputs, "s3://nowhere/runs")) == [line]


def test_other_uris_are_refused(inputs):
    [line] = problems(job(inputs, "gs://bucket/runs"))
    assert "or s3://BUCKET/PATH" in line


def test_a_search_on_a_store_is_refused_in_one_line(client, inputs, tmp_path):
    path = write_job(tmp_path / "job.yaml", job_data(inputs, f"s3://{BUCKET}/runs", tracking=TRACKING))
    space = {
        "name": "space",
        "job": str(path),
        "stage": "student",
        "space": {"method.temperature": {"choice": [1, 2]}},
        "metric": "loss",
        "mode": "min",
        "budget": {"trials": 2},
    }
    search = load_search(str(write_job(tmp_path / "space.yaml", space)), [])
    with pytest.raises(UserError) as caught:
        check_search(search)
    expected = f"storage is 's3://{BUCKET}/runs', which tune does not take; name a folder, such as storage=runs"
    assert caught.value.lines == [expected]


def test_a_submission_to_a_store_needs_a_tracking_uri_and_shares_nothing_else(inputs, tmp_path):
    data = job(inputs).dump()
    shared = [str(inputs)]
    assert prepare(data, shared=shared).metadata["raydistill_storage"] == f"s3://{BUCKET}/runs"
    with pytest.raises(UserError, match=r"tracking\.uri is missing, and storage is 's3://.*name a server"):
        prepare({**data, "tracking": {"uri": None}}, shared=shared)


def test_artifacts_of_a_database_go_to_the_bucket(inputs):
    found = job(inputs, tracking={"uri": "postgresql://host/db"})
    store = store_of(found.config.tracking, job_folder(found).parent, found.name)
    assert store.artifact_location == f"s3://{BUCKET}/runs/artifacts"


def test_a_store_that_fails_in_mid_run_is_one_line(inputs):
    error = OSError("When uploading: AWS Error NETWORK_CONNECTION during PutObject operation: curlCode: 7")
    line = storage_problem(error, job_folder(job(inputs))) or ""
    assert line.startswith(f"storage s3://{BUCKET}/runs fails (nobody answers at ")
    assert line.endswith("then run the same command again; it continues")


def test_a_corpus_and_a_checkpoint_that_are_not_there_are_refused_by_uri(client, inputs):
    data = job_data(inputs, f"s3://{BUCKET}/runs", tracking=TRACKING)
    stage = data["stages"]["evaluate"]
    corpus, student = f"s3://{BUCKET}/other/corpus", f"s3://{BUCKET}/other/student"
    alone = {**stage, "corpus": corpus, "models": {"student": student}}
    [line] = problems(load_job({**data, "stages": {"evaluate": alone}}))
    assert f"corpus is '{corpus}', neither an earlier stage nor a folder of a binarize stage" in line
    stages = {"corpus": data["stages"]["corpus"], "evaluate": {**alone, "corpus": "corpus"}}
    [line] = problems(load_job({**data, "stages": stages}))
    assert f"checkpoint is '{student}', where no config.json lies; name a folder with one" in line
