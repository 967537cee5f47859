"""A process as a terminal starts it."""

import os
import signal
import subprocess
import sys
from pathlib import Path


def hear_ctrl_c() -> None:
    """As ``preexec_fn``: what a shell starts in the background, and a process of pytest-xdist, ignores Ctrl-C.

    All that such a process starts would ignore it, too.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start_raydistill(*arguments: str, output: Path, errors: Path | None = None) -> subprocess.Popen[bytes]:
    """Start a command in a process group of its own; both streams are added to ``output`` where ``errors`` is None."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    environment.pop("RAY_ADDRESS", None)
    with output.open("ab") as out, (errors or output).open("ab") as err:
        return subprocess.Popen(
            [sys.executable, "-m", "raydistill", *arguments],
            stdout=out,
            stderr=err,
            env=environment,
            start_new_session=True,
            preexec_fn=hear_ctrl_c,
        )
