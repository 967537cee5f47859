"""A training on two hosts, of which one ends in the middle, and the machine that handed it in is cut off."""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster.hosts import Ray, hosts_here
from cluster.two_hosts_job import CPUS_PER_HOST, ENDED, HOLD_STEP
from integration.training.recovery_job import NUM_STEPS, Recorder
from raydistill.data.stream import FeedSpec
from toys.training import make_spec, write_inputs

TESTS = Path(__file__).parents[1]
FIRST, SECOND, LAPTOP = "first", "second", "laptop"
NUM_ROWS = 90
LAST_HEARD = f"step {HOLD_STEP - 1}/{NUM_STEPS}"
pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder with a short path for the time of a test."""
    folder = Path(tempfile.mkdtemp(prefix="two-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def cluster_of_two(shared: Path) -> Iterator[Ray]:
    """Two hosts with Ray and a third one without, which see the inputs of a training in the folder ``shared``."""
    # Sockets lie in it, whose paths may not be long; the hosts go first, since processes write files until they end.
    with short_folder() as folder, hosts_here(FIRST, SECOND, LAPTOP) as hosts:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "GLOO_"))}
        ray = Ray(
            hosts,
            folder / "ray",
            {
                **environment,
                "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
                "OMP_NUM_THREADS": "1",
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN": secrets.token_hex(32),
                "RAY_USAGE_STATS_ENABLED": "0",
                "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "180",
                # How long a group of workers waits for a host of which Ray has not heard yet that it ended.
                "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",
            },
        )
        write_inputs(shared)
        ray.start_head(FIRST, num_cpus=CPUS_PER_HOST)
        ray.start_node(SECOND, num_cpus=CPUS_PER_HOST)
        yield ray


def hand_in(ray: Ray, shared: Path, name: str) -> tuple["subprocess.Popen[bytes]", Path]:
    """Submit a driver from the third host, which goes on listening to it; returns the client and what it hears."""
    log = ray.folder.with_name("heard.log")
    submit = ["-m", "ray.scripts.scripts", "job", "submit", "--address", f"http://{ray.head}:{ray.DASHBOARD}", "--"]
    driver = ["-m", "cluster.two_hosts_job", str(shared), name]
    with log.open("wb") as heard:
        client = subprocess.Popen(
            ray.hosts.command(LAPTOP, sys.executable, *submit, sys.executable, *driver),
            env={**ray.environment, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=heard,
            stderr=subprocess.STDOUT,
        )
    return client, log


def driver_log(ray: Ray) -> str:
    """What drivers said, from where their cluster keeps it."""
    return "\n".join(path.read_text() for path in ray.folder.glob("session_2*/logs/job-driver-*.log"))


def wait_for(ray: Ray, condition: Callable[[], bool], *, seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        said = driver_log(ray)
        if time.monotonic() > end or "Traceback" in said:
            client = ray.folder.with_name("heard.log").read_text()
            pytest.fail(f"no {what} within {seconds:.0f} seconds; {said[-3000:]} {client[-1000:]}")
        time.sleep(0.2)


def has_ended(ray: Ray) -> bool:
    return ENDED in driver_log(ray)


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A training on two hosts that loses one, and whose client is cut off; and the same training on one host."""
    shared = tmp_path_factory.mktemp("disturbed")
    with cluster_of_two(shared) as ray:
        two = shared / "two"
        client, heard = hand_in(ray, shared, "two")
        wait_for(ray, (two / "met-hold").exists, seconds=300, what="step to hold in")
        wait_for(ray, lambda: LAST_HEARD in heard.read_text(), seconds=30, what="progress on the third host")
        ray.hosts.cut(LAPTOP)
        ray.hosts.end(SECOND)
        (two / "go").touch()
        wait_for(ray, lambda: has_ended(ray), seconds=300, what="end of the training")
        found = {
            "losses": Recorder(shared / "one").losses(),
            "rows": planned_rows(shared),
            "two": Recorder(two),
            "addresses": ray.hosts.addresses,
            "heard": heard.read_text(),
            "driver": driver_log(ray),
        }
    client.wait(timeout=30)
    return found


def planned_rows(inputs: Path) -> dict[int, list[int]]:
    """The rows of each step, from 1, as the plan has them for any number of workers."""
    spec = make_spec(inputs)
    batch_size = spec.training.batch_size
    plan = FeedSpec.make(spec.corpus, spec.task, spec.method, seed=spec.seed, batch_size=batch_size).plan()
    return {step + 1: sorted(plan.rows(step).tolist()) for step in range(NUM_STEPS)}


def places(recorder: Recorder) -> list[dict[str, Any]]:
    """Where workers were, in the order in which their groups started."""
    notes = [line for path in recorder.folder.glob("hosts-*.jsonl") for line in recorder.lines(path.stem)]
    return sorted(notes, key=lambda note: (-note["num_workers"], note["host"]))


def test_workers_on_two_hosts_talk_over_the_interface_of_their_address(disturbed: dict[str, Any]) -> None:
    first, second, left = places(disturbed["two"])
    addresses = disturbed["addresses"]
    assert [first["host"], second["host"]] == [addresses[FIRST], addresses[SECOND]]
    assert [first["interface"], second["interface"]] == ["eth0", "eth0"]
    assert (left["host"], left["num_workers"], left["interface"]) == (addresses[FIRST], 1, None)


def test_each_of_two_hosts_holds_half_of_a_sharded_teacher(disturbed: dict[str, Any]) -> None:
    first, second, left = places(disturbed["two"])
    assert first["teacher"] == second["teacher"] == pytest.approx(left["teacher"] / 2, rel=0.01)


def test_a_training_that_loses_a_host_goes_on_from_its_checkpoint_with_what_is_left(disturbed: dict[str, Any]) -> None:
    steps = [line["step"] for line in disturbed["two"].lines("losses")]
    # Whether the held step was still logged depends on which host had the first worker.
    before, after = list(range(1, HOLD_STEP)), list(range(HOLD_STEP, NUM_STEPS + 1))
    assert steps in (before + after, [*before, HOLD_STEP, *after])
    assert disturbed["two"].num_groups() == 2


def test_losses_on_two_hosts_and_on_what_is_left_are_those_of_one_host(disturbed: dict[str, Any]) -> None:
    assert list(disturbed["losses"]) == list(range(1, NUM_STEPS + 1))
    assert disturbed["two"].losses() == pytest.approx(disturbed["losses"], rel=1e-5)


def test_no_row_is_lost_or_taken_twice_when_a_host_ends(disturbed: dict[str, Any]) -> None:
    rows = disturbed["two"].rows()
    assert sorted(row for step in rows.values() for row in step) == list(range(NUM_ROWS))
    assert rows == disturbed["rows"]


def test_the_job_goes_on_when_the_machine_that_handed_it_in_is_cut_off(disturbed: dict[str, Any]) -> None:
    assert LAST_HEARD in disturbed["heard"]
    for later in (f"step {NUM_STEPS}/{NUM_STEPS}", ENDED):
        assert later not in disturbed["heard"]
        assert later in disturbed["driver"]


def test_the_driver_tells_which_worker_it_lost_and_how_it_goes_on(disturbed: dict[str, Any]) -> None:
    assert (
        "a restart goes on from the latest checkpoint with as many workers as there is room for"
        in (disturbed["driver"])
    )


@pytest.mark.long
def test_a_training_that_waits_goes_on_with_two_hosts_once_another_has_joined(tmp_path: Path) -> None:
    with cluster_of_two(tmp_path) as ray:
        folder = tmp_path / "waiting"
        client, _ = hand_in(ray, tmp_path, "waiting")
        wait_for(ray, (folder / "met-hold").exists, seconds=300, what="step to hold in")
        ray.hosts.end(SECOND)
        (folder / "go").touch()
        wait_for(ray, lambda: "once there is room" in driver_log(ray), seconds=60, what="note of a loss")
        # Longer than a group that is content with less takes to start.
        time.sleep(60)
        waiting = Recorder(folder)
        assert waiting.num_groups() == 1
        ray.start_node(SECOND, num_cpus=CPUS_PER_HOST)
        wait_for(ray, lambda: has_ended(ray), seconds=300, what="end of the training")
    client.wait(timeout=30)
    assert [note["num_workers"] for note in places(waiting)] == [2, 2, 2, 2]
    assert waiting.losses() == pytest.approx(Recorder(tmp_path / "one").losses(), rel=1e-5)
    assert waiting.rows() == planned_rows(tmp_path)
