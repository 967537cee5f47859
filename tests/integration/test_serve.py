"""A served model answers requests as ``Predictor`` does, says what is wrong with one, and ends at Ctrl-C.

Most tests ask the ONNX export of a classifier, one asks a student like the demo's.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from raydistill import Predictor
from raydistill.deploy.exporting import export_model
from toys.answering import save_answering
from toys.checkpoint import save_student
from toys.terminal import hear_ctrl_c

pytestmark = pytest.mark.slow
PLATFORM = Path(__file__).parents[2] / "platform"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def ask(url: str, body: object = None) -> tuple[int, dict]:
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=data), timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


@contextmanager
def serving(folder: Path):
    """Where a model is served, and the process that serves it."""
    port = free_port()
    variables = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    process = subprocess.Popen(
        [sys.executable, "-m", "raydistill", "serve", str(folder), "--port", str(port)],
        env={**variables, "PYTHONPATH": str(PLATFORM), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=hear_ctrl_c,
    )
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith("serves "):
            break
    assert said[-1:] == [f"serves {folder} at http://127.0.0.1:{port}/predict; Ctrl-C ends it\n"], "".join(said)
    try:
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A classifier and, in ``onnx``, its export."""
    folder = save_answering(tmp_path_factory.mktemp("model"), "sequence_classification")
    export_model(folder, folder / "onnx", "onnx")
    return folder


@pytest.fixture(scope="module")
def served(classifier):
    """The classifier's folder, where its export is served, and the process that serves it."""
    with serving(classifier / "onnx") as (url, process):
        yield classifier, url, process


def test_health_tells_the_model_and_what_it_reads(served):
    folder, url, _ = served
    expected = {"status": "ok", "model": str(folder / "onnx"), "head": "sequence_classification"}
    assert ask(f"{url}/health") == (200, {**expected, "reads": ["text"], "may_read": ["text_pair"]})


def test_requests_at_once_each_have_the_answer_to_their_own_text(served):
    folder, url, _ = served
    texts = [f"w{5 + number} w{6 + number % 5}" for number in range(24)]
    expected = Predictor(folder).predict(texts)
    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda text: ask(f"{url}/predict", {"text": text}), texts))
    assert [status for status, _ in answers] == [200] * len(texts)
    for name, values in expected.items():
        said = [answer[name] for _, answer in answers]
        assert said == (list(values) if name == "prediction" else pytest.approx(list(map(float, values)), abs=1e-5))


def test_several_examples_come_back_in_their_order(served):
    folder, url, _ = served
    examples = [{"text": "w5"}, {"text": "w6 w7", "text_pair": "w8"}]
    status, found = ask(f"{url}/predict", {"examples": examples})
    expected = Predictor(folder).predict(examples)
    assert status == 200
    assert [one["prediction"] for one in found["answers"]] == list(expected["prediction"])
    assert [one["probability.bad"] for one in found["answers"]] == pytest.approx(
        list(map(float, expected["probability.bad"])), abs=1e-5
    )


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"review": "w5"}, 422, "example 0 has no text; the model's sequence_classification head reads it"),
        ({"examples": [{"text": "w5"}, {"text": 5}]}, 422, "example 1 has 5 as text, which is not text"),
        ({"examples": "w5"}, 400, "examples is a list of at most 1024"),
        (b"{", 400, "the request's body is not JSON"),
    ],
)
def test_a_request_that_is_wrong_is_told_so_and_others_are_answered(served, body, status, message):
    _, url, _ = served
    assert ask(f"{url}/predict", body) == (status, {"error": message})
    assert ask(f"{url}/predict", {"text": "w5"})[0] == 200


def test_a_port_that_is_taken_is_refused(served):
    folder, url, _ = served
    port = url.rpartition(":")[2]
    done = subprocess.run(
        [sys.executable, "-m", "raydistill", "serve", str(folder), "--port", port],
        env={**os.environ, "PYTHONPATH": str(PLATFORM)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (
        2,
        f"--port is {port}, where another program is already listening; give another\n",
    )


def test_ctrl_c_ends_it_within_seconds(served):
    _, url, process = served
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"{url}/health", timeout=5)


def test_a_student_like_the_demos_fills_the_masks_of_requests(tmp_path):
    folder = save_student(tmp_path / "student")
    texts = ["w5 [MASK] w7", "w8 w9"]
    expected = Predictor(folder).predict(texts)
    with serving(folder) as (url, _):
        status, found = ask(f"{url}/predict", {"examples": [{"text": text} for text in texts]})
    assert status == 200
    assert [one["prediction"] for one in found["answers"]] == expected["prediction"]
    assert found["answers"][0]["probability"] == pytest.approx(expected["probability"][0], abs=1e-5)
