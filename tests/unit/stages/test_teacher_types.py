"""What teachers are held in: a precision apart from the student's, or 8 bits, in the plan, the workers and the hash."""

from pathlib import Path
from typing import Any

import pytest
import torch

from raydistill.config.sections import ScalingConfig
from raydistill.models import checks, load, quantization
from raydistill.models.load import load_model, save_model
from raydistill.stages import _memory, _teacher_plan
from raydistill.stages.train import Config, Stage
from raydistill.training import assembly
from toys.capture import train_stage
from toys.checkpoint import toy_tokenizer
from toys.models import toy_bert
from toys.training import make_spec, write_inputs

STUDENT, TEACHER = toy_bert(2).config, toy_bert(4).config
HEAD = "masked_lm"


def config_of(teacher: dict[str, Any] | None = None, **training: Any) -> Config:
    return Config.model_validate(
        {
            "kind": "train",
            "corpus": "corpus",
            "method": "kd",
            "teachers": [{"checkpoint": "teacher", **(teacher or {})}],
            "teacher_outputs": "live",
            "student": {"num_layers": 2},
            "training": {"precision": "fp32", **training},
        }
    )


def bytes_of_teachers(config: Config) -> float:
    [found] = _teacher_plan.demand_of(config, ScalingConfig(use_gpu=True), [STUDENT, TEACHER]).teachers
    return found


def test_the_plan_counts_teachers_in_their_own_precision() -> None:
    size = checks.num_parameters(TEACHER, head=HEAD)
    assert bytes_of_teachers(config_of()) == 4 * size
    assert bytes_of_teachers(config_of(teacher_precision="bf16")) == 2 * size
    assert bytes_of_teachers(config_of(precision="bf16")) == 2 * size
    assert bytes_of_teachers(config_of(precision="bf16", teacher_precision="fp32")) == 4 * size


def test_the_plan_counts_a_byte_for_each_weight_of_linear_layers_in_8_bits() -> None:
    plain = bytes_of_teachers(config_of(teacher_precision="bf16"))
    blocks = 4 * (4 * 16 * 16 + 2 * 16 * 24)
    assert plain - bytes_of_teachers(config_of({"quantization": "int8"}, teacher_precision="bf16")) == blocks + 16 * 16


@pytest.mark.parametrize(("asked", "dtype"), [("auto", torch.float32), ("bf16", torch.bfloat16)])
def test_workers_load_teachers_in_their_own_precision(tmp_path: Path, asked: str, dtype: torch.dtype) -> None:
    write_inputs(tmp_path)
    spec = make_spec(tmp_path, training={"teacher_precision": asked})
    teacher: Any = assembly._load_teacher(spec.teachers[0], spec, torch.device("cpu"), ())
    assert teacher.dtype == dtype


def refusal(teacher: dict[str, Any], *, use_gpu: bool = True, is_live: bool = True) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        _memory.check_quantization(config_of(teacher), ScalingConfig(use_gpu=use_gpu), [TEACHER], is_live=is_live)
    return str(caught.value)


def test_8_bits_are_refused_on_cpus_without_the_library_and_where_they_would_not_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    int8 = {"quantization": "int8"}
    assert refusal(int8, use_gpu=False) == (
        "teachers.0.quantization is 'int8', which needs GPUs; set scaling.use_gpu, or leave it out"
    )
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    assert refusal(int8) == (
        "teachers.0.quantization is 'int8', which needs the library bitsandbytes; pip install bitsandbytes"
    )
    monkeypatch.setattr(quantization, "find_spec", lambda name: name)
    assert refusal({**int8, "placement": "zero3"}).endswith("such a teacher is replicated; leave one of them out")
    assert refusal(int8, is_live=False).endswith("write teacher_outputs: live, or leave it out")
    _memory.check_quantization(config_of(int8), ScalingConfig(use_gpu=True), [TEACHER], is_live=True)


def test_transformers_is_told_to_hold_8_bits_on_the_workers_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(toy_bert(2, dtype=torch.float32), toy_tokenizer(), tmp_path)
    real, seen = load.model_class(HEAD), {}

    class Spy:
        @staticmethod
        def from_pretrained(folder: Any, *, quantization_config: Any, device_map: Any, **options: Any) -> Any:
            seen.update(bits8=quantization_config.load_in_8bit, map=device_map)
            return real.from_pretrained(folder, **options)

    monkeypatch.setattr(load, "model_class", lambda head: Spy)
    load_model(tmp_path, head=HEAD, int8_on=torch.device("cuda", 1))
    assert seen == {"bits8": True, "map": {"": torch.device("cuda", 1)}}


def test_keys_at_their_defaults_are_no_part_of_what_identifies_a_students_outputs(tmp_path: Path) -> None:
    stage = train_stage(tmp_path)
    found = stage.identity(ScalingConfig())
    assert "lora" not in found["student"]
    assert not {"gradient_checkpointing", "teacher_precision"} & found["training"].keys()
    assert not any("quantization" in teacher for teacher in found["teachers"])
    other: Stage = train_stage(tmp_path, training={"teacher_precision": "bf16"})
    assert other.identity(ScalingConfig())["training"]["teacher_precision"] == "bf16"
