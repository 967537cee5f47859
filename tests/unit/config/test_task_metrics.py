"""By what models are compared where a job does not say it: each task's own metric."""

from typing import Any

import pytest

from raydistill.config.named import MethodSpec, TaskSpec
from raydistill.config.training import TrainingConfig
from raydistill.training.selection import criterion_of

CLASSES, SCORES = ("no", "yes"), ()
OWN: list[tuple[Any, tuple[str, ...], str, bool]] = [
    ("classification", CLASSES, "accuracy", True),
    ("classification", SCORES, "pearson", True),
    ({"name": "glue", "task": "rte"}, CLASSES, "accuracy", True),
    ({"name": "glue", "task": "cola"}, CLASSES, "matthews", True),
    ("ner", ("O", "B-PER"), "f1", True),
    ("qa", (), "f1", True),
    ("mlm", (), "loss", False),
    ("clm", (), "loss", False),
]


@pytest.mark.parametrize(("task", "labels", "metric", "greater"), OWN)
def test_each_task_has_a_metric_of_its_own(task: Any, labels: tuple[str, ...], metric: str, greater: bool) -> None:
    assert next(iter(TaskSpec.parse(task).higher_is_better(labels).items())) == (metric, greater)


def test_a_training_on_scores_can_be_chosen_by_correlation_and_not_by_accuracy() -> None:
    task, method = TaskSpec.parse("classification"), MethodSpec.parse("finetune")
    chosen = criterion_of(TrainingConfig(metric_for_best_model="pearson"), task, method, SCORES)
    assert (chosen.key, chosen.greater_is_better) == ("eval/pearson", True)
    with pytest.raises(ValueError, match="'accuracy'; Choices: loss, pearson, spearman"):
        criterion_of(TrainingConfig(metric_for_best_model="accuracy"), task, method, SCORES)
