"""Peak memory of one causal step, forward and backward pass, as a share of the six-pass reference's.

Each runs in a process of its own. The figure is of the whole process's resident memory beyond what it held before the
step, models included in that; the second one counts models and libraries in. Takes about a minute.
"""

import json
import resource
import subprocess
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from reference.workload import PUBLISHED, make_models, our_step, reference_step

BOUND = 0.5
MIB = 2**20


def resident() -> int:
    """Largest resident memory of this process so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run_step(which: str) -> None:
    """Print the resident memory before and after one step."""
    torch.set_num_threads(2)
    teacher, student = make_models()
    step = our_step(PUBLISHED, teacher, student, 0) if which == "ours" else reference_step(teacher, student, 0)
    # Gradients stay from step to step in a training, so they are no part of what a step adds.
    for parameter in student.parameters():
        parameter.grad = torch.zeros_like(parameter).add_(0)
    before = resident()
    step().backward()
    print(json.dumps({"before": before, "after": resident()}))  # noqa: T201


def measured(which: str) -> dict[str, int]:
    """Memory of one step in a fresh process."""
    done = subprocess.run([sys.executable, __file__, which], check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Print the figures."""
    ours, theirs = measured("ours"), measured("reference")
    added = [of["after"] - of["before"] for of in (ours, theirs)]
    for name, (mine, other) in {"step": added, "process": (ours["after"], theirs["after"])}.items():
        value = mine / other
        figure = {"name": f"causal_step.memory_{name}", "value": round(value, 3), "unit": "of the reference's"}
        detail = {"mib": round(mine / MIB), "reference_mib": round(other / MIB)}
        print(json.dumps({**figure, "bound": BOUND, "met": value <= BOUND, **detail}))  # noqa: T201


if __name__ == "__main__":
    if len(sys.argv) > 1:
        run_step(sys.argv[1])
    else:
        main()
