"""A real MLflow server in processes of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from raydistill.tracking.quiet import mlflow_environment


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Server:
    """``mlflow server`` on a port of its own, over a SQLite file unless ``backend`` names another database."""

    def __init__(self, folder: Path, backend: str | None = None) -> None:
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        self._command += ["--backend-store-uri", backend or f"sqlite:///{folder}/server.db", "--workers", "1"]
        self._command += ["--artifacts-destination", str(folder / "artifacts")]
        self._log = (folder / "server.log").open("w")

    def start(self) -> None:
        environment = {**os.environ, **mlflow_environment(), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self._process = subprocess.Popen(
            self._command, env=environment, stdout=self._log, stderr=self._log, start_new_session=True
        )
        deadline = time.monotonic() + 120
        while not self._answers():
            waits = self._process.poll() is None and time.monotonic() < deadline
            assert waits, Path(self._log.name).read_text()
            time.sleep(0.1)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to every process of the server."""
        os.killpg(self._process.pid, number)

    def kill(self) -> None:
        """End every process of the server."""
        self.signal(signal.SIGKILL)
        self._process.wait()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False
