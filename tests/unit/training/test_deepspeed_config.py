"""The DeepSpeed configuration leaves nothing that matters to a default."""

import pytest

from raydistill.training.deepspeed_config import deepspeed_config, resolve_precision


def _config(**options):
    settings = {"zero_stage": 2, "precision": "fp32", "num_micro_batches": 3, "max_grad_norm": 5.0, **options}
    return deepspeed_config(**settings)


def test_gradient_clipping_is_written_because_deepspeed_clips_at_one_without_it() -> None:
    assert _config(max_grad_norm=5.0)["gradient_clipping"] == 5.0


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_stage_is_the_one_asked_for(stage: int) -> None:
    assert _config(zero_stage=stage)["zero_optimization"]["stage"] == stage


def test_stage_3_shards_small_weights_too() -> None:
    assert _config(zero_stage=3)["zero_optimization"]["stage3_param_persistence_threshold"] == 0


def test_losses_are_scaled_in_fp16_only() -> None:
    assert _config(precision="fp16")["fp16"]["enabled"]
    assert "fp16" not in _config(precision="bf16")
    assert _config(precision="bf16")["bf16"]["enabled"]
    assert not {"fp16", "bf16"} & set(_config(precision="fp32"))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_precision_that_was_asked_for_is_kept(precision: str) -> None:
    assert resolve_precision(precision, use_gpu=False) == precision


def test_auto_avoids_bf16_on_a_cpu_without_matrix_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)
    assert resolve_precision("auto", use_gpu=False) == "fp32"
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: True)
    assert resolve_precision("auto", use_gpu=False) == "bf16"
