"""Locks between processes and threads."""

import socket
import threading
from pathlib import Path

import pytest

from raydistill.locks import HeldError, hold, locked
from toys.holder import held_elsewhere


def test_a_lock_of_another_process_is_refused_and_tells_its_holder(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path / "lock") as process, pytest.raises(HeldError) as refused:
        hold(tmp_path / "lock")
    assert refused.value.holder.startswith(f"process {process.pid} on host {socket.gethostname()} since ")


def test_a_killed_holder_frees_its_lock(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path / "lock") as process:
        process.kill()
        process.wait()
        hold(tmp_path / "lock").release()


def test_a_lock_can_be_had_again_and_again(tmp_path: Path) -> None:
    for _ in range(3):
        with locked(tmp_path / "new" / "lock"), pytest.raises(HeldError):
            hold(tmp_path / "new" / "lock")


def test_a_lock_that_is_not_had_in_time_is_refused(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path / "lock"), pytest.raises(HeldError), locked(tmp_path / "lock", timeout_s=0.3):
        pass


def test_who_waits_says_so_once_and_goes_on_when_the_holder_ends(tmp_path: Path) -> None:
    told, had = threading.Event(), threading.Event()
    calls = []

    def tell() -> None:
        calls.append(1)
        told.set()

    def wait() -> None:
        with locked(tmp_path / "lock", waiting=tell):
            had.set()

    with held_elsewhere(tmp_path / "lock"):
        waiter = threading.Thread(target=wait, daemon=True)
        waiter.start()
        assert told.wait(20)
        assert not had.wait(0.5)
    assert had.wait(20)
    waiter.join(20)
    assert calls == [1]


def test_another_thread_may_give_a_lock_back(tmp_path: Path) -> None:
    lock = hold(tmp_path / "lock")
    thread = threading.Thread(target=lock.release)
    thread.start()
    thread.join()
    hold(tmp_path / "lock").release()


def test_a_holder_is_not_named_where_its_note_could_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "lock-holder").mkdir()
    with locked(tmp_path / "lock"), pytest.raises(HeldError, match="locked by another process"):
        hold(tmp_path / "lock")
