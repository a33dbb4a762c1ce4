"""What holds in a folder holds in a real MinIO: large objects, many objects, check, gc, and any DuckDB's ATTACH."""

import random
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
from buckets import Bucket
from making import Made, committed, put_data, run_study

from simgap import catalog, garbage, publishing, runs
from simgap.check import check
from simgap.request import Unit
from simgap.requests import Report
from simgap.store import Store
from simgap.task import Task

LARGE_BYTES = 200_000_000
MOST_MEMORY_MB = 150
UNITS = 500
SECONDS_FOR_UNITS = 5
BYTES_FLIPPED = 60


@pytest.fixture(scope="module")
def environment(bucket: Bucket):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in bucket.endpoint.environment().items():
            patch.setenv(name, value)
        yield patch


@pytest.fixture(scope="module")
def audited(bucket: Bucket, environment: pytest.MonkeyPatch, audit_file: Path) -> tuple[Store, Made]:
    store = Store(bucket.store("audited"))
    put_data(store)
    return store, run_study(store, audit_file)


def test_large_objects_go_in_parts_with_little_memory(
    bucket: Bucket, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    moved = """
import resource, sys
from pathlib import Path
from simgap.store import Store
store, folder = Store(sys.argv[1]), Path(sys.argv[2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
store.upload("large", folder / "large")
store.download("large", folder / "again")
with store.reader("large") as file:
    while file.read(1 << 20):
        pass
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    (tmp_path / "large").write_bytes(random.Random(0).randbytes(LARGE_BYTES))
    done = subprocess.run(
        [sys.executable, "-c", moved, bucket.store("sizes"), str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert (tmp_path / "again").read_bytes() == (tmp_path / "large").read_bytes()
    assert int(done.stdout) < MOST_MEMORY_MB
    assert "-" in Store(bucket.store("sizes")).head("large").etag, "it was not sent in parts"


def test_five_hundred_units_are_listed_and_committed_within_seconds(
    bucket: Bucket, environment: pytest.MonkeyPatch
) -> None:
    store, request = Store(bucket.store("many")), Report(name="many", study={}, sources=[])
    units = [Unit(number=n) for n in range(UNITS)]
    store.put(f"{request.path}/request.json", runs.pretty(request.document()))
    store.put(f"{request.path}/units.json", runs.pretty([unit.model_dump() for unit in units]))
    for unit in units:
        task = Task(request, unit, store)
        task.finish()
        task.close()
    started = time.monotonic()
    assert runs.missing_units(store, request.path) == []
    assert len(runs.commit(store, request, {}).facts) == UNITS
    assert time.monotonic() - started < SECONDS_FOR_UNITS


def test_any_duckdb_attaches_the_catalog(audited: tuple[Store, Made], bucket: Bucket) -> None:
    store, _ = audited
    plain = f"""
import duckdb, duckdb_extension_httpfs, os, pathlib
connection = duckdb.connect()
[file] = pathlib.Path(duckdb_extension_httpfs.__file__).parent.rglob("httpfs.duckdb_extension")
connection.load_extension(str(file))
key, secret, url = (os.environ["AWS_" + name] for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "ENDPOINT_URL"))
where = f"endpoint '{{url.removeprefix('http://')}}', url_style 'path', use_ssl false"
connection.execute(f"create secret (type s3, key_id '{{key}}', secret '{{secret}}', {{where}})")
connection.execute("attach '{store.url(catalog.PATH)}' as simgap (read_only)")
print(*connection.execute("select count(*) from simgap.audit.proximity").fetchone())
"""
    said = subprocess.run([sys.executable, "-c", plain], capture_output=True, text=True, check=True).stdout
    assert int(said) == catalog.ask(store, "from audit.proximity").num_rows > 0


def test_each_byte_that_is_flipped_is_found(audited: tuple[Store, Made]) -> None:
    store, _ = audited
    assert list(check(store)) == []
    rng = random.Random(0)
    paths = [e.path for folder in ("runs", "studies", "catalog") for e in store.list(folder) if e.size]
    for path in rng.choices(paths, k=BYTES_FLIPPED):
        before = store.get(path)
        at = rng.randrange(len(before))
        store.put(path, before[:at] + bytes([before[at] ^ (1 << rng.randrange(8))]) + before[at + 1 :])
        assert any(line.startswith(path) for line in check(store)), (path, at)
        store.put(path, before)
    assert list(check(store)) == []


def test_garbage_is_collected_and_all_else_stays_whole(audited: tuple[Store, Made]) -> None:
    store, _ = audited
    lonely = committed(store, Report(name="lonely", study={}, sources=[]), {}).run
    found = garbage.find(store, timedelta(0))
    assert [part.run for part in found] == [lonely]
    garbage.remove(store, found)
    publishing.publish(store)
    assert store.list(lonely) == [] and list(check(store)) == []
