"""The benchmark of a GPU's step runs where there is no GPU, with torch and transformers alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "gpu_step.py"
ALONE = f"""
import runpy, sys
sys.modules |= dict.fromkeys(("ray", "deepspeed", "mlflow", "pyarrow"))
sys.argv = ["gpu_step.py", "--toy"]
runpy.run_path({str(BENCHMARK)!r}, run_name="__main__")
"""


def test_it_prints_each_figure_and_that_none_is_of_a_gpu():
    run = subprocess.run([sys.executable, "-c", ALONE], check=True, capture_output=True, text=True, timeout=400)
    figures = {figure["name"]: figure for figure in map(json.loads, run.stdout.splitlines())}
    forms = ("published", "in_batch_shared_prefix", "masked_positions")
    kinds = ("tokens", "speedup", "share_of_peak", "attention_without_padding")
    assert set(figures) == {"gpu_step.peak", *(f"gpu_step.{form}.{kind}" for form in forms for kind in kinds)}
    assert {figure["device"] for figure in figures.values()} == {"a CPU, at toy size: no figure of a GPU"}
    for name, figure in figures.items():
        assert (figure["value"] == 0) == name.endswith("attention_without_padding")
