"""``raydistill serve``: a model behind HTTP, on Ray Serve."""

import socket
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raydistill.commands.predict import ModelArgument, StorageOption, UriOption
from raydistill.commands.reporting import DebugOption, reported
from raydistill.user_error import UserError

if TYPE_CHECKING:
    from raydistill.prediction.serving import Service


def serve(
    model: ModelArgument,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="The port to listen on.")] = 8000,
    host: Annotated[str, typer.Option("--host", help="0.0.0.0 lets other machines in.")] = "127.0.0.1",
    replicas: Annotated[int, typer.Option("--replicas", min=1, help="Copies of the model.")] = 1,
    cpus: Annotated[float, typer.Option("--cpus", min=0.1, help="CPUs and threads per copy.")] = 1.0,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Maximum examples per forward pass.")] = 32,
    wait_ms: Annotated[float, typer.Option("--wait-ms", min=0.0, help="How long an example waits for others.")] = 5.0,
    max_length: Annotated[
        int | None, typer.Option("--max-length", min=3, help="The maximum number of tokens of a row.")
    ] = None,
    precision: Annotated[str, typer.Option("--precision", help="fp32, bf16 or fp16.")] = "fp32",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write a file for serve deploy; serve nothing."),
    ] = None,
    storage: StorageOption = None,
    uri: UriOption = None,
    debug: DebugOption = False,
) -> None:
    """Serve a model over HTTP until Ctrl-C: POST /predict answers, GET /health names the model.

    Requests are answered in batches. A version of the registry is looked up by its alias when a replica starts. With
    -o the same application is written for `serve deploy`, or for a RayService on Kubernetes.

    \b
    Example:
      raydistill serve models:/sentiment-student@champion --port 8000
      curl -s localhost:8000/predict -d '{"text": "a fine film"}'
      raydistill serve models:/sentiment-student@champion --replicas 4 -o serve.yaml
    """
    with reported(debug=debug):
        from raydistill.prediction.serving import Service, configuration

        service = Service(
            model=model,
            storage=None if storage is None else str(storage.absolute()),
            tracking_uri=uri,
            replicas=replicas,
            cpus=cpus,
            batch_size=batch_size,
            wait_ms=wait_ms,
            max_length=max_length,
            precision=precision,
        )
        if output is not None:
            if output.exists():
                raise UserError(f"{output} exists; give another file or remove it")
            text = configuration(service, name="raydistill", port=port, host=host)
            output.write_text(text, encoding="utf-8")
            typer.echo(f"wrote {output}; next: serve run {output}, or serve deploy {output} on a running cluster")
            return
        _serve(service, host, port)


def _serve(service: "Service", host: str, port: int) -> None:
    """Serve until Ctrl-C."""
    from raydistill.cluster.joining import connection
    from raydistill.config.sections import ScalingConfig
    from raydistill.deploy.predictor import Predictor
    from raydistill.prediction.models import model_folder
    from raydistill.prediction.serving import application, as_arguments

    if find_spec("grpc_reflection") is None:
        raise UserError("serve needs Ray Serve, which is not installed; pip install 'raydistill[serve]'")
    with socket.socket() as trial:
        if trial.connect_ex((host, port)) == 0:
            raise UserError(f"--port is {port}, where another program is already listening; give another")
    # What is wrong with the model is told here, in one line, and not by a replica.
    with tempfile.TemporaryDirectory() as temporary:
        storage = None if service.storage is None else Path(service.storage)
        folder = model_folder(service.model, storage, service.tracking_uri, Path(temporary))
        Predictor(folder, max_length=service.max_length, precision=service.precision)
    cores = max(1, round(service.cpus))
    with connection([ScalingConfig(num_workers=service.replicas, cpus_per_worker=cores)], whole_machine=True):
        from ray import serve as ray_serve

        ray_serve.start(http_options={"host": host, "port": port})
        try:
            ray_serve.run(application(as_arguments(service)), name="raydistill", route_prefix="/")
            typer.echo(f"serves {service.model} at http://{host}:{port}/predict; Ctrl-C ends it")
            while True:
                time.sleep(3600)
        finally:
            ray_serve.shutdown()
