"""The notebooks run from the first cell to the last, and have what their cells print."""

import json
import os
import subprocess
import sys

import pytest

from toys.pages import NOTEBOOKS, ROOT, cells


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook, tmp_path):
    script = tmp_path / "cells.py"
    script.write_text("\n".join(cells(notebook)), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "platform"), "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_cell_that_prints_has_what_it_printed(notebook):
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            assert bool(cell["outputs"]) >= any(line.startswith("print(") for line in cell["source"]), cell["source"]
