"""Every job that comes with the package is valid as it is."""

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from transformers import BertConfig, GPT2Config, PreTrainedTokenizerFast

from raydistill import cluster
from raydistill.config import overrides
from raydistill.job import files, record
from raydistill.job.load import JobConfig, accepts, load_job
from raydistill.job.preflight import check_job
from raydistill.models.blocks import family_of
from raydistill.models.load import model_class
from raydistill.stages import _models

HUB = {"google-bert/bert-base-uncased": BertConfig, "openai-community/gpt2": GPT2Config}
"""Checkpoints of the hub that jobs name; the defaults of these classes are their sizes."""

_OF_REGISTRY = {"models:/causal-bert-student@candidate": "google-bert/bert-base-uncased"}
"""Registered models that jobs name, and the checkpoint whose sizes theirs have."""

_OWN_MODELS = {"models/chinese-bert-wwm-ext": BertConfig(vocab_size=21128)}
_OWN_FILES = {f"data/cnews/cnews.{part}.csv": "label\tsentence\n体育\t一 句\n" for part in ("train", "val", "test")}
"""What users of a job have beside it."""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    """Folders with the configuration, a tokenizer of as many ids and the names of the head's weights."""
    folders = {}
    for name, config_type in HUB.items():
        folders[name] = tmp_path_factory.mktemp("hub")
        _save(config_type(), folders[name])
    return folders


def _save(config, folder: Path) -> None:
    config.save_pretrained(folder)
    family = family_of(config)
    with torch.device("meta"):
        shapes = model_class(family.HEAD).from_config(config).state_dict()
    names = family.head_tensors(config, family.HEAD)
    save_file({name: torch.zeros(shapes[name].shape) for name in names}, folder / "model.safetensors")
    _tokenizer(config.vocab_size).save_pretrained(folder)


@pytest.fixture(scope="module")
def own_files(tmp_path_factory) -> Path:
    """A folder with the files that users of a job have."""
    folder = tmp_path_factory.mktemp("own")
    for name, config in _OWN_MODELS.items():
        _save(config, folder / name)
    for name, text in _OWN_FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def hub_and_gpus(checkpoints, own_files, monkeypatch) -> None:
    """Stands in for the hub, for a registry, for users' own files and for a machine with 4 GPUs."""

    def from_hub(name: str, revision: str | None) -> Path:
        assert re.fullmatch("[0-9a-f]{40}", revision or ""), f"{name} is not pinned to a revision"
        return checkpoints[name]

    monkeypatch.setattr(_models, "_from_hub", from_hub)
    monkeypatch.setattr(record, "checkpoint_folder", lambda reference, *_, **__: checkpoints[_OF_REGISTRY[reference]])
    monkeypatch.setattr(cluster.resources, "_available_resources", lambda: {"GPU": 4})
    monkeypatch.chdir(own_files)


def _tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    roles = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token", "eos_token")
    words = [*roles, *(f"w{number}" for number in range(len(roles), vocab_size))]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token=roles[1]))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{role: role for role in roles})


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


@pytest.mark.parametrize("name", files.names(files.JOBS))
def test_a_shipped_job_passes_its_preflight_and_says_what_it_is(name: str, tmp_path: Path, hub_and_gpus: None) -> None:
    _check(name, tmp_path)
    assert len(files.description(files.JOBS, name)) > 20


@pytest.mark.parametrize(
    ("name", "changes"), [pytest.param(*each, id=" ".join([each[0], *each[1]])) for each in _commands()]
)
def test_a_command_in_the_comments_of_a_shipped_job_passes_its_preflight(
    name: str, changes: tuple[str, ...], tmp_path: Path, hub_and_gpus: None
) -> None:
    _check(name, tmp_path, changes)
