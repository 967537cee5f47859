"""Every kind of model that a training loads, saved in folders, with a training of a few steps for each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from raydistill.batch import Batch
from raydistill.models import layer_plan
from raydistill.models.kept_units import KeptUnits
from raydistill.models.layer_selection import random_student
from raydistill.models.load import save_model
from raydistill.models.pruning import pruned
from raydistill.training.spec import TrainSpec
from toys.checkpoint import toy_tokenizer
from toys.classifiers import CLASSES, toy_classifier, toy_labelled_batch
from toys.corpus import random_rows, write_corpus
from toys.families import MASKED, toy_gpt2, toy_llama, toy_mistral, toy_qwen2, toy_roberta
from toys.models import VOCABULARY, perturb, toy_batch, toy_bert, toy_distilbert
from toys.training import OPTIMIZER
from toys.zoo import toy

NUM_ROWS = 6
MICRO_BATCH_SIZE = 3
NUM_STEPS = 4
KD = {"name": "kd", "alpha": 0.7, "temperature": 10.0}
SEQUENCES, TOKENS, SPANS = "sequence_classification", "token_classification", "question_answering"
KINDS = {SEQUENCES: "classes", TOKENS: "tokens", SPANS: "spans"}
CHECKPOINTED = {"gradient_checkpointing": True}
TASKS = {SEQUENCES: "classification", TOKENS: "ner", SPANS: "qa", "masked_lm": "mlm", "causal_lm": "clm"}


@dataclass(frozen=True)
class Case:
    """A student, maybe with a teacher, and what else its training has to say."""

    save: Callable[[Path], None]
    """Writes the student's folder."""
    head: str
    kind: str
    """Of the labels: ``classes``, ``scores``, ``tokens``, ``spans`` or ``vocabulary``."""
    spec: Mapping[str, Any] = field(default_factory=dict)
    """Sections of the training beside those that all have."""
    save_teacher: Callable[[Path], None] | None = None
    teacher: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    def batch(self, rows: list[int]) -> Batch:
        """Rows of the toy batch with labels of the kind."""
        return toy_batch(rows) if self.kind == "vocabulary" else toy_labelled_batch(self.kind, rows)

    def write(self, folder: Path) -> None:
        """Both models' folders."""
        self.save(folder / "student")
        if self.save_teacher is not None:
            self.save_teacher(folder / "teacher")

    def train_spec(
        self, folder: Path, corpora: Path, *, zero_stage: int, num_workers: int, placement: str
    ) -> TrainSpec:
        """The training of what ``write`` wrote."""
        corpus = str(corpora / ("classes" if self.kind in ("classes", "tokens") else "none"))
        teacher = {"folder": str(folder / "teacher"), "placement": placement, **self.teacher}
        return TrainSpec.model_validate(
            {
                "name": "toy",
                "corpus": corpus,
                "validation": corpus,
                "student": str(folder / "student"),
                "freeze_position_embeddings": True,
                "teachers": [] if self.save_teacher is None else [teacher],
                "task": {"name": TASKS[self.head], **({"metrics": ["pearson"]} if self.kind == "scores" else {})},
                "method": {"name": "finetune"} if self.save_teacher is None else KD,
                "training": {
                    "max_steps": NUM_STEPS,
                    "batch_size": NUM_ROWS,
                    "micro_batch_size": MICRO_BATCH_SIZE,
                    "dropout": 0.0,
                    "zero_stage": zero_stage,
                    "precision": "fp32",
                    **self.training,
                },
                "optimizer": OPTIMIZER,
                "scaling": {"num_workers": num_workers},
                "seed": 7,
                **self.spec,
            }
        )


def write_corpora(folder: Path) -> None:
    """Corpora that name classes or none; their rows are not read."""
    for name, labels in (("classes", list(CLASSES)), ("none", [])):
        write_corpus(folder / name, random_rows(4), encoding={"name": "classification", "labels": labels})


def write_large(folder: Path) -> None:
    """A Llama of 67 MB, of which no weight is more than 1/16."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=8,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def _save(make: Callable[..., nn.Module], folder: Path, **options: Any) -> None:
    save_model(make(2, dtype=torch.float32, **options).eval(), toy_tokenizer(), folder)


def _language(make: Callable[..., nn.Module], head: str, **spec: Any) -> Case:
    return Case(partial(_save, make), head, "vocabulary", spec)


def _classifier(make: Callable[..., nn.Module], head: str = SEQUENCES, **options: Any) -> Case:
    kind = KINDS[head] if options.get("labels", CLASSES) else "scores"
    return Case(partial(_save, partial(toy_classifier, make, head=head, **options)), head, kind)


def _random(teacher: Callable[..., Any], num_layers: int, **options: Any) -> nn.Module:
    """What ``init: random`` makes of a teacher; of BERT a DistilBERT with sinusoids for positions."""
    return random_student(teacher(1).config, architecture=None, num_layers=num_layers, seed=5)


def _sinusoidal(num_layers: int, *, seed: int = 1, dtype: torch.dtype, **options: Any) -> nn.Module:
    return perturb(_random(toy_bert, num_layers), seed, dtype)


def _whole(num_layers: int, *, dtype: torch.dtype) -> nn.Module:
    """A model that no family knows."""
    model: nn.Module = toy("rembert", head="masked_lm", num_hidden_layers=num_layers)
    return model.to(dtype)


def _shared(make: Callable[..., nn.Module], num_layers: int, **options: Any) -> nn.Module:
    """Blocks that run twice, the second time with query and key exchanged."""
    model: Any = make(num_layers, **options)
    layer_plan.set_plan(model.config, layer_plan.make_plan("sps", num_layers))
    return model


def _pruned(make: Callable[..., nn.Module], num_layers: int, **options: Any) -> nn.Module:
    """One head and a few neurons less in the first block, no attention at all in the last."""
    kept = KeptUnits(heads=((1,), ()), neurons=((0, 5, 7, 11, 23), tuple(range(24))))
    return pruned(make(num_layers, **options), kept)


def _taught_tokens(
    student: Callable[..., nn.Module], teacher: Callable[..., nn.Module], head: str, **more: Any
) -> Case:
    return Case(partial(_save, student), head, "vocabulary", save_teacher=partial(_save, teacher), **more)


_classes = partial(toy_classifier, toy_bert, seed=3)


def _save_published(folder: Path) -> None:
    """A BERT under the names of StarK's published classifiers, with its three classes unnamed."""
    model: Any = _classes(2, labels=CLASSES, dtype=torch.float32)
    config, tensors = model.config, model.state_dict()
    names = {"bert.pooler.dense": "cls.0", "classifier": "cls.3"}
    for new, old in names.items():
        for part in ("weight", "bias"):
            tensors[f"{old}.{part}"] = tensors.pop(f"{new}.{part}")
    config.id2label = {number: f"LABEL_{number}" for number in range(len(CLASSES))}
    config.save_pretrained(folder)
    save_file(tensors, folder / "model.safetensors")


def _in_bfloat16(folder: Path) -> None:
    model = toy_classifier(toy_bert, 2, labels=CLASSES, seed=3, dtype=torch.float32).eval()
    save_model(model.bfloat16(), toy_tokenizer(), folder)


ENCODERS = {"bert": toy_bert, "distilbert": toy_distilbert, "sinusoidal": _sinusoidal, "roberta": toy_roberta}
DECODERS = {"gpt2": toy_gpt2, "llama": toy_llama, "mistral": toy_mistral, "qwen2": toy_qwen2}

STUDENTS: dict[str, Case] = {
    **{f"{name} vocabulary": _language(make, "masked_lm") for name, make in ENCODERS.items()},
    **{f"{name} vocabulary": _language(make, "causal_lm") for name, make in DECODERS.items()},
    **{f"{name} classes": _classifier(make) for name, make in {**ENCODERS, **DECODERS}.items()},
    **{f"{make.__name__} tokens": _classifier(make, TOKENS) for make in MASKED},
    **{f"{make.__name__} spans": _classifier(make, SPANS) for make in MASKED},
    "scores": _classifier(toy_bert, labels=()),
    "random distilbert": _language(partial(_random, toy_bert), "masked_lm"),
    "random llama": _language(partial(_random, toy_llama), "causal_lm"),
    "classes in another order": _classifier(toy_roberta, labels=CLASSES[::-1]),
    "pruned": Case(partial(_save, partial(_pruned, partial(toy_classifier, toy_bert))), SEQUENCES, "classes"),
    "layer plan": _language(partial(_shared, _sinusoidal), "masked_lm"),
    **{
        f"{name} checkpointed": Case(partial(_save, make), head, "vocabulary", training=CHECKPOINTED)
        for name, make, head in (
            ("bert", toy_bert, "masked_lm"),
            ("llama", toy_llama, "causal_lm"),
            ("rembert", _whole, "masked_lm"),
        )
    },
    "adapters": _language(toy_llama, "causal_lm", lora={"r": 2}),
    "adapters and a head": Case(
        partial(_save, partial(toy_classifier, toy_bert)), SEQUENCES, "classes", {"lora": {"r": 2}}
    ),
    "frozen": _language(toy_bert, "masked_lm", freeze_layers=[0], freeze_embeddings=True),
}
"""Every architecture that a student can have with every head, and each way in which its folder differs from one."""
_TAUGHT = partial(Case, partial(_save, partial(toy_classifier, toy_bert)), SEQUENCES, "classes", {})
TEACHERS: dict[str, Case] = {
    "taught by a new head": _TAUGHT(partial(_save, toy_distilbert), {"head": "new"}),
    "taught by a head of other classes": _TAUGHT(
        partial(_save, partial(_classes, labels=("warm", "cold"))), {"head": "new"}
    ),
    "taught by as many other classes": _TAUGHT(
        partial(_save, partial(_classes, labels=("warm", "cold", "grey"))), {"head": "new"}
    ),
    "taught in another order": _TAUGHT(partial(_save, partial(_classes, labels=CLASSES[::-1]))),
    "taught by a pruned model": _TAUGHT(partial(_save, partial(_pruned, _classes))),
    "taught by a published model": _TAUGHT(_save_published, {"labels": list(CLASSES)}),
    "taught by half precision": _TAUGHT(_in_bfloat16),
    "taught by a teacher in a precision of its own": _TAUGHT(
        partial(_save, _classes), training={"teacher_precision": "bf16"}
    ),
    "masked tokens taught": _taught_tokens(toy_distilbert, toy_bert, "masked_lm"),
    "next tokens taught": _taught_tokens(toy_gpt2, partial(toy_gpt2, seed=3), "causal_lm"),
    "next tokens taught to adapters": _taught_tokens(
        toy_llama,
        partial(toy_llama, seed=3),
        "causal_lm",
        spec={"lora": {"r": 2}},
        training={**CHECKPOINTED, "teacher_precision": "bf16"},
    ),
}
"""Teachers whose weights are changed after they were read, or were never there."""
CASES = {**STUDENTS, **TEACHERS}


def held_numel(model: nn.Module) -> int:
    """Elements of a model's parameters that this rank holds while nothing runs."""
    return sum(
        parameter.ds_tensor.numel() if hasattr(parameter, "ds_tensor") else parameter.numel()
        for parameter in model.parameters()
    )
