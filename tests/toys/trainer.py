"""What tests of the Trainer adapter train: rows as a data set has them, and the same steps as a job takes them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DataCollatorForTokenClassification, TrainingArguments

import raydistill as rd
from raydistill.batch import Batch, collate
from raydistill.optim.parameter_groups import parameter_groups
from toys.classifiers import toy_labelled_batch
from toys.models import PAD, toy_batch
from toys.words import make_tokenizer

RATE = 1e-2
ROWS, ACCUMULATED, BATCH = 6, 2, 2
"""Two optimizer steps an epoch: of two micro-batches, and of one."""


def rows_of(head: str) -> list[dict[str, Any]]:
    """The toy rows without padding, with labels as transformers has them."""
    whole = toy_batch() if head == "masked_lm" else toy_labelled_batch("classes")
    found = []
    for row, length in enumerate(whole["lengths"].tolist()):
        ids, width = whole["input_ids"][row, :length], whole["input_ids"].shape[1]
        labels: Any = int(whole["labels"][row])
        if head == "masked_lm":
            places = torch.full((ROWS * width,), -100)
            places[whole["label_index"]] = whole["labels"]
            labels = places.view(ROWS, width)[row, :length].tolist()
        found.append({"input_ids": ids.tolist(), "labels": labels, "row_id": row})
    return found


def arguments(folder: Path | str, **changes: Any) -> TrainingArguments:
    """Steps in the order of the rows, at one rate, on the CPU."""
    given: dict[str, Any] = {
        "per_device_train_batch_size": BATCH,
        "per_device_eval_batch_size": 4,
        "gradient_accumulation_steps": ACCUMULATED,
        "num_train_epochs": 2,
        "train_sampling_strategy": "sequential",
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "optim": "adamw_torch",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    return TrainingArguments(str(folder), **{**given, **changes})


def trainer_of(
    folder: Path | str, method: Any, student: nn.Module, teachers: Sequence[nn.Module], *, head: str, **options: Any
) -> Any:
    """The adapter on the toy rows, with the Trainer's own collators."""
    tokenizer = make_tokenizer()
    collator = DataCollatorForTokenClassification(tokenizer) if head == "masked_lm" else None
    changes = options.pop("changes", {})
    return rd.hf.DistillationTrainer(
        model=student,
        method=method,
        teachers=teachers,
        args=arguments(folder, **changes),
        train_dataset=rows_of(head),
        processing_class=tokenizer,
        data_collator=collator,
        **options,
    )


def platform_steps(
    spec: Any, student: nn.Module, teachers: Sequence[nn.Module], *, head: str, seed: int
) -> list[dict[str, float]]:
    """Loss and terms of the same optimizer steps, taken as a job's engine and loop take them; trains the student."""
    distiller = spec.build(student, teachers)
    groups = parameter_groups(distiller, weight_decay=0.0, learning_rate=RATE)
    optimizer = torch.optim.AdamW([{**group, "lr": RATE * group["rate_scale"]} for group in groups])
    distiller.train()
    found = []
    for step in range(4):
        micro_batches = [range(2), range(2, 4)] if step % 2 == 0 else [range(4, 6)]
        batches = [
            spec.method.prepare_batch(
                spec.config, _packed(head, rows, seed=seed, epoch=step // 2, step=step, micro_batch=number)
            )
            for number, rows in enumerate(micro_batches)
        ]
        counts = [distiller.denominators(batch) for batch in batches]
        totals = {name: torch.stack([count[name] for count in counts]).sum() for name in counts[0]}
        sums: dict[str, float] = {}
        for batch in batches:
            loss, terms = distiller(batch, totals)
            loss.backward()
            for name, value in {"loss": loss, **terms}.items():
                sums[name] = sums.get(name, 0.0) + value.item()
        optimizer.step()
        optimizer.zero_grad()
        found.append(sums)
    return found


def _packed(head: str, rows: range, **keys: int) -> Batch:
    """A micro-batch as the data tasks build it."""
    given = [rows_of(head)[row] for row in rows]
    batch = collate([torch.tensor(row["input_ids"]).numpy() for row in given], list(rows), pad_id=PAD, **keys)
    if head != "masked_lm":
        return batch.with_columns(labels=torch.tensor([row["labels"] for row in given]))
    width = batch["input_ids"].shape[1]
    index, labels = [], []
    for number, row in enumerate(given):
        for place, label in enumerate(row["labels"]):
            if label != -100:
                index.append(number * width + place)
                labels.append(label)
    return batch.with_columns(label_index=torch.tensor(index), labels=torch.tensor(labels))


def logged(trainer: Any, names: Mapping[str, Any]) -> list[dict[str, float]]:
    """What the Trainer logged of each step under these names."""
    return [{name: one[name] for name in names} for one in trainer.state.log_history if "loss" in one]


def weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of a model's parameters."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
