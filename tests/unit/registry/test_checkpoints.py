"""What is said when a registry does not answer; its content is tested with MLflow."""

import subprocess
from pathlib import Path

import pytest

from raydistill.registry import checkpoints
from raydistill.registry.checkpoints import checkpoint_folder

URI = "http://bob:hunter2@registry.example:9"


def refusal(monkeypatch, run):
    checkpoints._downloaded.cache_clear()
    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(ValueError, match="not readable from the registry") as error:
        checkpoint_folder("models:/student@candidate", Path("cache"), registry=URI)
    return str(error.value)


def test_a_password_in_the_reason_that_mlflow_gives_is_not_told(monkeypatch):
    done = subprocess.CompletedProcess([], 1, stdout="", stderr=f"Traceback\nAPI request to {URI}/api failed")
    text = refusal(monkeypatch, lambda *_, **__: done)
    assert "hunter2" not in text
    assert text.endswith("API request to http://bob:***@registry.example:9/api failed")


def test_a_registry_that_does_not_answer_is_told_in_one_line(monkeypatch):
    def run(*_, timeout, **__):
        raise subprocess.TimeoutExpired("python", timeout)

    text = refusal(monkeypatch, run)
    assert "does not answer in" in text
    assert "\n" not in text
