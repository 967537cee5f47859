"""Each bad input is refused before anything runs, in one line that names key, value and remedy."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel

from raydistill.data.corpus import tokenizer_hash
from raydistill.job.load import load_job
from raydistill.job.preflight import check_job
from raydistill.job.record import stage_records
from raydistill.models.load import save_model
from raydistill.user_error import UserError
from toys.checkpoint import toy_tokenizer
from toys.corpus import random_rows, write_corpus
from toys.models import toy_bert, toy_distilbert

MAPPING = {"interchange_variable_mappings": [{"teacher_variable_names": ["$L:1"], "student_variable_names": ["$L:0"]}]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Toy checkpoints and a toy corpus."""
    root = tmp_path_factory.mktemp("inputs")
    save_model(toy_bert(4, dtype=torch.float32), toy_tokenizer(), root / "teacher")
    save_model(toy_distilbert(2, dtype=torch.float32), toy_tokenizer(), root / "student")
    config = toy_bert(2).config.to_dict()
    headless = BertModel(BertConfig(**config), add_pooling_layer=False)
    save_model(headless, toy_tokenizer(), root / "headless")
    short = BertConfig(**{**config, "max_position_embeddings": 16})
    save_model(type(toy_bert(2))(short), toy_tokenizer(), root / "short")
    small = BertConfig(**{**config, "vocab_size": 30})
    save_model(type(toy_bert(2))(small), toy_tokenizer(), root / "small")
    narrow = BertConfig(**{**config, "hidden_size": 8, "num_attention_heads": 1})
    save_model(type(toy_bert(2))(narrow), toy_tokenizer(), root / "narrow")
    digest = tokenizer_hash(toy_tokenizer())
    write_corpus(root / "corpus" / "train", random_rows(60), tokenizer_hash=digest)
    write_corpus(root / "corpus" / "validation", random_rows(20, seed=1), tokenizer_hash=digest)
    write_corpus(root / "other" / "train", random_rows(60))
    return root


def job(folder: Path, **changes: Any) -> dict[str, Any]:
    """A distillation of the toy teacher, with keys of its stage replaced."""
    stage = {
        "kind": "train",
        "corpus": str(folder / "corpus"),
        "method": {"name": "causal", "mapping": MAPPING},
        "teachers": [str(folder / "teacher")],
        "student": {"init": "layers", "layers": [0, 2]},
        "training": {"batch_size": 8, "micro_batch_size": 4},
        **changes,
    }
    return {"name": "toy", "storage": str(folder / "runs"), "stages": {"distill": stage}}


def problems(raw: dict[str, Any]) -> list[str]:
    with pytest.raises(UserError) as caught:
        check_job(load_job(raw))
    assert all("\n" not in line for line in caught.value.lines)
    return caught.value.lines


def test_a_job_that_fits_is_forecast(folder: Path) -> None:
    [preview] = check_job(load_job(job(folder)))
    text = "\n".join(preview.lines)
    assert "student distilbert" in text
    assert "teacher 0 bert" in text
    assert "60 rows" in text
    assert "24 steps of 8 rows" in text
    assert "max_steps" not in text


def test_a_plan_says_where_a_training_ends_that_never_reaches_its_limit(folder: Path) -> None:
    training = {"batch_size": 8, "micro_batch_size": 4, "max_steps": 5000}
    [preview] = check_job(load_job(job(folder, training=training)))
    told = "max_steps is 5,000, but 3 epochs have 24 steps, after which training ends; raise num_epochs for more"
    assert told in preview.lines


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"teachers": []}, ["teachers has 0", "takes 1"]),
        ({"teachers": ["nowhere/at-all/of-it"]}, ["teachers.0", "nowhere/at-all/of-it", "nor a folder"]),
        ({"teachers": ["{folder}/headless"]}, ["teachers.0", "masked_lm head", "head: new"]),
        ({"teachers": ["{folder}/small"], "student": {"layers": [0]}}, ["30 token ids", "binarize"]),
        ({"teachers": ["{folder}/short"], "student": {"layers": [0]}}, ["16 positions", "encoding.max_length=16"]),
        ({"student": {"init": "layers", "layers": [0, 7]}}, ["student.layers has 7", "blocks 0 to 3"]),
        ({"student": {"init": "layers", "num_layers": 3}}, ["student.layers has 4", "blocks 0 to 3"]),
        ({"student": {"init": "checkpoint", "checkpoint": "{folder}/narrow"}}, ["hidden_size"]),
        ({"corpus": "{folder}/other"}, ["teachers.0 has a different tokenizer", "binarize"]),
        ({"corpus": "elsewhere"}, ["corpus is 'elsewhere'", "neither an earlier stage nor a folder"]),
        ({"method": {"name": "causal", "mapping": "middle_6"}}, ["mapping", "6"]),
        ({"training": {"batch_size": 8, "micro_batch_size": 1}}, ["micro_batch_size is 1", "raise it"]),
        ({"training": {"metric_for_best_model": "acuracy"}}, ["'acuracy'", "Choices: loss, perplexity, accuracy"]),
        ({"scaling": {"use_gpu": True}}, ["scaling.num_workers is 1", "0 GPUs", "use_gpu=false"]),
    ],
)
def test_what_does_not_fit_is_refused(folder: Path, changes: dict[str, Any], words: list[str]) -> None:
    [line] = problems(job(folder, **_filled(changes, folder)))
    assert line.startswith("stages.distill: ")
    assert all(word in line for word in words), line


def _filled(value: Any, folder: Path) -> Any:
    if isinstance(value, str):
        return value.replace("{folder}", str(folder))
    if isinstance(value, list):
        return [_filled(item, folder) for item in value]
    if isinstance(value, dict):
        return {key: _filled(item, folder) for key, item in value.items()}
    return value


def test_a_new_head_may_be_asked_for(folder: Path) -> None:
    teacher = {"checkpoint": str(folder / "headless"), "head": "new"}
    method = {"name": "causal", "mapping": MAPPING}
    assert check_job(load_job(job(folder, teachers=[teacher], method=method, student={"layers": [0]})))


def test_a_teacher_that_an_earlier_stage_makes_is_checked_by_its_configuration(folder: Path) -> None:
    raw = job(folder)
    distill = raw["stages"].pop("distill")
    start = {"init": "checkpoint", "checkpoint": str(folder / "teacher")}
    adapt = {**distill, "method": "finetune", "teachers": [], "student": start}
    raw["stages"] = {"adapt": adapt, "distill": {**distill, "teachers": ["adapt"], "student": {"layers": [9]}}}
    assert problems(raw) == ["stages.distill: student.layers has 9; there are blocks 0 to 3"]


def test_a_reference_to_a_later_stage_is_refused(folder: Path) -> None:
    raw = job(folder, teachers=["later"])
    raw["stages"]["later"] = dict(raw["stages"]["distill"], teachers=[str(folder / "teacher")])
    assert problems(raw) == ["stages.distill.teachers.0 is 'later', which does not come before distill; move it up"]


def test_storage_that_is_no_folder_is_refused(folder: Path) -> None:
    raw = {**job(folder), "storage": "bucket://somewhere"}
    assert "storage is 'bucket://somewhere'" in problems(raw)[0]


def test_a_changed_checkpoint_folder_changes_the_hash(folder: Path, tmp_path: Path) -> None:
    before = stage_records(load_job(job(folder)))["distill"].hash
    (folder / "teacher" / "note.txt").write_text("changed")
    assert stage_records(load_job(job(folder)))["distill"].hash != before


def binarize(folder: Path, path: Path) -> dict[str, Any]:
    stage = {"kind": "binarize", "source": {"name": "text", "path": str(path)}, "tokenizer": str(folder / "teacher")}
    stage["encoding"] = {"name": "mlm", "max_length": 32}
    return {"name": "toy", "storage": str(folder / "runs"), "stages": {"corpus": stage}}


def test_a_source_that_is_not_there_is_refused_before_the_run(folder: Path, tmp_path: Path) -> None:
    [line] = problems(binarize(folder, tmp_path / "missing-*.txt"))
    assert line.startswith("stages.corpus: ")
    assert "missing-*.txt" in line


def test_a_changed_source_file_changes_the_hash(folder: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("w5 w6 w7")
    raw = binarize(folder, text)
    check_job(load_job(raw))
    before = stage_records(load_job(raw))["corpus"].hash
    assert stage_records(load_job(raw))["corpus"].hash == before
    text.write_text("w5 w6 w7 w8")
    assert stage_records(load_job(raw))["corpus"].hash != before


def test_a_reference_that_is_misspelled_offers_the_earlier_stage(folder: Path) -> None:
    raw = job(folder, corpus="corpsu")
    source = {"name": "text", "path": str(folder / "teacher" / "config.json")}
    corpus = {"kind": "binarize", "source": source, "tokenizer": str(folder / "teacher")}
    raw["stages"] = {"corpus": corpus, **raw["stages"]}
    [line] = problems(raw)
    assert line.startswith("stages.distill: ")
    assert line.endswith("; did you mean the stage 'corpus'?")
