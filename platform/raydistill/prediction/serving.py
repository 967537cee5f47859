"""A model behind HTTP: a Ray Serve application whose replicas answer requests in batches.

``POST /predict`` takes an example, such as ``{"text": "a fine film"}``, or ``{"examples": [...]}``, and gives what
``Predictor.predict`` does as one object or a list ``answers``. ``GET /health`` says which model answers.
"""

import asyncio
import tempfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from raydistill.config.yaml_text import dump
from raydistill.credentials import free_of_secrets
from raydistill.deploy.predictor import Predictor
from raydistill.prediction.models import model_folder
from raydistill.user_error import UserError, placed

IMPORT_PATH = "raydistill.prediction.serving:application"
_MOST_EXAMPLES = 1024
"""Of one request."""


@dataclass(frozen=True)
class Service:
    """What is served, and how."""

    model: str
    """As a command names it; an alias of the registry is looked up when a replica starts."""
    storage: str | None = None
    tracking_uri: str | None = None
    """Where ``models:/`` is looked up."""
    replicas: int = 1
    cpus: float = 1
    """Logical CPUs of a replica, and its threads."""
    batch_size: int = 32
    """Most examples that a replica runs at once."""
    wait_ms: float = 5.0
    """How long the first example of a batch waits for others."""
    max_length: int | None = None
    precision: str = "fp32"


def application(args: dict[str, Any]) -> Any:
    """The Ray Serve application of the keys of ``Service``; what ``serve deploy`` calls."""
    from ray import serve

    service = Service(**args)
    deployment = serve.deployment(
        name="model",
        num_replicas=service.replicas,
        ray_actor_options={"num_cpus": service.cpus},
        max_ongoing_requests=4 * service.batch_size,
    )
    return deployment(_replica()).bind(asdict(service))


def configuration(service: Service, *, name: str, port: int, host: str) -> str:
    """A file for ``serve run`` and ``serve deploy``, or the ``serveConfigV2`` of a RayService on Kubernetes.

    Raises UserError where the tracking URI has a password, which no file may hold.
    """
    if service.tracking_uri is not None:
        with placed("--tracking-uri"):
            free_of_secrets(service.tracking_uri)
    made = {"name": name, "route_prefix": "/", "import_path": IMPORT_PATH, "args": as_arguments(service)}
    return dump({"http_options": {"host": host, "port": port}, "applications": [made]})


def as_arguments(service: Service) -> dict[str, Any]:
    """What ``application`` takes for a service: the keys that are not as by default."""
    return {
        field.name: getattr(service, field.name)
        for field in fields(service)
        if getattr(service, field.name) != field.default
    }


def _replica() -> Any:
    """The class of a replica; made when Ray Serve is there."""
    from fastapi import FastAPI, Request
    from fastapi.responses import JSONResponse
    from ray import serve

    from raydistill.computing import compute_with

    # Pages of documentation would load scripts from elsewhere.
    web = FastAPI(title="raydistill", docs_url=None, redoc_url=None)

    @serve.ingress(web)
    class Replica:
        """One copy of the model."""

        def __init__(self, options: dict[str, Any]) -> None:
            service = Service(**options)
            compute_with(max(1, int(service.cpus)))
            storage = None if service.storage is None else Path(service.storage)
            self._temporary = tempfile.TemporaryDirectory()
            folder = model_folder(service.model, storage, service.tracking_uri, Path(self._temporary.name))
            self._predictor = Predictor(
                folder,
                batch_size=service.batch_size,
                max_length=service.max_length,
                precision=service.precision,
            )
            self._model = service.model
            # The first pass is the slowest.
            reads = self._predictor.reads
            self._predictor.predict(["a" if "words" in reads else dict.fromkeys(reads, "a")])
            self._answer.set_max_batch_size(service.batch_size)
            self._answer.set_batch_wait_timeout_s(service.wait_ms / 1000)

        @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.005)
        async def _answer(self, examples: list[Any]) -> list[Any]:
            """Answers to the examples of several requests; an error of one is its own."""
            return await asyncio.to_thread(self._answered, examples)

        def _answered(self, examples: list[Any]) -> list[Any]:
            try:
                return _rows(self._predictor.predict(examples), len(examples))
            except UserError as error:
                if len(examples) == 1:
                    return [error]
            return [self._answered([one])[0] for one in examples]

        @web.get("/health")
        async def health(self) -> dict[str, Any]:
            """Which model answers, and what it reads."""
            found = self._predictor
            return {
                "status": "ok",
                "model": self._model,
                "head": found.head,
                "reads": [*found.reads],
                "may_read": [*found.may_read],
            }

        @web.post("/predict")
        async def predict(self, request: Request) -> JSONResponse:
            """Answers to one example, or to several."""
            try:
                asked = await request.json()
            except ValueError:
                return JSONResponse({"error": "the request's body is not JSON"}, status_code=400)
            several = isinstance(asked, dict) and "examples" in asked
            examples = asked["examples"] if several else [asked]
            if not isinstance(examples, list) or len(examples) > _MOST_EXAMPLES:
                problem = f"examples is a list of at most {_MOST_EXAMPLES}"
                return JSONResponse({"error": problem}, status_code=400)
            found = await asyncio.gather(*(self._answer(one) for one in examples))
            wrong = next((number for number, one in enumerate(found) if isinstance(one, UserError)), None)
            if wrong is not None:
                text = str(found[wrong]).replace("example 0", f"example {wrong}")
                return JSONResponse({"error": text}, status_code=422)
            return JSONResponse({"answers": found} if several else found[0])

    return Replica


def _rows(columns: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Answers row by row, as JSON has them."""
    return [
        {name: value[row].item() if hasattr(value[row], "item") else value[row] for name, value in columns.items()}
        for row in range(count)
    ]
