"""Why a Ray of this machine would not start, told before it is tried."""

import errno
import os
import shutil
import tempfile
from collections import namedtuple

import pytest

from raydistill import cluster
from raydistill.cluster import machine_problems, places
from raydistill.config.sections import ScalingConfig
from raydistill.user_error import UserError

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    for name in ("RAY_ADDRESS", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp")
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def refused(monkeypatch):
    """Makes a folder, and what lies below it, one that takes no files, for a reason of the system."""
    make = tempfile.TemporaryFile

    def refuse(folder, number):
        def temporary_file(*, dir):
            if os.fspath(dir).startswith(os.fspath(folder)):
                raise OSError(number, os.strerror(number), os.fspath(dir))
            return make(dir=dir)

        monkeypatch.setattr(tempfile, "TemporaryFile", temporary_file)

    return refuse


def test_a_usable_machine_has_no_problem():
    assert machine_problems() == []


def test_a_folder_too_long_for_sockets_is_told_with_the_bytes_that_it_is_too_long(monkeypatch):
    pid, room = os.getpid(), 107 - len("/ray/session_2026-01-01_00-00-00_000000_/sockets/plasma_store")
    monkeypatch.setenv("TMPDIR", "/" + "t" * (room - len(str(pid)) + 2))
    [line] = machine_problems()
    assert line.startswith(f"the folder for temporary files, {os.environ['TMPDIR']}, is 3 bytes too long for the names")
    assert "set RAY_TMPDIR to a short path" in line
    monkeypatch.setenv("TMPDIR", "/" + "t" * (room - len(str(pid)) - 1))
    assert machine_problems() == []
    monkeypatch.setenv("TMPDIR", "/" + "t" * 100)
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    assert machine_problems() == []


def test_ray_agrees_on_the_longest_folder():
    from ray._private.utils import validate_socket_filepath

    longest = "/" + "s" * (places._LONGEST_SOCKET - 1)
    validate_socket_filepath(longest)
    with pytest.raises(OSError, match="cannot exceed 107 bytes"):
        validate_socket_filepath(f"{longest}s")


def test_a_full_folder_is_told_as_full(monkeypatch, refused):
    refused("/tmp", errno.ENOSPC)
    [line] = machine_problems()
    assert line.startswith("the folder for temporary files, /tmp, is full (No space left on device); make room, or set")


def test_a_folder_with_little_room_is_told_with_its_room(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(2**40, 2**40, 5 * 2**20))
    [line] = machine_problems()
    assert "/tmp, has 5 MiB free, and Ray needs 256; make room, or set RAY_TMPDIR" in line


def test_the_folder_of_another_user_is_told_with_its_owner(monkeypatch, refused, tmp_path):
    (tmp_path / "ray").mkdir()
    monkeypatch.setattr(places, "_SOCKET", "ray/{pid}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    refused(tmp_path / "ray", errno.EACCES)
    [line] = machine_problems()
    owner = (tmp_path / "ray").owner()
    assert f"cannot be used: {tmp_path}/ray (of {owner}) cannot be written (Permission denied); set RAY_TMPDIR" in line


def test_a_file_where_the_folder_should_be_is_told(monkeypatch, tmp_path):
    (tmp_path / "ray").touch()
    monkeypatch.setattr(places, "_SOCKET", "ray/{pid}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    [line] = machine_problems()
    assert f"{tmp_path}/ray" in line
    assert "(Not a directory)" in line


def test_a_home_that_nobody_may_write_to_is_told(monkeypatch):
    monkeypatch.setenv("HOME", "/proc/nobody")
    [line] = machine_problems()
    assert line.startswith(
        "the home folder /proc/nobody cannot be written (No such file or directory), where libraries"
    )


def test_a_cluster_elsewhere_needs_none_of_it(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setenv("TMPDIR", "/" + "t" * 100)
    assert machine_problems() == []


def test_ray_is_not_started_where_it_could_not(monkeypatch):
    monkeypatch.setenv("HOME", "/proc/nobody")
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("it was started"))
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(UserError, match="the home folder /proc/nobody"), cluster.connection([ScalingConfig()]):
        pass
