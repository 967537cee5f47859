"""Start a group of training workers with Ray Train and wait for what they leave."""

from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from raydistill import cluster
from raydistill.data.shared_reader import is_worth_sharing, shared_reader
from raydistill.data.storages import storage_at
from raydistill.store_paths import here
from raydistill.threads import in_thread
from raydistill.tracking.tracker import Tracker
from raydistill.training.checkpoint_store import Checkpoints, checkpoints_at, step_of
from raydistill.training.history import read_history
from raydistill.training.progress import Display, start_board
from raydistill.training.result import TrainResult
from raydistill.training.spec import TrainSpec
from raydistill.user_error import UserError, brought

CHECKPOINTS = "checkpoints"
"""Name of the folder of checkpoints below a training's output."""


def train(spec: TrainSpec, output: str, tracker: Tracker, run_key: str, *, parallel: int = 1) -> TrainResult:
    """Train as ``spec`` says and leave the student in ``<output>/student``.

    Called again with the same ``output`` after an interruption, it continues from the latest checkpoint there.
    ``parallel`` trainings share the machine: each gets its share of the cores, and lines of progress tell whose
    they are.
    Raises ValueError, of one line, when the latest checkpoint is damaged, when the loss stops being finite and when
    checkpoints or students cannot be written; OSError when anything else cannot.
    """

    # Slow to import, and needless for what trains in a kept process.
    from ray.train import TrainingFailedError
    from ray.train.torch import TorchTrainer

    from raydistill.training.group import train_worker
    from raydistill.training.network import GroupConfig
    from raydistill.training.scaling import ray_scaling

    def fit(board: Any) -> str:
        config = {
            "spec": spec,
            "output": output,
            "tracker": tracker,
            "run_key": run_key,
            "board": board,
            "num_threads": cluster.threads_per_worker(spec.scaling, parallel=parallel),
            "reader": reader,
        }
        trainer = TorchTrainer(
            train_worker,
            train_loop_config=config,
            scaling_config=ray_scaling(spec.scaling),
            torch_config=GroupConfig(backend="nccl" if spec.scaling.use_gpu else "gloo"),
            run_config=_run_config(spec, output, board),
        )
        try:
            # In a thread Ray Train leaves Ctrl-C alone: its own handler ends the process with status 1.
            return str(in_thread(trainer.fit).result().return_value or "")
        except TrainingFailedError as error:
            # For an OSError it has a file's name, which tells whether the storage is at fault.
            cause = next((each for each in brought(error) if isinstance(each, OSError | UserError)), None)
            if cause is None:
                raise
            raise cause from error

    num_data_tasks = spec.scaling.num_workers * spec.scaling.data_cpus_per_worker
    is_shared = is_worth_sharing(spec.corpus, spec.stored, num_data_tasks=num_data_tasks)
    with shared_reader() if is_shared else nullcontext() as reader:
        return follow(spec, output, fit, parallel=parallel)


def follow(spec: TrainSpec, output: str, fit: Callable[[Any], str], *, parallel: int) -> TrainResult:
    """Show what a training posts to its board, which ``fit`` gets, and read what it left; raises as ``train`` does.

    ``fit`` trains and returns why that failed, where the same again would fail too, else nothing.
    """
    checkpoints = checkpoints_of(output)
    board = start_board()
    try:
        checkpoints.prepare()
        with Display(board, title=spec.name, parallel=parallel > 1):
            failure = fit(board)
        if failure:
            raise UserError(failure)
        return TrainResult.read(Path(output))
    finally:
        # A storage that vanished is what the training ended of; the next start tidies again.
        with suppress(OSError):
            checkpoints.tidy()


def checkpoints_of(output: str) -> Checkpoints:
    """The checkpoints of a training."""
    return checkpoints_at(here(Path(output).resolve()) / CHECKPOINTS)


def interruption(output: str) -> str:
    """What an interruption costs a training, in one line: where it was by its latest figures, and where it goes on."""
    history = read_history(Path(output))
    reached = history[-1]["step"] if history else 0
    kept = max(map(step_of, checkpoints_of(output).finished()), default=0)
    goes_on = f"goes on from the checkpoint of step {kept:,}" if kept else "starts anew, without a checkpoint"
    return f"interrupted after step {reached:,}, {goes_on}: {reached - kept:,} steps or a few more are lost"


def _run_config(spec: TrainSpec, output: str, board: Any) -> Any:
    from ray.train import CheckpointConfig, FailureConfig, RunConfig

    from raydistill.training.scaling import LossNotes

    storage = storage_at(Path(output).resolve())
    return RunConfig(
        # Ray Train continues a run that it finds under the same name and path.
        name=CHECKPOINTS,
        storage_path=storage.address,
        storage_filesystem=storage.filesystem,
        failure_config=FailureConfig(max_failures=spec.training.max_failures),
        callbacks=[LossNotes(board, spec.scaling)],
        checkpoint_config=CheckpointConfig(num_to_keep=spec.training.save_total_limit),
    )
