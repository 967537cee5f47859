"""What a scoring of heads and neurons has summed so far, in a file, so that an interrupted one goes on after it."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from raydistill.models.importance import ScoreSums

_FILE = "progress.safetensors"


class ScoringProgress:
    """The sums of the blocks that are done, exactly as they were in memory; replaced in one step after each block."""

    def __init__(self, folder: Path, identity: Any) -> None:
        """``identity``: what the sums depend on, for JSON; sums of anything else that lie in ``folder`` are ignored."""
        self._path = folder / _FILE
        self._identity = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def read(self, kinds: Iterable[str], *, score_batch_size: int | None) -> tuple[int, dict[str, ScoreSums]]:
        """How many blocks are done and their sums by kind; 0 and empty sums where there is no whole file of them."""
        found: dict[str, dict[str, Tensor]] = {kind: {} for kind in kinds}
        num_blocks = 0
        try:
            with safe_open(self._path, framework="pt") as file:
                facts = file.metadata() or {}
                if facts.get("identity") == self._identity:
                    num_blocks = int(facts["blocks"])
                    for name in file.keys():  # noqa: SIM118
                        kind, _, rest = name.partition("/")
                        found[kind][rest] = file.get_tensor(name)
        except (FileNotFoundError, SafetensorError):
            pass
        return num_blocks, {
            kind: ScoreSums.of_tensors(tensors, score_batch_size=score_batch_size) for kind, tensors in found.items()
        }

    def write(self, num_blocks: int, sums: Mapping[str, ScoreSums]) -> None:
        """Keep the sums of the first blocks in place of what is there."""
        tensors = {f"{kind}/{name}": tensor for kind, one in sums.items() for name, tensor in one.tensors().items()}
        temporary = self._path.with_name(f".{_FILE}")
        temporary.write_bytes(save(tensors, metadata={"identity": self._identity, "blocks": str(num_blocks)}))
        temporary.replace(self._path)

    def remove(self) -> None:
        """Take the file away once the scores are written."""
        self._path.unlink(missing_ok=True)
