"""Models of a registry as checkpoints of a job; no cluster is needed."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from raydistill.config.sections import ModelRef
from raydistill.data.corpus import Corpus
from raydistill.job import record
from raydistill.job.load import Job, load_job
from raydistill.job.preflight import check_job
from raydistill.job.record import stage_records
from raydistill.models.load import load_tokenizer
from raydistill.registry import checkpoints
from raydistill.registry.checkpoints import checkpoint_folder
from raydistill.stages import _models
from raydistill.stages._base import Input
from raydistill.store_paths import cache_folder
from raydistill.tracking.writer import MlflowWriter, Store
from raydistill.user_error import UserError
from toys.checkpoint import save_student
from toys.corpus import random_rows, write_corpus

KEY = "job/register"


def make_storage(root: Path, runs_file: Path, seeds: Sequence[int]) -> Path:
    """A job's storage whose registry has a version of ``student`` for each seed; ``candidate`` is the last."""
    store = Store(f"sqlite:///{root / 'mlflow.db'}", (root / "artifacts").as_uri(), "experiment")
    writer = MlflowWriter(store, runs_file)
    start = {"op": "start_run", "key": KEY, "time": 1, "name": KEY, "parent": None, "tags": {}}
    writer.deliver({**start, "resume": False, "token": KEY})
    for seed in seeds:
        folder = save_student(root / f"seed{seed}", seed=seed)
        register = {"op": "register_model", "key": KEY, "time": 5, "folder": str(folder), "name": "student"}
        writer.deliver({**register, "alias": "candidate", "tags": {}, "metrics": {}, "task": None})
    return root


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job's storage with two versions of ``student``."""
    return make_storage(tmp_path_factory.mktemp("storage"), tmp_path_factory.mktemp("spool") / "runs.json", (1, 2))


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One for the module: each question to the registry imports MLflow in a process of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYDISTILL_CACHE", str(tmp_path_factory.mktemp("cache")))
        checkpoints._downloaded.cache_clear()
        yield
        checkpoints._downloaded.cache_clear()


def fetched(storage: Path, reference: str) -> Path:
    """The folder that a stage finds for a reference to the registry of a storage folder."""
    folder = checkpoint_folder(reference, cache_folder(), registry=f"sqlite:///{storage / 'mlflow.db'}")
    return _models.resolve(ModelRef(checkpoint=reference), {reference: Input(folder=folder)})


@pytest.mark.parametrize(("reference", "seed"), [("models:/student@candidate", 2), ("models:/student/1", 1)])
def test_an_alias_or_a_version_leads_to_its_weights_and_tokenizer(storage: Path, reference: str, seed: int) -> None:
    folder = fetched(storage, reference)
    again = fetched(storage, reference)
    found, expected = load_file(folder / "model.safetensors"), load_file(storage / f"seed{seed}" / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert load_tokenizer(folder)("w7 w9", add_special_tokens=False)["input_ids"] == [7, 9]
    assert again == folder


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("models:/nobody@candidate", "which is not readable from the registry at sqlite:.*nobody"),
        ("models:/student", "write models:/NAME@ALIAS or models:/NAME/VERSION"),
    ],
)
def test_what_the_registry_does_not_have_is_refused_in_one_line(storage: Path, reference: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        fetched(storage, reference)
    assert str(refusal.value).startswith(f"checkpoint is {reference!r}")
    assert "\n" not in str(refusal.value)


def test_no_registry_is_made_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is none yet; register the model first"):
        fetched(tmp_path, "models:/student@candidate")
    assert not (tmp_path / "mlflow.db").exists()


def evaluation(storage: Path, corpus: Corpus, reference: str) -> Job:
    stage = {"kind": "evaluate", "corpus": str(Path(corpus.uri).parent), "models": {"student": reference}}
    return load_job({"name": "job", "storage": str(storage), "stages": {"evaluate": stage}})


def test_a_job_checks_and_identifies_what_an_alias_stands_for(storage: Path, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus" / "train", random_rows(30))
    corpus = write_corpus(tmp_path / "corpus" / "validation", random_rows(30))
    jobs = [evaluation(storage, corpus, f"models:/student{which}") for which in ("@candidate", "/1")]
    hashes = [stage_records(job)["evaluate"].hash for job in jobs]
    assert hashes[0] != hashes[1]
    # The toy corpus is of another tokenizer than the registered student, which only its files tell.
    with pytest.raises(UserError, match=r"models\.student has a different tokenizer from the corpus"):
        check_job(jobs[0])
    with pytest.raises(UserError, match=r"models:/nobody@candidate', which is not readable"):
        check_job(evaluation(storage, corpus, "models:/nobody@candidate"))


def test_an_alias_that_moved_makes_another_stage(
    storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpus(tmp_path / "corpus" / "train", random_rows(30))
    corpus = write_corpus(tmp_path / "corpus" / "validation", random_rows(30))
    found = []
    for version in (1, 2):
        monkeypatch.setattr(record, "checkpoint_folder", lambda *_, at=version, **__: Path(f"version{at}"))
        found.append(stage_records(evaluation(storage, corpus, "models:/student@candidate"))["evaluate"].hash)
    assert found[0] != found[1]


@pytest.mark.slow
def test_the_shells_own_registry_and_store_are_not_those_of_a_job(
    storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_storage(tmp_path, tmp_path / "runs.json", (3,))
    for name in ("MLFLOW_REGISTRY_URI", "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, f"sqlite:///{other / 'mlflow.db'}")
    monkeypatch.setenv("RAYDISTILL_CACHE", str(tmp_path / "cache"))
    found = load_file(fetched(storage, "models:/student@candidate") / "model.safetensors")
    expected = load_file(storage / "seed2" / "model.safetensors")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
