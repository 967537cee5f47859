"""Start a group of training workers with Ray Train and wait for what they leave."""

import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from ray.train import CheckpointConfig, FailureConfig, Result, RunConfig
from ray.train import ScalingConfig as RayScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from raydistill import cluster
from raydistill.config.sections import ScalingConfig
from raydistill.tracking.tracker import Tracker
from raydistill.training.checkpoint import remove_unregistered
from raydistill.training.progress import Display, start_board
from raydistill.training.result import TrainResult
from raydistill.training.spec import TrainSpec
from raydistill.training.worker import train_worker

_CHECKPOINTS = "checkpoints"


def train(spec: TrainSpec, output: str, tracker: Tracker, run_key: str) -> TrainResult:
    """Train as ``spec`` says and leave the student in ``<output>/student``.

    Called again with the same ``output`` after an interruption, it continues from the latest checkpoint there.
    Raises ValueError when the loss stops being finite.
    """
    board = start_board()
    config = {
        "spec": spec.model_dump(mode="json"),
        "output": output,
        "tracker": tracker,
        "run_key": run_key,
        "board": board,
        "num_threads": cluster.threads_per_worker(spec.scaling),
    }
    trainer = TorchTrainer(
        train_worker,
        train_loop_config=config,
        scaling_config=ray_scaling(spec.scaling),
        torch_config=TorchConfig(backend="nccl" if spec.scaling.use_gpu else "gloo"),
        run_config=_run_config(spec, output),
    )
    with Display(board, title=spec.name):
        result = _fit(trainer)
    remove_unregistered(Path(output) / _CHECKPOINTS)
    if result.error is not None:
        raise result.error
    found = TrainResult.read(Path(output))
    if found.failure:
        raise ValueError(found.failure)
    return found


def _fit(trainer: TorchTrainer) -> Result:
    """Fit in a thread, where Ray Train leaves Ctrl-C alone: its own handler ends the process with status 1."""
    outcome: Future[Result] = Future()

    def run() -> None:
        try:
            outcome.set_result(trainer.fit())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome.result()


def ray_scaling(scaling: ScalingConfig) -> RayScalingConfig:
    """Ray Train's form of a scaling section."""
    resources: dict[str, Any] = {"CPU": scaling.cpus_per_worker}
    if scaling.use_gpu:
        resources["GPU"] = 1
    return RayScalingConfig(num_workers=scaling.num_workers, use_gpu=scaling.use_gpu, resources_per_worker=resources)


def _run_config(spec: TrainSpec, output: str) -> RunConfig:
    return RunConfig(
        # Ray Train continues a run that it finds under the same name and path.
        name=_CHECKPOINTS,
        storage_path=str(Path(output).resolve()),
        failure_config=FailureConfig(max_failures=spec.training.max_failures),
        checkpoint_config=CheckpointConfig(num_to_keep=spec.training.keep_checkpoints),
    )
