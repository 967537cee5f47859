"""What code and which versions made a run."""

import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import raydistill

_PACKAGES = ("torch", "ray", "transformers", "deepspeed", "mlflow")


def environment() -> dict[str, str]:
    """Tags of a run: versions, platform and, if this package lies in a git work tree, its commit."""
    tags = {f"version.{package}": _version(package) for package in _PACKAGES}
    tags["version.raydistill"] = raydistill.__version__
    tags["version.python"] = platform.python_version()
    tags["platform"] = platform.platform()
    commit = git_commit(Path(raydistill.__file__).parent)
    if commit is not None:
        tags["mlflow.source.git.commit"] = commit.removesuffix("+changes")
        tags["git_commit"] = commit
    return tags


def command() -> str:
    """The command of this process as it was typed."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


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
