"""What a rank of the sharding tests runs; as a process of its own it joins a group of two without Ray."""

import ctypes
import gc
import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from raydistill.models.load import load_model
from raydistill.training.assembly import build_engine
from raydistill.training.checkpoint import write_student
from raydistill.training.deepspeed_config import deepspeed_config
from raydistill.training.engine import Engine, prepare_environment, shard
from toys.shardable import CASES, MICRO_BATCH_SIZE, NUM_ROWS, NUM_STEPS, Case, held_numel


def digest(model: nn.Module) -> str:
    """One hash of the names, types and bits of a model's parameters, gathered, and of its buffers."""
    import deepspeed

    tensors: Mapping[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    found = hashlib.sha256()
    with deepspeed.zero.GatheredParameters(list(model.parameters())):
        for name, tensor in sorted(tensors.items()):
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {tensor.requires_grad}".encode())
            found.update(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def losses(engine: Engine, case: Case, start: int, stop: int) -> list[float]:
    """Train on the case's batch from step ``start`` to ``stop``; returns the loss of all ranks at each step."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    rows = list(range(NUM_ROWS))
    counts = engine.distiller.denominators(case.batch(rows))
    own = rows[rank * NUM_ROWS // world_size : (rank + 1) * NUM_ROWS // world_size]
    batches = [case.batch(own[first : first + MICRO_BATCH_SIZE]) for first in range(0, len(own), MICRO_BATCH_SIZE)]
    found = []
    for step in range(start, stop):
        totals = engine.step(batches, [counts] * len(batches), learning_rate=0.02 / (1 + step))
        loss = totals["loss"].clone()
        dist.all_reduce(loss)
        found.append(loss.item())
    return found


def run_one(folder: Path, case: Case, setting: Mapping[str, Any]) -> dict[str, Any]:
    """Load the models of a case at a ZeRO stage and train them.

    ``load`` names the state to start from, ``stop`` the step to end at and ``save`` where to leave the state;
    ``student`` names a folder for the student.
    """
    num_workers, start = dist.get_world_size(), 0
    spec = case.train_spec(
        folder,
        folder.parent / "corpora",
        zero_stage=setting["stage"],
        num_workers=num_workers,
        placement=setting.get("placement", "replicate"),
    )
    engine = build_engine(spec, num_workers=num_workers, device=torch.device("cpu"))
    models = [engine.distiller.student, *engine.distiller.teachers]
    seen: dict[str, Any] = {"loaded": list(map(digest, models)), "held": list(map(held_numel, models))}
    if "load" in setting:
        start = engine.load(folder / setting["load"])["step"]
    stop = setting.get("stop", NUM_STEPS)
    seen |= {"start": start, "losses": losses(engine, case, start, stop)}
    if "save" in setting:
        (folder / setting["save"]).mkdir(exist_ok=True)
        dist.barrier()
        engine.save(folder / setting["save"], {"step": stop})
        dist.barrier()
    if "student" in setting:
        write_student(engine, spec.student, folder / setting["student"], head=case.head, lora=spec.lora)
    engine.close()
    return seen


def memory_of_loading(folder: Path) -> dict[str, int]:
    """Bytes that a causal model's weights are, and that this process itself holds once they are loaded, then shared."""
    config = deepspeed_config(zero_stage=3, precision="fp32", num_micro_batches=1, max_grad_norm=1.0)
    # The first model that is shared brings in modules and buffers, which are no weights.
    shard(torch.nn.Linear(64, 64), config, dtype=torch.float32, device=torch.device("cpu"))
    before = _anonymous_bytes()
    model = load_model(folder, head="causal_lm")
    seen = {"whole": sum(4 * p.numel() for p in model.parameters()), "loaded": _anonymous_bytes() - before}
    shard(model, config, dtype=torch.float32, device=torch.device("cpu"))
    return seen | {"shared": _anonymous_bytes() - before}


def _anonymous_bytes() -> int:
    """Memory of this process that is no file's, without what is freed and kept for later."""
    ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def run_plan(folder: Path, plan: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What was seen of every setting of every case, in the order of the plan."""
    # DeepSpeed collects garbage whenever it is started, which takes longer than a toy training.
    gc.freeze()
    try:
        return {
            name: {key: run_one(folder / name, CASES[name], setting) for key, setting in settings.items()}
            for name, settings in plan.items()
        }
    finally:
        gc.unfreeze()


def main(folder: Path, rank: int, world_size: int) -> None:
    """Run ``plan.json`` and write what this rank saw beside it."""
    torch.set_num_threads(1)
    prepare_environment(use_gpu=False)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
    method = f"file://{folder / 'rendezvous'}"
    dist.init_process_group("gloo", init_method=method, rank=rank, world_size=world_size)
    memory = memory_of_loading(folder / "large")
    seen = {"memory": memory, **run_plan(folder, json.loads((folder / "plan.json").read_text()))}
    (folder / f"seen-{rank}.json").write_text(json.dumps(seen))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
