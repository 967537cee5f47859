import errno
import os
from pathlib import Path

import pytest
from ray.exceptions import RayTaskError
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from raydistill.job.storage_faults import storage_problem


def fault(number: int, path: Path | None = None) -> OSError:
    return OSError(number, os.strerror(number), *([str(path)] if path else []))


def of_task(error: Exception) -> Exception:
    """What ``ray.get`` raises for a task that raised this."""
    return RayTaskError("f", "the traceback", error).as_instanceof_cause()


def raised(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.fixture
def job(tmp_path):
    folder = tmp_path / "runs" / "job"
    folder.mkdir(parents=True)
    return folder


WAYS = {
    "itself": lambda error: error,
    "a cause": lambda error: raised(RuntimeError("a stage failed"), error),
    "a task": of_task,
    "a cause in a task": lambda error: of_task(raised(RuntimeError("writing failed"), error)),
    "a worker": lambda error: WorkerGroupError("worker 1 failed", {1: error}),
    "a task of a worker": lambda error: WorkerGroupError("worker 1 failed", {0: of_task(error)}),
    "the controller": lambda error: ControllerError(of_task(error)),
    "one of several runs": lambda error: ExceptionGroup("2 runs failed", [ValueError("a"), of_task(error)]),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_full_disk_is_found_in_whatever_was_raised(job, way):
    line = storage_problem(WAYS[way](fault(errno.ENOSPC, job / "stage.json")), job)
    assert line == (
        f"storage {job.parent} is full (No space left on device): make room, "
        "then run the same command again; it continues"
    )


@pytest.mark.parametrize(
    "text",
    ["I/O error: No space left on device (os error 28)", "(sqlite3.OperationalError) database or disk is full"],
)
def test_a_full_disk_is_known_by_the_words_of_libraries_with_errors_of_their_own(job, text):
    assert "is full" in storage_problem(raised(RuntimeError("saving failed"), RuntimeError(text)), job)


def test_another_disk_that_is_full_is_named(job):
    assert storage_problem(fault(errno.ENOSPC, Path("/tmp/ray/session/log")), job).startswith(
        "the disk of /tmp/ray/session is full"
    )


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_storage_that_nobody_may_write_to_is_told(job, number):
    line = storage_problem(fault(number, job / "stage.json"), job)
    assert line.startswith(f"storage {job.parent} cannot be written ({os.strerror(number)})")
    assert storage_problem(fault(number, Path("/etc/passwd")), job) is None


def test_storage_that_vanished_is_told(job):
    missing = fault(errno.ENOENT, job / "corpus" / "manifest.json")
    assert storage_problem(missing, job) is None
    job.rmdir()
    assert storage_problem(missing, job).startswith(
        f"storage {job.parent} no longer exists (No such file or directory)"
    )
    assert storage_problem(fault(errno.ENOENT, Path("/nowhere/model")), job) is None


def test_storage_that_stopped_answering_is_told(job):
    assert "no longer exists (Stale file handle)" in storage_problem(fault(errno.ESTALE, job / "stage.json"), job)


def test_a_name_that_no_file_can_have_is_told_by_its_beginning(job):
    line = storage_problem(
        raised(RuntimeError("a stage failed"), fault(errno.ENAMETOOLONG, Path("/cache/" + "n" * 300))), job
    )
    assert line == f"a name is too long for a file system: {'n' * 60}...; shorten it"


def test_other_errors_are_not_the_storages(job):
    assert storage_problem(RuntimeError("worker 1 died"), job) is None
    assert storage_problem(of_task(ConnectionRefusedError(111, "Connection refused")), job) is None
    assert storage_problem(FileNotFoundError("no file"), None) is None


def test_arrows_errors_are_found_without_a_file_name(job):
    write = OSError(errno.ENOSPC, "Error writing bytes to file. Detail: [errno 28] No space left on device")
    assert f"storage {job.parent} is full (No space left on device)" in storage_problem(of_task(write), job)
    for part, found in ((job / "corpus", True), (Path("/etc"), False)):
        refused = PermissionError(errno.EACCES, f"Failed to open local file '{part}/0.parquet'")
        assert (storage_problem(of_task(refused), job) is not None) is found
