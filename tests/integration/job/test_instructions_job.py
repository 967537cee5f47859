"""A whole job on messages: a teacher that learned to answer, and a student of it that learns at completions alone."""

from pathlib import Path
from typing import Any

import pytest
import torch

from raydistill.data.corpus import Corpus
from raydistill.data.stored_outputs import TEACHER_ROWS
from raydistill.job.load import load_job
from raydistill.job.run import JobResult, run_job
from raydistill.models.load import load_tokenizer, save_model
from raydistill.training.history import read_history
from toys.chats import chat_tokenizer, conversations, write_lines
from toys.families import toy_gpt2

KD = {"name": "kd", "positions": "completion", "temperature": 1.0, "alpha": 0.8}
TRAINING = {
    "num_epochs": 12,
    "batch_size": 32,
    "micro_batch_size": 32,
    "dropout": 0.0,
    "precision": "fp32",
    "logging_steps": 5,
    "eval_steps": None,
    "save_steps": 1000,
}
OPTIMIZER = {"learning_rate": 0.01, "warmup_proportion": 0.1}


def job(folder: Path) -> dict[str, Any]:
    """Messages of a file; a teacher; what it says of completions; a student of its blocks 0 and 2, and one alone."""
    same = {"kind": "train", "corpus": "corpus", "task": "clm", "optimizer": OPTIMIZER, "training": TRAINING}
    model = {"init": "checkpoint", "checkpoint": str(folder / "model")}
    student = {
        **same,
        "training": {**TRAINING, "num_epochs": 3},
        "student": {"architecture": "gpt2", "layers": [0, 2]},
        "teachers": ["teacher"],
    }
    source = {"name": "delimited", "path": str(folder / "chats.jsonl"), "messages": "messages"}
    return {
        "name": "chats",
        "storage": str(folder / "runs"),
        "seed": 3,
        "stages": {
            "corpus": {
                "kind": "binarize",
                "source": source,
                "encoding": {"name": "clm", "max_length": 40},
                "tokenizer": str(folder / "model"),
                "validation": 0.2,
            },
            "teacher": {
                **same,
                "method": "finetune",
                "student": model,
            },
            "said": {
                "kind": "capture",
                "corpus": "corpus",
                "task": "clm",
                "teachers": ["teacher"],
                "outputs": ["top_k"],
                "top_k": 16,
            },
            "student": {**student, "method": KD, "teacher_outputs": "said"},
            "evaluate": {
                "kind": "evaluate",
                "corpus": "corpus",
                "task": "clm",
                "models": {"teacher": "teacher", "student": "student", "before": "student@initial"},
            },
        },
    }


@pytest.fixture(scope="module")
def finished(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[JobResult, list[str]]:
    folder = tmp_path_factory.mktemp("chats")
    write_lines(folder / "chats.jsonl", [{"messages": one} for one in conversations(400)])
    save_model(toy_gpt2(3, dtype=torch.float32), chat_tokenizer(), folder / "model")
    lines: list[str] = []
    return run_job(load_job(job(folder)), echo=lines.append), lines


def figures_of(result: JobResult) -> dict[str, dict[str, float]]:
    return {entry["model"]: entry["figures"] for entry in result.summaries["evaluate"]["entries"]}


def test_a_student_learns_to_answer_from_what_its_teacher_says_of_completions(finished: Any) -> None:
    found = figures_of(finished[0])
    # Each of 20 words has one answer.
    assert found["teacher"]["perplexity"] < 1.3
    assert found["student"]["loss"] < 0.3 * found["before"]["loss"]


def test_perplexity_is_over_the_tokens_of_completions(finished: Any) -> None:
    result, _ = finished
    corpus = Corpus.open(str(result.outputs["corpus"] / "validation"))
    spans = corpus.read_columns(range(len(corpus))).column("loss_spans").to_pylist()
    completions = sum(sum(own[1::2]) - sum(own[::2]) for own in spans)
    assert {one["tokens"] for one in figures_of(result).values()} == {completions}


def test_a_student_runs_no_teacher_and_has_its_chat_template(finished: Any) -> None:
    result, _ = finished
    rows = [line[TEACHER_ROWS] for line in read_history(result.outputs["student"]) if TEACHER_ROWS in line]
    assert set(rows) == {0}
    assert result.summaries["said"]["teacher_rows"] == 400
    for name in ("teacher", "student"):
        tokenizer = load_tokenizer(result.outputs[name] / "student")
        assert tokenizer.chat_template == chat_tokenizer().chat_template
