"""An evaluation that leaves out the rows by which something was chosen."""

from pathlib import Path
from typing import Any

import pytest

from raydistill.config.sections import ScalingConfig
from raydistill.stages import evaluate
from raydistill.stages._base import Evaluated
from raydistill.user_error import UserError
from toys.capture import write_labelled


def stage(folder: Path, **changes: Any) -> evaluate.Stage:
    config = {
        "kind": "evaluate",
        "corpus": str(folder / "corpus"),
        "task": {"name": "classification", "metrics": ["accuracy", "macro_f1"]},
        "models": {"teacher": str(folder / "teacher")},
        **changes,
    }
    return evaluate.Stage("evaluate", evaluate.Config.model_validate(config))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("labelled")
    write_labelled(found)
    return found


def test_more_rows_than_there_are_cannot_be_left_out(folder: Path) -> None:
    with pytest.raises(UserError, match="skip_rows is 20, but the corpus has 20 validation rows; lower it"):
        stage(folder, skip_rows=20).plan(ScalingConfig(), {})
    stage(folder, skip_rows=19).plan(ScalingConfig(), {})


def test_nothing_is_left_out_by_default_and_the_hash_is_as_before(folder: Path) -> None:
    assert "skip_rows" not in stage(folder).identity(ScalingConfig())
    assert stage(folder, skip_rows=1).identity(ScalingConfig())["skip_rows"] == 1


def test_an_evaluation_tells_which_of_its_metrics_are_means_over_rows(folder: Path) -> None:
    made = stage(folder).plan(ScalingConfig(), {}).makes
    assert isinstance(made, Evaluated)
    assert made.metrics == ("accuracy", "macro_f1", "loss")
    assert made.of_rows == ("accuracy", "loss")
