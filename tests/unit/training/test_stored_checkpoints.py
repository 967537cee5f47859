import pytest

from raydistill.data.storage import Folder
from raydistill.store_paths import local_path
from raydistill.training.checkpoint_store import REGISTER, checkpoint_path, checkpoints_at, step_of
from toys.store import BUCKET, empty, keys, s3_server


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with s3_server(tmp_path_factory.mktemp("cache")) as found:
        yield found


@pytest.fixture
def client(server, tmp_path, monkeypatch):
    """An empty bucket, and an empty disk."""
    monkeypatch.setenv("RAYDISTILL_CACHE", str(tmp_path))
    empty(server)
    return server


@pytest.fixture
def run(client):
    """A run with whole checkpoints of steps 5 and 10."""
    folder = local_path(f"s3://{BUCKET}/run/checkpoints")
    for step in (5, 10):
        write(folder, step)
    return folder


def write(folder, step, *, seal=True):
    checkpoints, target = checkpoints_at(folder), checkpoint_path(folder, step)
    checkpoints.begin(target)
    own = checkpoints.folder_for(target)
    (own / "tensors").write_bytes(bytes(step))
    files = checkpoints.take(target, own, ["tensors"])
    checkpoints.leave(own)
    if seal:
        checkpoints.finish(target, files)


def test_what_was_sent_without_a_manifest_is_no_checkpoint_and_goes_before_a_start(run, client):
    write(run, 15, seal=False)
    Folder(run).write_bytes(REGISTER, b"{}")
    assert [step_of(path) for path in checkpoints_at(run).finished()] == [5, 10]
    checkpoints_at(run).prepare()
    names = [key.removeprefix("run/checkpoints/") for key in keys(client, "run/") if not key.endswith("/")]
    assert names == [f"checkpoint_{step:09d}/{name}" for step in (5, 10) for name in ("manifest.json", "tensors")]


def test_nothing_of_a_checkpoint_stays_here(run):
    assert not [path for path in run.rglob("*") if path.is_file()]


def test_a_latest_checkpoint_that_lacks_a_file_is_refused_with_the_one_before(run, client):
    client.delete_object(Bucket=BUCKET, Key="run/checkpoints/checkpoint_000000010/tensors")
    place = f"s3://{BUCKET}/run/checkpoints/checkpoint_000000010"
    with pytest.raises(
        ValueError,
        match=rf"^checkpoint {place}: tensors is missing; remove {place} to continue from \w+_000000005 \(step 5\)$",
    ):
        checkpoints_at(run).prepare()


def test_a_latest_checkpoint_of_another_size_is_refused(run, client):
    client.put_object(Bucket=BUCKET, Key="run/checkpoints/checkpoint_000000010/tensors", Body=b"123")
    with pytest.raises(ValueError, match=r"tensors has size 3 where manifest\.json says 10; remove s3://"):
        checkpoints_at(run).prepare()
