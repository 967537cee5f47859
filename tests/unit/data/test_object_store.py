import importlib.util
import time

import pytest

from raydistill.data import object_store
from raydistill.user_error import UserError
from toys.store import BUCKET, keys, s3_server


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with s3_server(tmp_path_factory.mktemp("cache")) as found:
        yield found


def test_a_bucket_that_takes_files_has_no_problem_and_keeps_no_probe(client):
    assert object_store.problem(f"s3://{BUCKET}/runs") is None
    assert [key for key in keys(client) if not key.endswith("/")] == []


def test_a_bucket_that_is_not_there_is_named(client):
    assert object_store.problem("s3://nowhere/runs") == "but there is no bucket 'nowhere'; make it, or name another"


@pytest.mark.parametrize("uri", ["s3://", "s3:///runs", "s3://bucket/a//b", "s3://bucket/../b"])
def test_a_uri_without_a_bucket_or_with_odd_parts_is_refused(client, uri):
    assert "write s3://BUCKET/PATH" in (object_store.problem(uri) or "")


def test_an_endpoint_where_nobody_answers_is_told_within_seconds(client, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    began = time.monotonic()
    found = object_store.problem(f"s3://{BUCKET}/runs") or ""
    assert found.startswith("but nobody answers at http://127.0.0.1:9; check AWS_ENDPOINT_URL")
    assert time.monotonic() - began < 20


def test_wrong_credentials_are_told(tmp_path):
    # After the request that makes the bucket the server checks who asks, and knows nobody.
    with s3_server(tmp_path, INITIAL_NO_AUTH_ACTION_COUNT="1"):
        found = object_store.problem(f"s3://{BUCKET}/runs") or ""
    assert found.startswith("but the credentials are missing or not allowed there; check AWS_ENDPOINT_URL")
    assert "\n" not in found


def test_a_missing_boto3_is_told(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert object_store.problem("s3://bucket/runs") == "which needs boto3; pip install 'raydistill[s3]'"


@pytest.mark.parametrize("uri", ["s3://", "s3:///teacher", "s3://a b/teacher", "s3://*/teacher"])
def test_a_uri_without_a_bucket_is_refused_in_one_line(uri):
    with pytest.raises(UserError) as raised:
        object_store.filesystem(uri)
    assert str(raised.value) == f"{uri} names no bucket of an object store; write s3://BUCKET/PATH"
