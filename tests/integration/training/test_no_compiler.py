"""A training needs no compiler, and a process killed in a compilation holds no other one up."""

import os
import subprocess
import sys
from pathlib import Path

from toys.training import write_inputs

STEP = """
import sys
from pathlib import Path
import torch
import torch.distributed as dist
from raydistill.training.engine import prepare_environment
from raydistill.training.assembly import build_engine
from toys.training import make_spec

folder = Path(sys.argv[1])
prepare_environment(use_gpu=False)
dist.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=0, world_size=1)
build_engine(make_spec(folder, placement="zero3"), num_workers=1, device=torch.device("cpu")).close()
"""


def test_nothing_is_compiled_and_no_lock_of_a_compilation_is_waited_for(tmp_path: Path) -> None:
    write_inputs(tmp_path)
    extension = tmp_path / "extensions" / "deepspeed_shm_comm"
    extension.mkdir(parents=True)
    (extension / "lock").touch()

    environment = os.environ | {
        "TORCH_EXTENSIONS_DIR": str(extension.parent),
        "PATH": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(sys.path),
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
    }
    subprocess.run([sys.executable, "-c", STEP, str(tmp_path)], check=True, env=environment, timeout=240)

    assert [path.name for path in extension.iterdir()] == ["lock"]
