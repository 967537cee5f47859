import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raydistill.data.storage import Folder
from raydistill.data.storages import storage_at
from raydistill.store_paths import here, local_path, remote_uri, shown
from toys.store import BUCKET, keys, s3_server


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with s3_server(tmp_path_factory.mktemp("cache")) as found:
        yield found


@pytest.fixture
def folder(client, request, monkeypatch, tmp_path):
    """A folder of the store for each test, in an empty cache."""
    monkeypatch.setenv("RAYDISTILL_CACHE", str(tmp_path))
    return local_path(f"s3://{BUCKET}/{request.node.name}")


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_a_uri_has_a_local_path_that_tells_it_under_every_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("RAYDISTILL_CACHE", str(tmp_path / "one"))
    path = local_path("s3://bucket/a/b/")
    assert path.is_relative_to(tmp_path / "one")
    assert remote_uri(path / "c") == shown(path / "c") == "s3://bucket/a/b/c"
    monkeypatch.setenv("RAYDISTILL_CACHE", str(tmp_path / "other"))
    assert remote_uri(path) == "s3://bucket/a/b"
    assert here(path) == local_path("s3://bucket/a/b") != path


def test_other_paths_stand_for_nothing_and_are_left_alone(tmp_path):
    assert local_path("runs/a") == here("runs/a") == storage_at("runs/a").fetch() == Path("runs/a")
    assert remote_uri(tmp_path) is None
    write(tmp_path, a="1")
    assert storage_at(tmp_path).publish() == 0


def test_published_files_are_fetched_on_another_machine(folder, monkeypatch, tmp_path):
    assert storage_at(write(folder, a="first", below__b="second")).publish() == 2
    monkeypatch.setenv("RAYDISTILL_CACHE", str(tmp_path / "other"))
    fetched = storage_at(folder).fetch()
    assert fetched.is_relative_to(tmp_path / "other")
    assert {path.name: path.read_text() for path in fetched.rglob("*") if path.is_file()} == {
        "a": "first",
        "b": "second",
    }


def test_nothing_is_sent_or_fetched_twice(folder, client, monkeypatch, tmp_path):
    storage_at(write(folder, a="first", below__b="second")).publish()
    before = {one["Key"]: one["LastModified"] for one in client.list_objects_v2(Bucket=BUCKET)["Contents"]}
    time.sleep(1.1)
    assert storage_at(folder).publish() == 0
    assert {one["Key"]: one["LastModified"] for one in client.list_objects_v2(Bucket=BUCKET)["Contents"]} == before
    monkeypatch.setenv("RAYDISTILL_CACHE", str(tmp_path / "other"))
    inode = (storage_at(folder).fetch() / "a").stat().st_ino
    assert storage_at(storage_at(folder).fetch()).publish() == 0
    assert (storage_at(folder).fetch() / "a").stat().st_ino == inode


def test_what_changed_is_sent_and_fetched_again_even_at_the_same_size(folder, monkeypatch, tmp_path):
    storage_at(write(folder, a="first", b="other")).publish()
    monkeypatch.setenv("RAYDISTILL_CACHE", str(tmp_path / "other"))
    storage_at(folder).fetch()
    monkeypatch.setenv("RAYDISTILL_CACHE", str(tmp_path))
    # The store tells whole seconds.
    time.sleep(1.1)
    assert storage_at(write(folder, a="FIRST")).publish() == 1
    monkeypatch.setenv("RAYDISTILL_CACHE", str(tmp_path / "other"))
    assert (storage_at(folder).fetch() / "a").read_text() == "FIRST"


def test_a_file_that_is_not_whole_is_fetched_again(folder):
    storage_at(write(folder, a="first")).publish()
    write(folder, a="fir")
    assert (storage_at(folder).fetch() / "a").read_text() == "first"


def test_hidden_and_left_out_names_stay_here(folder, client, request):
    write(folder, a="1", checkpoints__b="2")
    write(folder / ".part", c="3")
    storage_at(folder).publish(leave_out=["checkpoints"])
    assert keys(client, request.node.name) == [f"{request.node.name}/a"]


FETCH = """
import sys
from raydistill.data.storages import ObjectStorage, storage_at

download, fetched = ObjectStorage._download, []
ObjectStorage._download = lambda *arguments: (fetched.append(1), download(*arguments))
storage_at(sys.argv[1]).fetch()
print(len(fetched))
"""


def test_several_processes_of_a_machine_fetch_the_same_at_once(folder, tmp_path):
    folder.mkdir(parents=True)
    content = os.urandom(20_000_000)
    (folder / "large").write_bytes(content)
    storage_at(folder).publish()
    other = tmp_path / "other"
    environment = {**os.environ, "RAYDISTILL_CACHE": str(other)}
    command = [sys.executable, "-c", FETCH, str(folder)]
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) for _ in range(3)]
    # One fetches, and the others wait for it.
    assert sorted(int(process.communicate(timeout=120)[0]) for process in processes) == [0, 0, 1]
    [found] = other.rglob(f"*{folder.name}/*")
    assert found.read_bytes() == content


def test_a_folder_below_the_local_path_is_written_and_read_in_the_store(folder, client, request):
    Folder(folder).write_bytes("below/a", b"content")
    assert not folder.exists()
    assert keys(client, request.node.name) == [f"{request.node.name}/below/a"]
    assert Folder(f"s3://{BUCKET}/{request.node.name}").read_bytes("below/a") == b"content"
    assert [path.name for path in storage_at(folder).subfolders()] == ["below"]


def test_what_is_removed_is_gone_here_and_there(folder, client, request):
    storage_at(write(folder, a="1", below__b="2")).publish()
    storage_at(folder).remove()
    assert not folder.exists()
    assert not [key for key in keys(client, request.node.name + "/") if not key.endswith("/")]
