"""What a job leaves out is what the published recipes state; an experiment that relies on a default reproduces them."""

from dataclasses import asdict
from typing import Any

import pytest

from raydistill.config.named import MethodSpec
from raydistill.config.sections import OptimizerConfig, TrainingConfig

OPTIMIZER = {
    "name": "adamw",
    "learning_rate": 5e-4,
    "betas": (0.9, 0.98),
    "epsilon": 1e-6,
    "weight_decay": 0.0,
    "warmup_proportion": 0.05,
    "schedule": "linear",
    "max_grad_norm": 5.0,
}
"""Of the published causal distillation of language models."""
METHODS: dict[str, dict[str, Any]] = {
    # The arguments of the published command: four weights of 0.25, consecutive tokens, no maximum.
    "causal": {
        **dict.fromkeys(("alpha_ce", "alpha_mlm", "alpha_cos", "alpha_causal_ce"), 0.25),
        **dict.fromkeys(("alpha_clm", "alpha_causal_cos", "alpha_mse"), 0.0),
        "temperature": 2.0,
        "interchange_mode": "consecutive",
        "interchange_proportion": 0.3,
        "max_tokens": None,
    },
    "causal_task": {
        "alpha": 0.95,
        "temperature": 10.0,
        "beta": 0.0,
        "interchange_mode": "random",
        "interchange_proportion": 0.3,
        "mapping": "full",
        "normalize_patience": False,
    },
    "kd": {"alpha": 0.7, "temperature": 10.0},
    "patient_kd": {"alpha": 0.7, "temperature": 10.0, "beta": 100.0, "normalize": True, "table": "pea_kd"},
    "vkd": {"kd_alpha": 1.0, "temperature": 1.0},
    "uhc": {"kd_alpha": 1.0, "temperature": 1.0},
    "muki": {"kd_alpha": 1.0, "temperature": 1.0, "dropout_passes": 16, "margin_reweighting": True},
    "dfa": {"kd_alpha": 1.0, "align_alpha": 1.0, "rec_alpha": 1.0, "num_aligned_layers": -1},
    "cfl": {"kd_alpha": 1.0, "align_alpha": 1.0, "rec_alpha": 1.0, "num_aligned_layers": 1},
    "dynamic_data": {"kd_alpha": 1.0, "ce_alpha": 1.0, "objective": "mse", "temperature": 5.0, "ratio": 0.5},
    "dynamic_objective": {"kd_alpha": 1.0, "ce_alpha": 1.0, "rep_alpha": 1.0, "objective": "mse", "temperature": 5.0},
    "dynamic_teacher": {"kd_alpha": 1.0, "ce_alpha": 1.0, "objective": "mse", "mode": "hard", "temperature": 5.0},
}
NEEDED = {"causal": {"mapping": "full_6"}}
"""What has no default."""


def test_the_optimizer_and_its_schedule_are_those_of_causal_distillation() -> None:
    found = OptimizerConfig().model_dump()
    assert {key: found[key] for key in OPTIMIZER} == OPTIMIZER
    assert TrainingConfig().batch_size == 240
    assert TrainingConfig().loss_normalization == "global"


@pytest.mark.parametrize("name", METHODS)
def test_a_method_without_options_is_the_published_one(name: str) -> None:
    found = asdict(MethodSpec.parse({"name": name, **NEEDED.get(name, {})}).config)
    assert {key: found[key] for key in METHODS[name]} == METHODS[name]
