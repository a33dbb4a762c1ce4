"""A study whose store fails now and then ends with what it would have found; what cannot pass is told at once."""

import time
from pathlib import Path

import proxy
import pytest
from buckets import Bucket, Endpoint, Minio, found_program
from making import put_data, run_study

from simgap import catalog
from simgap.errors import SimgapError
from simgap.store import Store

TABLES = ("samples", "embeddings", "thresholds", "proximity", "neighbours", "members", "certificates")
SHARE = 0.05


@pytest.fixture
def environment(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in endpoint.environment().items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_a_study_ends_the_same_with_one_request_in_twenty_failing(
    bucket: Bucket, environment: pytest.MonkeyPatch, audit_file: Path, read_audit
) -> None:
    folder, made = read_audit
    put_data(Store(bucket.store("faulty")))
    with proxy.before(bucket.endpoint.url, SHARE, seed=1) as (url, faulty):
        environment.setenv("AWS_ENDPOINT_URL", url)
        store = Store(bucket.store("faulty"))
        assert run_study(store, audit_file).roles.keys() == made.roles.keys()
        for table in TABLES:
            asked = f"select * exclude (run) from audit.{table} order by all"
            assert catalog.ask(store, asked) == catalog.ask(folder, asked), table
    assert faulty.met.keys() >= set(proxy.FAULTS), faulty.met


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("AWS_SECRET_ACCESS_KEY", "not-this-one", "AWS_SECRET_ACCESS_KEY does not belong to AWS_ACCESS_KEY_ID"),
        ("AWS_ACCESS_KEY_ID", "nobody", "AWS_ACCESS_KEY_ID is not known there"),
    ],
)
def test_wrong_keys_are_told_at_once(bucket: Bucket, environment: pytest.MonkeyPatch, name, value, words) -> None:
    environment.setenv(name, value)
    store, started = Store(bucket.store(f"with-wrong-{name}")), time.monotonic()
    with pytest.raises(SimgapError, match=words) as told:
        store.get("x")
    assert type(told.value) is SimgapError and value not in str(told.value) and time.monotonic() - started < 1


def test_a_wrong_region_is_told_at_once(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if not (program := found_program()):
        pytest.skip("a MinIO of its own")
    server = Minio(program, tmp_path, MINIO_REGION="eu-central-1")
    server.start()
    try:
        server.wait_until_ready()
        for name, value in server.endpoint.environment().items():
            environment.setenv(name, value)
        with pytest.raises(SimgapError, match=r"^s3://abroad/x: AWS_REGION is not the bucket's region; set it"):
            Store("s3://abroad").get("x")
    finally:
        server.kill()
