"""The address, the token and the connection to a cluster's job API."""

import asyncio
import os
import signal
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest

from raydistill.cluster import job_api
from raydistill.cluster.job_api import JobApi, _probe, checked_address, exit_code, find_token


@pytest.fixture
def nobody(tmp_path, monkeypatch):
    """A user without a token, and with no proxy on the way."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE", "http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path


@pytest.fixture
def server():
    """A server that answers each request with ``server.answer``, a status and a text, and keeps its headers."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            found.headers.append(dict(self.headers))
            status, text = found.answer
            self.send_response(status)
            self.send_header("Location", "/elsewhere")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *arguments):
            pass

    http = HTTPServer(("127.0.0.1", 0), Handler)
    found = SimpleNamespace(address=f"http://127.0.0.1:{http.server_port}", answer=(200, ""), headers=[])
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    yield found
    http.shutdown()
    thread.join()
    http.server_close()


def test_without_a_token_the_line_says_how_to_make_one(nobody):
    with pytest.raises(ValueError, match=r"`ray get-auth-token --generate`.*RAY_AUTH_MODE=token.*RAY_AUTH_TOKEN"):
        find_token()


def test_a_token_comes_from_the_variable_the_named_file_or_the_home_folder(nobody, monkeypatch):
    (nobody / ".ray").mkdir()
    (nobody / ".ray" / "auth_token").write_text("of-home\n")
    assert find_token() == "of-home"
    (nobody / "named").write_text("of-file")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(nobody / "named"))
    assert find_token() == "of-file"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of-variable")
    assert find_token() == "of-variable"


def test_tokens_are_on_unless_the_user_says_otherwise(nobody, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert find_token() is None
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(ValueError, match="there is no token"):
        find_token()


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("http://head:8265/", "http://head:8265"),
        ("head:8265", "http://head:8265"),
        ("head", "http://head:8265"),
        ("https://ray.example", "https://ray.example"),
    ],
)
def test_an_address_may_be_short(written, meant):
    assert checked_address(written) == meant


@pytest.mark.parametrize("address", ["ray://head:10001", "auto://", "http://"])
def test_another_kind_of_address_is_refused(address):
    with pytest.raises(ValueError, match="give the address of the dashboard"):
        checked_address(address)


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ((401, "Unauthorized"), r"asks for a token \(401\) .*`ray get-auth-token"),
        ((403, "Forbidden"), r"does not take this token \(403\)"),
        ((404, ""), "not as Ray's dashboard does"),
        ((200, "<html>another service</html>"), "not as Ray's dashboard does"),
        ((302, ""), "not as Ray's dashboard does"),
    ],
)
def test_each_wrong_answer_is_one_line(nobody, server, answer, line):
    server.answer = answer
    with pytest.raises(ValueError, match=line) as refusal:
        _probe(server.address, {})
    assert "\n" not in str(refusal.value)


def test_the_token_is_shown_to_the_address_alone_and_no_redirect_followed(nobody, server):
    server.answer = (302, "")
    with pytest.raises(ValueError, match="not as Ray's"):
        _probe(server.address, {"Authorization": "Bearer secret"})
    assert [headers["Authorization"] for headers in server.headers] == ["Bearer secret"]


def test_no_answer_is_one_line(nobody, server, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x")
    with pytest.raises(ValueError, match=r"nothing answers at http://127\.0\.0\.1:1 \(no connection\)"):
        JobApi("127.0.0.1:1")


def test_the_given_address_counts_beside_variables_that_ray_reads(nobody, server, monkeypatch):
    server.answer = (200, '{"ray_version": "2.60.0", "version": "4"}')
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x")
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    api = JobApi(server.address)
    assert len(server.headers) > 1
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer x"}
    server.answer = (200, "[]")
    assert api.jobs() == []


def test_following_goes_on_after_a_cut_where_it_was(monkeypatch):
    written, states = ["first\n", "second\n", "third\n"], iter(["RUNNING", "RUNNING", "SUCCEEDED"])

    class Client:
        calls = 0

        async def tail_job_logs(self, job_id):
            Client.calls += 1
            yield written[0]
            if Client.calls == 1:
                raise RuntimeError("WebSocket connection closed unexpectedly with close code 1006")
            yield written[1] + written[2]

    monkeypatch.setattr(job_api, "_RETRY_S", 0)
    api = JobApi.__new__(JobApi)
    api.address, api._client = "http://head:8265", Client()
    monkeypatch.setattr(api, "job", lambda job_id: SimpleNamespace(status=next(states)))
    shown = []
    assert api.follow("id", shown.append).status == "SUCCEEDED"
    assert "".join(shown) == "".join(written)
    assert Client.calls == 2


def test_ctrl_c_ends_the_following_even_where_the_stream_takes_a_cancellation_for_its_end():
    class Client:
        async def tail_job_logs(self, job_id):
            yield "step 1\n"
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return

    api = JobApi.__new__(JobApi)
    api.address, api._client = "http://head:8265", Client()
    api.job = lambda job_id: SimpleNamespace(status="SUCCEEDED")
    # Test runners with several processes ignore Ctrl-C in them.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            api.follow("id", lambda text: threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start())
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("status", "driver", "code"),
    [
        ("RUNNING", None, None),
        ("PENDING", None, None),
        ("SUCCEEDED", 0, 0),
        ("FAILED", 2, 2),
        ("FAILED", None, 1),
        ("STOPPED", None, 130),
    ],
)
def test_a_command_ends_as_the_job_did(status, driver, code):
    assert exit_code(SimpleNamespace(status=status, driver_exit_code=driver)) == code
