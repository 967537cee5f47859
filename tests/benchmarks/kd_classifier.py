"""Knowledge distillation of a classifier against transformers' Trainer with the same formulas.

MiniLM (6 blocks, 384 wide) to 2 of its blocks on 10,000 movie sentences, both those of ``jobs/kd_sentiment.yaml`` and
from the package index, one epoch in batches of 32. The Trainer pads a batch to its longest row, groups rows by length,
runs the teacher in each step and takes its own default optimizer, the fused AdamW. Ours is the training loop with its
engine, and builds its batches in the same thread: ``live`` runs the teacher in each step; ``stored`` reads its logits,
whose capture is a figure apart. ``fp32`` computes as the Trainer does; ``auto`` in what ``precision: auto`` measures to
be fast on this machine.

Each side has a process and one thread, the job's own setting. After every few steps of the Trainer each of ours takes
as many while it waits, so what slows the machine slows all of them; a ratio is one of sums over the epoch. Seconds are
those of the processor, which programs beside it lengthen least; ``wall`` has the ratio by the clock on the wall. That
the first loss is the same is checked before. Takes about ten minutes on an idle machine; ``--rows 2000`` a fifth.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import Mock

os.environ.update(TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")

import torch
import torch.distributed as dist
import yaml
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, Trainer, TrainingArguments
from transformers.trainer_callback import TrainerCallback

sys.path.insert(0, str(Path(__file__).parents[1]))

from raydistill.batch import Batch
from raydistill.computing import compute_with
from raydistill.config.named import SourceSpec
from raydistill.config.sections import ModelRef
from raydistill.data.stored_outputs import StoredOutputs
from raydistill.data.stream import FeedSpec, steps_of, work_items
from raydistill.models.layer_selection import student_from_layers
from raydistill.models.load import load_model, load_tokenizer, save_model
from raydistill.stages._models import resolve
from raydistill.tasks import classification
from raydistill.tracking.tracker import NullTracker
from raydistill.training.ahead import Ahead
from raydistill.training.assembly import build_engine
from raydistill.training.engine import prepare_environment
from raydistill.training.precision import Shape, choose
from raydistill.training.spec import TrainSpec
from raydistill.training.worker import Loop
from toys.corpus import write_corpus
from toys.stored_logits import stored_logits

JOB = Path(__file__).parents[2] / "jobs" / "kd_sentiment.yaml"
LABELS = ("negative", "positive")
LAYERS = [0, 3]
BATCH, WIDTH, THREADS, PIECE, WARM = 32, 64, 1, 10, 3
ALPHA, TEMPERATURE, RATE = 0.7, 4.0, 1e-4
BOUNDS = {"live": 1.5, "stored": 3.0}
TASK = {"name": "classification"}


class Seconds:
    """Of the processor and by the clock on the wall, in blocks of code."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start anew."""
        self.cpu = self.wall = 0.0

    def start(self) -> None:
        """A block begins."""
        self._started = time.process_time(), time.perf_counter()

    def add(self, other: "Seconds") -> None:
        """Count those of others too."""
        self.cpu += other.cpu
        self.wall += other.wall

    def stop(self) -> None:
        """A block ends."""
        self.cpu += time.process_time() - self._started[0]
        self.wall += time.perf_counter() - self._started[1]


class Inputs(NamedTuple):
    """What both sides read."""

    folder: Path
    rows: list[dict[str, Any]]
    """Ids and label of each, as transformers' collator takes them."""
    tokenizer: Any
    max_length: int


def write_inputs(folder: Path, num_rows: int) -> Inputs:
    """A corpus, a teacher that has seen no label, and a student of its blocks."""
    stage = yaml.safe_load(JOB.read_text(encoding="utf-8"))["stages"]["corpus"]
    checkpoint = resolve(ModelRef(**stage["tokenizer"]), {})
    tokenizer = load_tokenizer(checkpoint)
    source = SourceSpec.parse(stage["source"])
    examples = [example for item in source.items() for example in source.read(item)][:num_rows]
    assert len(examples) == num_rows, f"the source has {len(examples)} rows"
    cut = classification.cut(examples, tokenizer, classification.EncodeConfig(labels=LABELS, max_length=WIDTH))
    write_corpus(
        folder / "corpus",
        [row.ids for row in cut],
        rows_per_shard=num_rows,
        vocabulary=len(tokenizer),
        encoding={"name": "classification", "labels": list(LABELS)},
        columns=classification.columns(classification.EncodeConfig(labels=LABELS)),
        values=[row.values for row in cut],
    )
    teacher = load_model(checkpoint, head="sequence_classification", labels=LABELS, allow_new_head=True)
    save_model(teacher, tokenizer, folder / "teacher")
    save_model(student_from_layers(teacher, layers=LAYERS), tokenizer, folder / "student")
    rows = [{"input_ids": row.ids.tolist(), "labels": row.values["label"]} for row in cut]
    return Inputs(folder, rows, tokenizer, max(len(row.ids) for row in cut))


def capture(inputs: Inputs, precision: str) -> tuple[StoredOutputs, float]:
    """The teacher's logits, without Ray, and the seconds that they took."""
    seconds = Seconds()
    seconds.start()
    folder = inputs.folder
    stored = stored_logits(
        folder / "corpus",
        folder / "teacher",
        folder / f"stored-{precision}",
        labels=LABELS,
        batch_size=BATCH,
        precision=precision,
    )
    seconds.stop()
    return stored, seconds.cpu


def make_spec(inputs: Inputs, num_steps: int, precision: str, stored: StoredOutputs | None) -> TrainSpec:
    """Our training: the job's method, the Trainer's optimizer."""
    return TrainSpec.model_validate(
        {
            "name": "kd",
            "corpus": str(inputs.folder / "corpus"),
            "validation": str(inputs.folder / "corpus"),
            "student": str(inputs.folder / "student"),
            "freeze_position_embeddings": False,
            "teachers": [] if stored else [{"folder": str(inputs.folder / "teacher")}],
            "stored": stored,
            "validation_stored": stored,
            "task": TASK,
            "method": {"name": "kd", "alpha": ALPHA, "temperature": TEMPERATURE},
            "training": {
                "max_steps": num_steps,
                "batch_size": BATCH,
                "micro_batch_size": BATCH,
                "eval_steps": num_steps,
                "precision": precision,
            },
            "optimizer": {"learning_rate": RATE, "schedule": "linear", "warmup_proportion": 0.0},
            "scaling": {},
            "seed": 1,
        }
    )


class Ours:
    """A training of ours that is taken some steps further at a time."""

    def __init__(self, inputs: Inputs, num_steps: int, precision: str, stored: StoredOutputs | None) -> None:
        spec = make_spec(inputs, num_steps, precision, stored)
        self._engine = build_engine(spec, num_workers=1, device=torch.device("cpu"))
        config = {"output": str(inputs.folder / "out"), "tracker": NullTracker(), "run_key": "", "board": Mock()}
        self._loop = Loop(spec, self._engine, config, rank=0, num_workers=1, session=Mock())
        self._ahead = Ahead(_steps(self._loop.feed_spec, num_steps), self._engine.device, None)

    def advance(self, num_steps: int) -> Seconds:
        """Take some steps."""
        seconds = Seconds()
        seconds.start()
        for _ in range(num_steps):
            self._loop._one_step(self._ahead.take())
        seconds.stop()
        return seconds

    def first(self) -> tuple[list[int], float]:
        """The rows of the epoch's first batch and their loss without dropout."""
        batches = next(_steps(self._loop.feed_spec, 1))
        counts = [self._engine.distiller.denominators(batch) for batch in batches]
        totals, _ = self._engine.evaluate(batches, counts, lambda _student, _batch: {})
        return batches[0]["row_id"].tolist(), float(totals["loss"])


class Side(NamedTuple):
    """Whether teacher outputs are stored, and what is computed in."""

    stored: bool
    precision: str


def serve(connection: Any, inputs: Inputs, num_steps: int, sides: Mapping[str, Side]) -> None:
    """The process of ours: tell of captures and first losses, then take steps as it is told to."""
    prepare_environment(use_gpu=False)
    compute_with(THREADS)
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    captures = {precision: capture(inputs, precision) for precision in {side.precision for side in sides.values()}}
    ours = {
        name: Ours(inputs, num_steps, side.precision, captures[side.precision][0] if side.stored else None)
        for name, side in sides.items()
    }
    connection.send({precision: seconds for precision, (_, seconds) in captures.items()})
    connection.send({name: one.first() for name, one in ours.items()})
    while (num_steps := connection.recv()) > 0:
        connection.send({name: one.advance(num_steps) for name, one in ours.items()})


def _steps(spec: FeedSpec, num_steps: int) -> Iterator[list[Batch]]:
    """The micro-batches of each step, built as they are asked for."""
    items = work_items(spec.plan(), spec, world_size=1, start_step=0, stop_step=num_steps)
    for item in items:
        for _, batches in steps_of(spec, item["start"], item["stop"], rank=0, world_size=1):
            yield batches


class PlainTrainer(Trainer):
    """Knowledge distillation as it is commonly written for transformers' Trainer."""

    def __init__(self, teacher: nn.Module, **options: Any) -> None:
        super().__init__(**options)
        self.teacher = teacher

    def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], *_: Any, **__: Any) -> Tensor:
        """Hinton et al. 2015: soft and true labels."""
        labels = inputs.pop("labels")
        with torch.no_grad():
            taught = self.teacher(**inputs).logits
        logits = model(**inputs).logits
        soft = kl_div(log_softmax(logits / TEMPERATURE, -1), softmax(taught / TEMPERATURE, -1), reduction="batchmean")
        return ALPHA * TEMPERATURE**2 * soft + (1 - ALPHA) * cross_entropy(logits, labels)


class Interleaved(TrainerCallback):
    """Lets ours go as far as the Trainer has, every few steps, and counts its seconds without theirs."""

    def __init__(self, connection: Any) -> None:
        self.seconds, self.ours = Seconds(), dict[str, Seconds]()
        self._connection, self._steps = connection, 0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Its clock starts."""
        self.seconds.start()

    def on_step_end(self, _arguments: Any, state: Any, *_: Any, **__: Any) -> None:
        """A piece may end here; of the first, in which buffers are allocated, no seconds count."""
        if state.global_step == WARM:
            self._turn(WARM)
            self.seconds.reset()
            self.ours = {}
        elif (state.global_step - WARM) % PIECE == 0 or state.global_step == state.max_steps:
            self._turn(state.global_step - self._steps)

    def _turn(self, num_steps: int) -> None:
        self.seconds.stop()
        self._steps += num_steps
        self._connection.send(num_steps)
        for name, seconds in self._connection.recv().items():
            self.ours.setdefault(name, Seconds()).add(seconds)
        self.seconds.start()


def make_trainer(inputs: Inputs, clock: Interleaved) -> PlainTrainer:
    """The peer, on the same rows and from the same weights."""
    models = [
        AutoModelForSequenceClassification.from_pretrained(inputs.folder / name) for name in ("teacher", "student")
    ]
    arguments = TrainingArguments(
        output_dir=str(inputs.folder / "trainer"),
        per_device_train_batch_size=BATCH,
        num_train_epochs=1,
        train_sampling_strategy="group_by_length",
        learning_rate=RATE,
        use_cpu=True,
        dataloader_pin_memory=False,
        logging_steps=10,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    return PlainTrainer(
        models[0].eval(),
        model=models[1],
        args=arguments,
        train_dataset=inputs.rows,
        data_collator=DataCollatorWithPadding(inputs.tokenizer),
        callbacks=[clock],
    )


def check_losses(inputs: Inputs, trainer: PlainTrainer, ours: Mapping[str, tuple[list[int], float]]) -> None:
    """Assert that all compute the same loss of the same rows, in float32 to its rounding."""
    trainer.model.eval()
    for name, (rows, found) in ours.items():
        batch = trainer.data_collator([inputs.rows[row] for row in rows])
        with torch.no_grad():
            expected = float(trainer.compute_loss(trainer.model, dict(batch)))
        tolerance = 1e-5 if name.endswith("fp32") else 2e-2
        assert abs(found - expected) < tolerance * expected, (name, found, expected)


def report(name: str, value: float, unit: str, *, bound: float | None = None) -> None:
    """Print a figure."""
    met = None if bound is None else value >= bound
    figure = {"name": f"kd_classifier.{name}", "value": round(value, 3), "unit": unit, "bound": bound, "met": met}
    print(json.dumps(figure), flush=True)  # noqa: T201


def chosen(inputs: Inputs) -> str:
    """What ``precision: auto`` comes to here."""
    shape = Shape(rows=BATCH, tokens=inputs.max_length, hidden=384, intermediate=1536, heads=12, blocks=len(LAYERS))
    return choose(shape, num_threads=THREADS).precision


def measure(inputs: Inputs) -> None:
    """Train all and print the figures."""
    auto = chosen(inputs)
    sides = {
        f"{kind}.{name}": Side(kind == "stored", precision)
        for name, precision in {"fp32": "fp32", "auto": auto}.items()
        for kind in BOUNDS
    }
    # One step more than are taken: at the last one a training evaluates and saves.
    num_steps = -(-len(inputs.rows) // BATCH) + 1
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(there, inputs, num_steps, sides))
    process.start()
    captures, first = here.recv(), here.recv()
    clock = Interleaved(here)
    trainer = make_trainer(inputs, clock)
    check_losses(inputs, trainer, first)
    trainer.train()
    here.send(0)
    process.join()
    tell(clock, captures, auto)


def tell(clock: Interleaved, captures: Mapping[str, float], auto: str) -> None:
    """Print the figures."""
    report("trainer", clock.seconds.cpu, "s")
    for name, seconds in clock.ours.items():
        kind, _, precision = name.partition(".")
        bound = BOUNDS[kind] if precision == "auto" else None
        label = f"{name}.{auto}" if precision == "auto" else name
        report(label, seconds.cpu, "s")
        report(f"speed_of_trainer.{label}", clock.seconds.cpu / seconds.cpu, "x", bound=bound)
        report(f"speed_of_trainer.{label}.wall", clock.seconds.wall / seconds.wall, "x")
    for precision, captured in captures.items():
        report(f"capture.{precision}", captured, "s")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000)
    rows = parser.parse_args().rows
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as folder:
        measure(write_inputs(Path(folder), rows))


if __name__ == "__main__":
    main()
