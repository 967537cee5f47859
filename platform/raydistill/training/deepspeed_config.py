"""The complete DeepSpeed configuration of a training; nothing is left to DeepSpeed's defaults that matters here."""

from typing import Any, Literal, cast

import torch

Precision = Literal["fp32", "bf16", "fp16"]

_NEVER = 10**9


def resolve_precision(precision: str, *, use_gpu: bool) -> Precision:
    """``auto`` becomes bf16 where the hardware is fast at it (GPUs that support it, CPUs with AMX), else fp32."""
    if precision != "auto":
        return cast(Precision, precision)
    if use_gpu:
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if torch.cpu._is_amx_tile_supported() else "fp32"


def deepspeed_config(
    *, zero_stage: int, precision: Precision, num_micro_batches: int, max_grad_norm: float
) -> dict[str, Any]:
    """Configuration for a client optimizer at a ZeRO stage.

    ``gradient_clipping`` is always written: DeepSpeed 0.19 clips at 1.0 when it is not, and not at all at 0. The
    micro-batch size is 1 because DeepSpeed only multiplies it into figures that are not used here.
    """
    zero: dict[str, Any] = {"stage": zero_stage}
    if zero_stage == 3:
        # Every weight is sharded, small ones too, so that each of n workers holds 1/n.
        zero["stage3_param_persistence_threshold"] = 0
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": num_micro_batches,
        "gradient_clipping": max_grad_norm,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": _NEVER,
        "wall_clock_breakdown": False,
    }
    if precision == "bf16":
        config["bf16"] = {"enabled": True}
    elif precision == "fp16":
        config["fp16"] = {"enabled": True, "loss_scale": 0, "initial_scale_power": 16}
    return config
