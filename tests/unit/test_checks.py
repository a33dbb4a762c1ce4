"""A sound catalog has nothing that leads nowhere; one whose store was tampered with says what does."""

import pyarrow as pa
import pytest

from simgap import catalog, checks, publishing
from simgap.store import Store


def wrong(store: Store) -> list[str]:
    listed = store.list("")
    files = pa.table({"path": [e.path for e in listed], "bytes": pa.array([e.size for e in listed], pa.int64())})
    with catalog.open_for_reading(store) as connection:
        return checks.wrong(connection, files)


def test_a_finished_studys_catalog_is_sound(read_audit):
    assert wrong(read_audit[0]) == []


@pytest.fixture
def published(audit):
    store, made = audit
    publishing.publish(store)
    return store, made


def test_a_file_that_is_gone_is_told_and_so_is_the_table_that_needs_it(published):
    store, made = published
    [gone] = [entry.path for entry in store.list(f"{made.roles['split/least']}/units") if "members" in entry.path]
    store.delete(gone)
    row, output = sorted(wrong(store), reverse=True)
    assert row.startswith("row without run: cannot tell: IO Error: ") and gone in row
    assert output == f"output without file: run {made.roles['split/least']}, name members, path {gone}"


def test_a_file_that_was_cut_short_is_told(published):
    store, made = published
    [short] = [entry for entry in store.list(f"{made.roles['split/least']}/units") if "members" in entry.path]
    store.put(short.path, store.get(short.path) + b" ")
    [line] = [line for line in wrong(store) if line.startswith("output of another size: ")]
    assert line.endswith(f"path {short.path}, bytes {short.size}, bytes_there {short.size + 1}")


def test_rows_and_inputs_whose_run_is_gone_are_told(published):
    store, made = published
    gone = made.roles["embed/b"]
    store.delete(f"{gone}/run.json")
    publishing.publish(Store(store.root))
    lines = wrong(store)
    assert f"row without run: table study_runs, run {gone}, rows 1" in lines
    assert f"input without run: run {made.roles['search/b/t1']}, input {gone}" in lines
    assert {line.split(":")[0] for line in lines} == {"row without run", "input without run"}
