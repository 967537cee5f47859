"""Give a version of a student an alias such as ``champion`` if it passes its gate and loads where users need it."""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from raydistill.environment import quiet_variables
from raydistill.registry.client import Registry
from raydistill.registry.gate import figures_told, unmet
from raydistill.registry.reference import check_alias
from raydistill.registry.student import LICENSE_TAG, StudentVersion
from raydistill.user_error import UserError

PROMOTED, FORCED = "promoted", "forced"
"""Tags, each followed by ``.<alias>``: when a version got the alias, and which checks a forced one failed."""
_CODE = (".py", ".so", ".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_CONFIGURATIONS = ("config.json", "tokenizer_config.json")
_TIMEOUT_S = 600
# Exits with one line on standard error when a check fails.
_RELOAD = """
import sys
sys.modules["raydistill"] = None
import torch, transformers
transformers.utils.logging.set_verbosity_error()
folder, here = sys.argv[1], {"local_files_only": True, "trust_remote_code": False}
named = (transformers.AutoConfig.from_pretrained(folder, **here).architectures or ["none"])[0]
if not hasattr(transformers, named):
    sys.exit(f"transformers has no {named}")
model, found = getattr(transformers, named).from_pretrained(
    folder, use_safetensors=True, output_loading_info=True, **here
)
if found["missing_keys"]:
    sys.exit(f"its weights lack {sorted(found['missing_keys'])[0]}")
ids = transformers.AutoTokenizer.from_pretrained(folder, **here)("a few words", return_tensors="pt")["input_ids"]
if ids.numel() == 0:
    sys.exit("its tokenizer knows no word")
with torch.no_grad():
    answer = model.float().eval()(input_ids=ids)[0]
if not torch.isfinite(answer).all():
    sys.exit("its answers are not finite")
"""


@dataclass(frozen=True)
class Promotion:
    """The result of a promotion: ``failed`` has the checks that refused it, or that it was forced past."""

    name: str
    version: int
    alias: str
    promoted: bool
    failed: tuple[str, ...]
    previous: int | None
    """The version that had the alias before, None for a new alias."""
    notes: tuple[str, ...] = ()


def promote(registry: Registry, version: StudentVersion, alias: str, *, force: bool = False) -> Promotion:
    """Point an alias to a version that passes its gate, reloads with plain transformers and states a license.

    If a check fails, the alias stays where it is, unless ``force`` is set; then a tag of the version has the failures.
    Raises ValueError for an alias that no registry takes.
    """
    check_alias(alias)
    holder = registry.holder(version.name, alias)
    failed = [*unmet(version, holder), *_license(version)]
    with tempfile.TemporaryDirectory() as temporary:
        failed += not_plain(registry, version, Path(temporary))
    allowed = force or not failed
    if allowed:
        if failed:
            # Before the alias, so that whoever follows it finds the record.
            registry.set_tag(version, f"{FORCED}.{alias}", json.dumps(failed))
        registry.set_tag(version, f"{PROMOTED}.{alias}", time.strftime("%Y-%m-%dT%H:%M:%S%z"))
        registry.set_alias(version, alias)
    previous = None if holder is None else holder.number
    return Promotion(
        version.name, version.number, alias, allowed, tuple(failed), previous, tuple(_notes(version, holder))
    )


def not_plain(registry: Registry, version: StudentVersion, target: Path) -> list[str]:
    """Why a version does not load from safetensors with transformers alone; it is downloaded below ``target``."""
    try:
        folder = registry.download(version, target)
    except UserError as error:
        return [str(error)]
    return [*outside_code(folder), *_reload(folder)]


def outside_code(folder: Path) -> list[str]:
    """A line for each file of a checkpoint folder that can hold code, and each configuration that points to code."""
    files = sorted(path.name for path in folder.rglob("*") if path.suffix in _CODE)
    found = [f"{name} can hold code; keep weights as safetensors and no code" for name in files]
    for name in _CONFIGURATIONS:
        path = folder / name
        if path.is_file() and "auto_map" in json.loads(path.read_text(encoding="utf-8")):
            found.append(f"{name} has auto_map, which loads code from outside; remove it")
    return found


def _reload(folder: Path) -> list[str]:
    """Load it in a process where this package is missing, as its users do."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _RELOAD, str(folder)],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
            env={**os.environ, **quiet_variables(), "HF_HUB_OFFLINE": "1"},
        )
    except subprocess.TimeoutExpired:
        return [f"it does not load with plain transformers in {_TIMEOUT_S} s"]
    if done.returncode == 0:
        return []
    why = (done.stderr.strip().splitlines() or ["no answer"])[-1]
    return [f"it does not load with plain transformers: {why}"]


def _license(version: StudentVersion) -> list[str]:
    if version.tags.get(LICENSE_TAG, "").strip():
        return []
    return ["no license is stated; set license in the register stage"]


def _notes(version: StudentVersion, holder: StudentVersion | None) -> list[str]:
    """What does not refuse a version but is worth knowing, its figures first."""
    found = figures_told(version, holder)
    if version.gate is None:
        return [*found, "its job sets no gate, so no figure could refuse it"]
    corpora = [None if one is None else one.tags.get("corpus_hash") for one in (version, holder)]
    if None not in corpora and corpora[0] != corpora[1] and holder is not None:
        found.append(f"{holder.title} was made from another corpus, so its figures may be of other rows")
    return found
