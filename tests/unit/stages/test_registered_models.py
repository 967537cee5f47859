"""Where stages find registered models, whose folders the job gives them."""

from pathlib import Path

import pytest

from raydistill.config.sections import ModelRef
from raydistill.stages import _models
from raydistill.stages._base import Input
from toys.checkpoint import save_student

ALIASES = ["models:/student@candidate", "models:/student@initial", "models:/student/3"]
"""The second is no training stage's student before training."""


@pytest.mark.parametrize("reference", ALIASES)
def test_a_running_stage_takes_the_folder_itself(tmp_path: Path, reference: str) -> None:
    assert _models.resolve(ModelRef(checkpoint=reference), {reference: Input(folder=tmp_path)}) == tmp_path


@pytest.mark.parametrize("reference", ALIASES)
def test_a_preflight_reads_configuration_and_tokenizer_from_the_folder(tmp_path: Path, reference: str) -> None:
    folder = save_student(tmp_path)
    model = _models.model_of("model", ModelRef(checkpoint=reference), {reference: Input(folder=folder)})
    assert (model.config.model_type, model.folder) == ("distilbert", folder)
    assert model.tokenizer_hash is not None


def test_without_a_job_there_is_no_registry(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="checkpoint is 'models:/student/3', but no job names the registry"):
        _models.resolve(ModelRef(checkpoint="models:/student/3"), {})
