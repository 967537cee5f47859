"""What code, versions, machine and command made a run."""

import hashlib
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path

import raydistill
from raydistill.credentials import is_secret, without_secrets
from raydistill.machine import memory_bytes, physical_cores

_PACKAGES = (
    *("torch", "transformers", "tokenizers", "safetensors", "deepspeed"),
    *("ray", "mlflow", "datasets", "pyarrow", "numpy", "pydantic"),
)


def environment() -> dict[str, str]:
    """Tags of a run: versions, machine and, if this package lies in a git work tree, its commit.

    ``packages`` is a hash of ``package_list``, equal where all installed versions are. The machine is this process's.
    """
    tags = {f"version.{package}": _version(package) for package in _PACKAGES}
    tags["version.raydistill"] = raydistill.__version__
    tags["version.python"] = platform.python_version()
    tags["packages"] = hashlib.sha256(package_list().encode()).hexdigest()[:16]
    tags["platform"] = platform.platform()
    tags |= _machine()
    commit = git_commit(Path(raydistill.__file__).parent)
    if commit is not None:
        tags["mlflow.source.git.commit"] = commit.removesuffix("+changes")
        tags["git_commit"] = commit
    return tags


def package_list() -> str:
    """Every installed distribution with its version, one a line, sorted."""
    found = {f"{entry.metadata['Name'].lower()}=={entry.version}" for entry in distributions()}
    return "\n".join(sorted(found)) + "\n"


def command(arguments: Sequence[str] | None = None) -> str:
    """The command line of this process (or ``arguments``), quoted for a shell, with passwords as stars.

    The program goes by its name. A run repeats with it in the same working directory and environment.
    """
    program, *rest = sys.argv if arguments is None else arguments
    return shlex.join([Path(program).name, *map(_redacted, rest)])


def repeat_command(resolved: Path) -> str:
    """What makes a job again from its own copy of the resolved job."""
    return f"raydistill run {shlex.quote(str(resolved))} storage=NEW_FOLDER"


def _redacted(argument: str) -> str:
    key, equals, value = argument.partition("=")
    if equals and value and is_secret(key):
        return f"{key}=***"
    return f"{key}{equals}{without_secrets(value)}" if "://" in value else without_secrets(argument)


def _machine() -> dict[str, str]:
    tags = {"cpu": _cpu(), "cpu_cores": str(physical_cores()), "memory_gib": f"{memory_bytes() / 2**30:.1f}"}
    gpus = _gpus()
    if gpus:
        tags["gpu"] = ", ".join(gpus)
    return tags


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _gpus() -> list[str]:
    cuda = import_module("torch").cuda
    return [cuda.get_device_name(index) for index in range(cuda.device_count())]


def git_commit(folder: Path) -> str | None:
    """Commit of the work tree that tracks ``folder``, ``+changes`` behind it when tracked files differ from it.

    None when git is missing or does not track the folder, as for an installed package.
    """
    if not _git(folder, "ls-files", "."):
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return None
    return f"{commit}+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no") else commit


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=30)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
