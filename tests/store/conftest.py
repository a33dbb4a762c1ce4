"""Fixtures: a real MinIO and buckets in it. With neither SIMGAP_TEST_S3 nor a `minio` on the PATH, the tests fail."""

import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from buckets import Bucket, Endpoint, Minio, found_program
from disturbed import KILLS, SEED, Reference, Undisturbed, walk
from through_airflow import StudyThroughAirflow, is_manifest
from tries import Tries

from operators.embedded import ROOT, Home
from simgap.store import Store

GIVE = (
    "the store's tests need a MinIO: put `minio` on the PATH, or name one in SIMGAP_TEST_S3 (a URL)"
    " with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
)


@pytest.fixture(scope="session")
def own_minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Minio | None]:
    """The MinIO that was started here; None when SIMGAP_TEST_S3 names another."""
    if os.environ.get("SIMGAP_TEST_S3"):
        yield None
        return
    if not (program := found_program()):
        pytest.fail(GIVE, pytrace=False)
    server = Minio(program, tmp_path_factory.mktemp("minio"))
    server.start()
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.kill()


@pytest.fixture
def minio(own_minio: Minio | None) -> Minio:
    """A MinIO that may be killed and started again."""
    if own_minio is None:
        pytest.skip("kills MinIO, so it needs one of its own")
    return own_minio


@pytest.fixture(scope="session")
def endpoint(own_minio: Minio | None) -> Endpoint:
    if own_minio is not None:
        return own_minio.endpoint
    try:
        return Endpoint(
            os.environ["SIMGAP_TEST_S3"], os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
        )
    except KeyError as missing:
        pytest.fail(f"{missing.args[0]} is not set; {GIVE}", pytrace=False)


@pytest.fixture(scope="session")
def bucket(endpoint: Endpoint) -> Iterator[Bucket]:
    """A new bucket that keeps every version, until the tests are done; this process may open stores in it."""
    made = Bucket(f"simgap-test-{secrets.token_hex(6)}", endpoint)
    made.create()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in endpoint.environment().items():
            patch.setenv(name, value)
        yield made
    made.remove()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny study's file, whose data is found from anywhere."""
    text = (ROOT / "tests" / "study" / "tiny.toml").read_text()
    file = tmp_path_factory.mktemp("studies") / "tiny.toml"
    file.write_text(text.replace("tests/data/icons", str(ROOT / "tests" / "data" / "icons")))
    return file


@pytest.fixture(scope="session")
def undisturbed(bucket: Bucket, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    do = Undisturbed(Tries(bucket.environment("undisturbed"), tmp_path_factory.mktemp("undisturbed") / "tries.log"))
    roles = walk(do, tiny, "undisturbed")
    return Reference(Store(bucket.store("undisturbed")), roles, do.went)


@pytest.fixture(scope="session")
def through_airflow(
    bucket: Bucket, tiny: Path, undisturbed: Reference, tmp_path_factory: pytest.TempPathFactory
) -> StudyThroughAirflow:
    """The tiny study gone through by an Airflow of its own, and killed again and again."""
    folder = tmp_path_factory.mktemp("airflow")
    (folder / "dags" / "studies").mkdir(parents=True)
    shutil.copy(ROOT / "dags" / "study.py", folder / "dags")
    shutil.copy(tiny, folder / "dags" / "studies")
    study = StudyThroughAirflow(Home(folder / ".simgap", dags=folder / "dags"), bucket, "airflow")
    units = sum(is_manifest(path) for path, _ in bucket.versions("undisturbed"))
    study.go(kills=KILLS // 10, seed=SEED, units=units)
    return study
