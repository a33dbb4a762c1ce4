"""No credential is in anything that a study leaves behind or says."""

import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from buckets import Bucket, Endpoint
from through_airflow import StudyThroughAirflow

from operators.embedded import ROOT

pytestmark = pytest.mark.timeout(900)  # the study is gone through and killed first
WRONG = "a/wrong+secret=0123456789"


def test_no_object_holds_a_credential(bucket: Bucket, through_airflow: StudyThroughAirflow, tmp_path: Path) -> None:
    forms, seen = forms_of(bucket.endpoint), set()
    for path, data in bucket.objects():
        for told in readable(path, data, tmp_path):
            assert_free(path, told, forms)
        seen.add(path.rpartition(".")[2])
    assert {"json", "parquet", "duckdb", "html", "pt", "tar"} <= seen


def test_no_log_feed_or_database_of_airflow_holds_a_credential(
    bucket: Bucket, through_airflow: StudyThroughAirflow
) -> None:
    forms = forms_of(bucket.endpoint)
    files = [file for file in through_airflow.home.path.parent.rglob("*") if file.is_file()]
    assert {".log", ".jsonl", ".db"} <= {file.suffix for file in files}
    for file in files:
        assert_free(str(file), file.read_bytes(), forms)


@pytest.mark.parametrize(
    "command",
    [
        ("simgap", "sql", "select 1"),
        ("simgap", "catalog"),
        ("simgap", "run", "runs/fetch/none-000000000000"),
        ("operators.console", "icons"),
    ],
    ids=" ".join,
)
def test_a_wrong_secret_key_is_refused_in_words_without_it(
    bucket: Bucket, command: tuple[str, ...], tmp_path: Path
) -> None:
    endpoint = Endpoint(bucket.endpoint.url, bucket.endpoint.key, WRONG)
    environment = os.environ | Bucket(bucket.name, endpoint).environment("wrong")
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=tmp_path, env=environment, capture_output=True, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode and b"error: " in said and b"s3://" in said and b"Traceback" not in said, said.decode()
    assert_free(" ".join(command), said, forms_of(endpoint))
    for file in filter(Path.is_file, tmp_path.rglob("*")):
        assert_free(str(file), file.read_bytes(), forms_of(endpoint))


def forms_of(endpoint: Endpoint) -> set[bytes]:
    """A key and its secret as they are, URL-encoded, and in base64 at each offset in what surrounds them."""
    return {form for secret in (endpoint.key, endpoint.secret) for form in _forms(secret)}


def _forms(secret: str) -> Iterator[bytes]:
    yield secret.encode()
    yield quote(secret, safe="").encode()
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + secret.encode())
        whole = encoded[-(-offset * 8 // 6) : (offset + len(secret)) // 3 * 4]
        yield from (whole, whole.translate(bytes.maketrans(b"+/", b"-_")))


def readable(path: str, data: bytes, folder: Path) -> Iterator[bytes]:
    """An object's bytes, and what is compressed in it."""
    yield data
    if path.endswith(".parquet"):
        yield _plain(pq.read_table(pa.BufferReader(data)))
    if path.endswith(".duckdb"):
        (folder / "catalog.duckdb").write_bytes(data)
        with duckdb.connect(str(folder / "catalog.duckdb"), read_only=True) as catalog:
            yield _plain(catalog.sql("select sql from duckdb_views()").to_arrow_table())
            for (table,) in catalog.sql("select table_name from duckdb_tables() where schema_name = 'main'").fetchall():
                yield _plain(catalog.sql(f"from main.{table}").to_arrow_table())


def _plain(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue().to_pybytes()


def assert_free(where: str, data: bytes, forms: set[bytes]) -> None:
    assert not any(form in data for form in forms), f"{where} holds a credential"


def test_what_looks_for_credentials_finds_them() -> None:
    endpoint = Endpoint("", "someone", "a/secret+of/theirs")
    for hidden in (
        b"a/secret+of/theirs",
        b"a%2Fsecret%2Bof%2Ftheirs",
        *(base64.b64encode(b"x" * n + b"a/secret+of/theirs!") for n in range(3)),
    ):
        with pytest.raises(AssertionError, match="here holds a credential"):
            assert_free("here", b"before " + hidden + b" after", forms_of(endpoint))
