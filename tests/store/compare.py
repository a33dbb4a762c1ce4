"""What has to hold of a study however often it was killed."""

import re
from collections import Counter
from hashlib import sha256

from buckets import Bucket

from simgap import catalog, runs, schema
from simgap.runs import Run
from simgap.store import Store
from simgap.task import VOLATILE

WRITTEN_ONCE = re.compile(r"(request|units|run|units/\d{4})\.json$")
OF_THE_DAG_RUN = ("run", "dag_run", "ended")
ABOUT_RUNS = ("runs", "run_inputs", "run_outputs", "studies", "study_runs")


def assert_complete(store: Store, roles: dict[str, str]) -> None:
    """Nothing lost and nothing twice: one run a role, each with all that it names, each unit the work of one try."""
    found = [entry.path.removesuffix("/run.json") for entry in store.list("runs") if entry.path.endswith("/run.json")]
    assert sorted(found) == sorted(set(roles.values()))
    for run in found:
        _assert_whole(store, runs.load(store, run))
    for table in schema.tables():
        everything = f"select * from tiny.{table.name}"
        assert _count(store, everything) == _count(store, f"{everything} union {everything}"), (
            f"{table.name}: rows twice"
        )
    assert _count(store, "select * from tiny.shards where listed != done + failed") == 0


def _assert_whole(store: Store, run: Run) -> None:
    assert run.counts.listed == run.counts.done + run.counts.failed, run.run
    outputs = {t.path: t for parts in run.tables.values() for t in parts} | {f.path: f for f in run.files.values()}
    for path, output in outputs.items():
        data = store.get(path)
        assert (len(data), sha256(data).hexdigest()) == (output.bytes, output.sha256), path
    tries = {path.rpartition("/units/")[2].partition(".")[0] for path in outputs}
    units = [one.partition("-")[0] for one in tries]
    assert len(units) == len(set(units)), f"{run.run}: a unit of several tries: {sorted(tries)}"


def assert_nothing_was_done_again(bucket: Bucket, prefix: str) -> None:
    """Requests, cuts, manifests and commits were each written once: a second version would be a run redone."""
    versions = Counter(
        path for path, _ in bucket.versions(prefix) if WRITTEN_ONCE.search(path) and path.startswith("runs/")
    )
    assert versions and set(versions.values()) == {1}, [path for path, count in versions.items() if count > 1]


def assert_same(store: Store, reference: Store, roles: dict[str, str], expected: dict[str, str]) -> None:
    """The same runs under the same keys, which hold the same, and the same rows."""
    assert roles == expected
    compared = [run for role, run in roles.items() if role != "report"]  # the report tells how long it all took
    assert [run for run in compared if runs.load(store, run).content != runs.load(reference, run).content] == []
    for table in schema.tables():
        if table.name not in ABOUT_RUNS:
            apart = ", ".join(name for name in table.columns if name in (*OF_THE_DAG_RUN, *VOLATILE))
            asked = f"select * exclude ({apart}) from tiny.{table.name} order by all"
            assert catalog.ask(store, asked) == catalog.ask(reference, asked), table.name


def left_behind(store: Store, roles: dict[str, str]) -> int:
    """How many objects tries left that nothing names."""
    named = {path for run in roles.values() for path in _named(store, run)}
    tried = [
        entry.path for entry in store.list("runs") if "/units/" in entry.path and not WRITTEN_ONCE.search(entry.path)
    ]
    return len(set(tried) - named)


def _named(store: Store, run: str) -> list[str]:
    manifests = [runs.manifest(store, run, unit) for unit in runs.units(store, run)]
    return [output.path for m in manifests if m for output in (*m.tables.values(), *m.files.values())]


def _count(store: Store, rows: str) -> int:
    return catalog.ask(store, f"select count(*) as n from ({rows})")["n"][0].as_py()
