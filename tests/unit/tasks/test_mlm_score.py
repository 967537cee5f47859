"""Scores of masked language modeling; `test_evaluation.py` compares them with a model's own loss."""

import math

import numpy as np
import pytest
import torch

from raydistill.tasks._base import Encoding
from raydistill.tasks.mlm import Config, Task
from toys.models import MASK, VOCABULARY, toy_batch, toy_distilbert

TASK = Task(Config(), Encoding(VOCABULARY, {"mask": MASK}, (0, MASK), 40, np.ones(VOCABULARY, dtype=np.int64)))


def test_sums_of_parts_add_up_to_the_sums_of_the_whole():
    student = toy_distilbert(2)
    whole = TASK.score(student, toy_batch())
    parts = [TASK.score(student, toy_batch([row])) for row in range(6)]
    for name, value in whole.items():
        assert value.dtype == torch.float64
        assert value.shape == ()
        assert value.item() == pytest.approx(sum(part[name].item() for part in parts), abs=1e-5)


def test_a_score_keeps_no_graph():
    assert not any(value.requires_grad for value in TASK.score(toy_distilbert(1), toy_batch()).values())


def test_metrics_are_means_over_masked_tokens():
    metrics = TASK.metrics({"loss": 6.0, "correct": 3.0, "tokens": 4.0})
    assert metrics == {"loss": 1.5, "perplexity": pytest.approx(math.e**1.5), "accuracy": 0.75, "tokens": 4.0}


def test_models_are_compared_by_metrics_that_there_are():
    assert set(Task.higher_is_better(Config())) < set(TASK.metrics({"loss": 6.0, "correct": 3.0, "tokens": 4.0}))


def test_a_perplexity_beyond_floats_is_infinite():
    assert TASK.metrics({"loss": 4000.0, "correct": 0.0, "tokens": 4.0})["perplexity"] == math.inf


def test_nothing_to_score_is_refused():
    with pytest.raises(ValueError, match="no validation token is masked"):
        TASK.metrics({"loss": 0.0, "correct": 0.0, "tokens": 0.0})
