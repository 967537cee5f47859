"""Every job that comes with the package is valid as it is."""

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from raydistill.config import overrides
from raydistill.job import files
from raydistill.job.load import JobConfig, accepts, load_job
from raydistill.job.preflight import check_job
from toys.shipped import save_hub, save_own_files, standing_in


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    return save_hub(tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="module")
def own_files(tmp_path_factory) -> Path:
    return save_own_files(tmp_path_factory.mktemp("own"))


@pytest.fixture
def hub_and_gpus(checkpoints, own_files, monkeypatch) -> Iterator[None]:
    """Stands in for the hub, for a registry, for users' own files and for a machine with 4 GPUs."""
    monkeypatch.chdir(own_files)
    with standing_in(checkpoints):
        yield


def _check(name: str, storage: Path, changes: Sequence[str] = ()) -> None:
    raw = {**files.read_job(name), "storage": str(storage)}
    values = overrides.parse(changes)
    job = load_job(overrides.apply(raw, values, top_level=JobConfig.model_fields, accepts=accepts(raw)))
    assert [preview.stage for preview in check_job(job)] == list(job.runs)


def _commands() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Name and overrides of each ``raydistill run`` in the comments of a shipped job, long lines joined."""
    for name in files.names(files.JOBS):
        comments = re.sub(r"\\\n# +", "", files.shipped_text(files.JOBS, name))
        for line in re.findall(r"^# +(raydistill run .*)$", comments, flags=re.MULTILINE):
            _, _, job, *changes = shlex.split(line)
            yield job, tuple(changes)


def _marks(name: str) -> tuple[pytest.MarkDecorator, ...]:
    """Studies have some hundred runs each, whose preflight takes seconds; one of them stands for all."""
    return (pytest.mark.slow,) if name.startswith("studies/") and name != "studies/sentiment" else ()


@pytest.mark.parametrize("name", [pytest.param(name, marks=_marks(name)) for name in files.names(files.JOBS)])
def test_a_shipped_job_passes_its_preflight_and_says_what_it_is(name: str, tmp_path: Path, hub_and_gpus: None) -> None:
    _check(name, tmp_path)
    assert len(files.description(files.JOBS, name)) > 20


@pytest.mark.parametrize(
    ("name", "changes"),
    [pytest.param(*each, id=" ".join([each[0], *each[1]]), marks=_marks(each[0])) for each in _commands()],
)
def test_a_command_in_the_comments_of_a_shipped_job_passes_its_preflight(
    name: str, changes: tuple[str, ...], tmp_path: Path, hub_and_gpus: None
) -> None:
    _check(name, tmp_path, changes)
