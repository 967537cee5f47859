"""What a job leaves out is what one expects; what a paper has otherwise stands in the job that reproduces it."""

from dataclasses import asdict, fields
from typing import Any

import pytest
from transformers import TrainingArguments

from raydistill.config.named import MethodSpec
from raydistill.config.training import OptimizerConfig, TrainingConfig
from raydistill.job import files
from raydistill.job.load import load_job

FROM_TRANSFORMERS = {
    "learning_rate": "learning_rate",
    "betas.0": "adam_beta1",
    "betas.1": "adam_beta2",
    "epsilon": "adam_epsilon",
    "weight_decay": "weight_decay",
    "schedule": "lr_scheduler_type",
    "max_grad_norm": "max_grad_norm",
}
"""Keys of the optimizer by what ``transformers`` calls them."""
_BERT_ADAM = {
    "name": "bert_adam",
    "learning_rate": 2e-5,
    "betas": [0.9, 0.999],
    "epsilon": 1e-6,
    "weight_decay": 0.01,
    "warmup_proportion": 0.1,
    "max_grad_norm": 1.0,
}
_TORCH = {"betas": [0.9, 0.999], "epsilon": 1e-8, "max_grad_norm": 1.0}
PUBLISHED: dict[tuple[str, str], dict[str, dict[str, Any]]] = {
    # frankaging/Causal-Distill @ 473600b: the arguments of its command.
    ("causal_bert", "distill"): {
        "optimizer": {
            "learning_rate": 5e-4,
            "betas": [0.9, 0.98],
            "epsilon": 1e-6,
            "weight_decay": 0,
            "warmup_proportion": 0.05,
            "max_grad_norm": 5.0,
        },
        "training": {"num_epochs": 3, "batch_size": 240},
    },
    # frankaging/Causal-Distill-XXS @ eb75481
    ("causal_task", "distill"): {
        "optimizer": {**_BERT_ADAM, "schedule": "linear_published"},
        "training": {"num_epochs": 5, "batch_size": 32},
        "method": {"alpha": 0.7, "temperature": 20},
    },
    # snudm-starlab/Pea-KD @ 0375288
    ("pea_kd_glue", "student"): {
        "optimizer": {**_BERT_ADAM, "schedule": "linear_squared"},
        "training": {"num_epochs": 10, "stop_after_epochs": 7, "batch_size": 32},
        "method": {"alpha": 0.7, "temperature": 10, "beta": 100},
    },
    # lancopku/DynamicKD @ 261162d
    ("dynamic_kd_glue", "student"): {
        "optimizer": {**_TORCH, "learning_rate": 2e-5, "warmup_proportion": 0.1},
        "training": {"num_epochs": 3, "batch_size": 32},
    },
    # lancopku/MUKI @ 703fd17
    ("muki_cnews", "muki"): {
        "optimizer": {**_TORCH, "name": "adamw_hf4", "learning_rate": 2e-5, "warmup_proportion": 0.1},
        "training": {"num_epochs": 3, "batch_size": 16, "early_stopping_patience": 50, "eval_steps": 200},
    },
    ("muki_cnews", "teacher_1"): {"training": {"num_epochs": 3, "batch_size": 64, "eval_steps": None}},
    # GeneZC/StarK @ ac1e8d1
    ("stark_glue", "rewound"): {
        "optimizer": {
            "name": "adamw_hf4",
            "learning_rate": 3e-5,
            "betas": [0.9, 0.999],
            "epsilon": 1e-6,
            "weight_decay": 0.01,
            "warmup_proportion": 0.1,
            "max_grad_norm": 5.0,
        },
        "training": {"num_epochs": 10, "batch_size": 16},
        "method": {"alpha": 0.5, "temperature": 2},
    },
}
"""What stands in a stage of a job, by the names of job and stage; those of the teachers are the same lines."""
DEMO = {
    "learning_rate": 3e-3,
    "betas": [0.9, 0.98],
    "epsilon": 1e-6,
    "warmup_proportion": 0.05,
    "max_grad_norm": 5.0,
}
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
    "kd": {"alpha": 0.5, "temperature": 2.0},
    "patient_kd": {"alpha": 0.5, "temperature": 2.0, "beta": 100.0, "normalize": True, "table": "pea_kd"},
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


def test_the_optimizer_is_that_of_transformers_with_a_warm_up() -> None:
    theirs = {field.name: field.default for field in fields(TrainingArguments)}
    found = OptimizerConfig().model_dump()
    found |= {f"betas.{place}": beta for place, beta in enumerate(found["betas"])}
    assert {key: found[key] for key in FROM_TRANSFORMERS} == {
        key: theirs[name] for key, name in FROM_TRANSFORMERS.items()
    }
    assert (found["name"], found["warmup_proportion"]) == ("adamw", 0.1)


def test_the_loop_has_32_rows_a_step_and_the_epochs_and_forward_passes_of_transformers() -> None:
    theirs = {field.name: field.default for field in fields(TrainingArguments)}
    training = TrainingConfig()
    assert training.batch_size == 32
    assert training.micro_batch_size == theirs["per_device_train_batch_size"]
    assert training.num_epochs == theirs["num_train_epochs"]
    assert training.loss_normalization == "global"


@pytest.mark.parametrize(("job", "stage"), PUBLISHED)
def test_values_of_a_paper_stand_in_its_job(job: str, stage: str) -> None:
    written = files.read_job(job)["stages"][stage]
    for section, values in PUBLISHED[job, stage].items():
        assert {key: written[section][key] for key in values} == values


def test_students_of_the_demo_train_with_the_values_of_the_published_causal_distillation() -> None:
    stages = load_job(files.read_job("demo")).dump()["stages"]
    for stage in ("distill", "alone"):
        assert {key: stages[stage]["optimizer"][key] for key in DEMO} == DEMO


@pytest.mark.parametrize("name", METHODS)
def test_a_method_without_options_has_these(name: str) -> None:
    found = asdict(MethodSpec.parse({"name": name, **NEEDED.get(name, {})}).config)
    assert {key: found[key] for key in METHODS[name]} == METHODS[name]
