"""The Trainer adapter in two processes of torchrun: the losses and weights of one process with the same rows."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

SCRIPT = """
import json, os, sys
import raydistill as rd
from toys.classifiers import CLASSIFIERS
from toys.trainer import logged, trainer_of

folder, rows, accumulated = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
make = CLASSIFIERS["bert_classes"]
changes = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": accumulated}
if accumulated == 1:
    changes["ddp_backend"] = "gloo"
trainer = trainer_of(
    folder, rd.DFA(), make(1), [make(2), make(3)], head="sequence_classification", changes=changes
)
trainer.train()
trainer.save_model(folder)
if trainer.is_world_process_zero():
    with open(folder + "/losses.json", "w") as file:
        json.dump(logged(trainer, ["loss", "kd", "align"]), file)
# An interpreter that ends while a thread of gloo drops a tensor is aborted, so this one ends without.
trainer.accelerator.wait_for_everyone()
os._exit(0)
"""


def run(folder, command, *arguments):
    script = folder / "script.py"
    script.write_text(SCRIPT)
    tests = Path(__file__).parents[2]
    environment = {
        "PYTHONPATH": f"{tests}:{tests.parent / 'platform'}",
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
    }
    done = subprocess.run(
        [sys.executable, *command, str(script), str(folder), *map(str, arguments)],
        env=environment | {"PATH": "/usr/bin:/bin", "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "losses.json").read_text()), load_file(folder / "model.safetensors")


def test_two_processes_train_as_one_with_the_same_rows(tmp_path):
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    # Six rows: a step of two micro-batches of three, or of a micro-batch of three in each process.
    expected, weights = run(folders[0], [], 3, 2)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    found, others = run(folders[1], torchrun, 3, 1)
    assert len(found) == len(expected) == 2
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-6)
    torch.testing.assert_close(others, weights, rtol=0, atol=1e-9)
