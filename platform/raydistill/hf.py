"""transformers' Trainer with a distillation method in place of the model's own loss.

Its steps, callbacks, precision, logging and checkpoints are the Trainer's. The loss of an optimizer step is the
method's over all rows of its micro-batches and processes: sums divided by what the whole step averages over. Shapes,
units, errors and source: see ``DistillationTrainer``. Raises nothing by itself.

>>> rd.hf.__all__
['DistillationTrainer']
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from raydistill.api.distillation import Distillation
from raydistill.api.methods import DistillationMethod
from raydistill.batch import PARTNER, Batch
from raydistill.methods._base import stored_name
from raydistill.models.kept_units import kept_of
from raydistill.optim.parameter_groups import GroupRule, parameter_groups
from raydistill.user_error import UserError

__all__ = ["DistillationTrainer"]

ADAPTERS = "distillation_adapters.safetensors"
"""File of a checkpoint's folder with what trains beside the student, for resuming alone."""
_PREPARED = "prepared_batch"
_MOST_STORED = 16
"""Teachers whose stored outputs a data set may have."""
_REFUSED = {
    "gradient_checkpointing": "methods run blocks by themselves; set it to False",
    "label_smoothing_factor": "the loss is the method's; set it to 0",
    "use_liger_kernel": "methods compute their own losses; set it to False",
    "torch_compile": "batches have no fixed shapes; set it to False",
    "deepspeed": "the student is not the module that is sharded; use a job of raydistill",
    "fsdp": "the student is not the module that is sharded; use a job of raydistill",
}


class DistillationTrainer(Trainer):
    """A ``transformers.Trainer`` whose model is the student, trained with ``method`` and its frozen ``teachers``.

    ``method`` is one of ``raydistill``'s, such as ``rd.KD(temperature=2)``. Everything else is the Trainer's:
    ``args``, datasets, ``processing_class``, ``data_collator``, ``compute_metrics``, which is given what the student
    says, ``callbacks``, ``optimizers``. A saved folder is the student's alone; adapters between the models, which
    some methods train, lie in a file of their own in a checkpoint's folder.

    Shapes: batches as ``Distillation.prepare`` takes them, with a ``row_id`` if the data set has one. Logged are the
    loss and each term by its name, in nats or squared units, of the optimizer step, in evaluations the mean over
    batches. Draws of a method follow from ``args.seed``, the step and the place of a row. Raises ValueError, with one
    line, for models that the method cannot take, a batch that lacks what it reads, and arguments that cannot work
    with it: sharding, several GPUs in one process, gradient checkpointing, label smoothing, compilation. Source: the
    loss is normalized as ``raydistill`` jobs do it.

    >>> from transformers import TrainingArguments
    >>> data = [{"input_ids": [5, 6, 7], "labels": 0}, {"input_ids": [8, 9, 10], "labels": 1}]
    >>> args = TrainingArguments("runs", max_steps=1, report_to=[], use_cpu=True, disable_tqdm=True)
    >>> trainer = rd.hf.DistillationTrainer(
    ...     model=student, method=rd.KD(temperature=2), teachers=[teacher], args=args, train_dataset=data
    ... )
    >>> trainer.train().global_step  # doctest: +ELLIPSIS
    {'train_runtime': ...}
    1
    """

    model: Any
    optimizer: Any
    _signature_columns: Any
    # The loss of a micro-batch is a part of that of its step already.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments | None = None,
        *,
        method: DistillationMethod,
        teachers: Sequence[nn.Module] = (),
        **options: Any,
    ) -> None:
        _check_options(model, args, options)
        self.distillation: Distillation = method.build(model, teachers)
        self._sums: dict[str, Tensor] = {}
        self._num_steps = 0
        super().__init__(model=model, args=args, **options)
        self.model_accepts_loss_kwargs = True
        if self.args.n_gpu > 1:
            raise UserError(f"one process has {self.args.n_gpu} GPUs; start it with torchrun, or show it only one GPU")
        self.distillation.to(self.args.device)

    def _set_signature_columns_if_needed(self) -> None:
        is_first = self._signature_columns is None
        super()._set_signature_columns_if_needed()
        if is_first:
            own, kinds = self._signature_columns, self.distillation.requirements.stored
            stored = [stored_name(number, kind) for number in range(_MOST_STORED) for kind in kinds]
            self._signature_columns = [*own, *(PARTNER + name for name in own), "row_id", *stored]

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The Trainer's, with a rate of their own for what trains beside the student, where the method has one."""
        rules = [getattr(module, "group_rule", None) for module in self.distillation.modules()]
        if self.optimizer is None and any(isinstance(rule, GroupRule) for rule in rules):
            rate, decay = self.args.learning_rate, self.args.weight_decay
            groups = parameter_groups(self.distillation, weight_decay=decay, learning_rate=rate)
            made, options = self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = made([{**group, "lr": rate * group["rate_scale"]} for group in groups], **options)
        return super().create_optimizer(model)

    def _prepare_for_training(self, *arguments: Any, **options: Any) -> Any:
        # What runs, and is wrapped for several processes and precisions, is the student with the loss around it.
        student = self.model
        self.model = self.model_wrapped = self.distillation
        try:
            return super()._prepare_for_training(*arguments, **options)
        finally:
            self.model = self.callback_handler.model = student

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """The micro-batches of an optimizer step, and what the terms of the whole step are divided by."""
        samples, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        batches = [self._prepared(inputs, number) for number, inputs in enumerate(samples)]
        if not batches:
            return samples, None
        self._num_steps += 1
        counts = [self.distillation.denominators(batch) for batch in batches]
        local = torch.stack([torch.stack([*count.values()]).double() for count in counts]).sum(dim=0)
        totals = self.accelerator.reduce(local.to(device), reduction="sum")
        pairs = zip(samples, batches, strict=True)
        return [{**inputs, _PREPARED: batch} for inputs, batch in pairs], dict(zip(counts[0], totals, strict=True))

    def _prepared(self, inputs: Mapping[str, Any], number: int) -> Batch:
        """A micro-batch with its draws, which a resumed training repeats."""
        step, rank, ranks = self.state.global_step, self.accelerator.process_index, self.accelerator.num_processes
        rows = len(inputs["input_ids"]) if "input_ids" in inputs else 0
        place = (step * self.args.gradient_accumulation_steps + number) * ranks + rank
        first = place * self.args.per_device_train_batch_size
        ids = inputs.get("row_id", first + torch.arange(rows))
        keys = {"epoch": int(self.state.epoch or 0), "step": step, "micro_batch": number}
        return self.distillation.prepare({**inputs, "row_id": ids}, seed=self.args.seed, **keys)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The part of its optimizer step's loss that a micro-batch has; the terms are kept for the next log."""
        assert not return_outputs, "evaluations are prediction_step's"
        loss, terms = model(inputs[_PREPARED], denominators=num_items_in_batch)
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.double()
        # Gradients of processes are averaged, and these are parts of one sum.
        return loss * self.accelerator.num_processes

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As the Trainer does, with the mean of each term over the steps since the last time."""
        if "loss" in logs and self._sums:
            sums = self.accelerator.reduce(torch.stack([*self._sums.values()]), reduction="sum") / self._num_steps
            logs |= dict(zip(self._sums, sums.tolist(), strict=True))
            self._sums, self._num_steps = {}, 0
        super().log(logs, start_time)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Any, Any]:
        """The method's loss of a batch, None where it reads labels that are missing, the student's outputs, labels."""
        inputs = self._prepare_inputs(inputs)
        labels = tuple(inputs[name] for name in self.label_names if inputs.get(name) is not None)
        is_labelled = len(labels) == len(self.label_names) > 0
        loss = None
        if is_labelled or not self.distillation.requirements.labels:
            self.distillation.eval()
            batch = self.distillation.prepare(inputs, seed=self.args.seed)
            with torch.no_grad(), self.accelerator.autocast():
                loss = self.distillation(batch)[0]
        if prediction_loss_only:
            return loss, None, None
        read = inspect.signature(self.model.forward).parameters.keys() - {*self.label_names}
        plain = {name: column for name, column in inputs.items() if name in read}
        with self.accelerator.autocast():
            _, logits, _ = super().prediction_step(model, plain, prediction_loss_only=False, ignore_keys=ignore_keys)
        return loss, logits, (labels[0] if len(labels) == 1 else labels) if is_labelled else None

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        adapters = self._adapters()
        if adapters and self.args.should_save:
            folder = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            save_file({name: tensor.contiguous() for name, tensor in adapters.items()}, folder / ADAPTERS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self._adapters():
            stored = load_file(Path(resume_from_checkpoint) / ADAPTERS)
            self.distillation.distiller.load_state_dict(stored, strict=False)

    def _adapters(self) -> dict[str, Tensor]:
        """What trains beside the student, by its name in the method."""
        state = self.distillation.distiller.state_dict()
        return {name: tensor for name, tensor in state.items() if not name.startswith("student.")}


def _check_options(model: Any, args: TrainingArguments | None, options: Mapping[str, Any]) -> None:
    """Raise ValueError for what the Trainer could do, but not with the loss of a method."""
    for name, reason in _REFUSED.items():
        if getattr(args, name, None):
            raise UserError(f"args.{name} is {getattr(args, name)!r}, but {reason}")
    for name in ("compute_loss_func", "model_init"):
        if options.get(name) is not None:
            raise UserError(f"{name} is given, but the loss and the models are the method's; leave it out")
    if kept_of(model.config) is not None:
        raise UserError(
            "the student is pruned, and transformers cannot open what it would save; use a job of raydistill"
        )
