"""`simgap store check`: does the store still hold what was committed, to the last byte?

It looks at every run.json and all that it names, by size and checksum; at every DAG run's record; at the shards of each
study's latest DAG run; and at the catalog, by its own checksum and against what the runs say.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from simgap import catalog, checks, dag_runs, publishing, runs
from simgap.dag_runs import DagRun
from simgap.errors import Missing, SimgapError
from simgap.runs import File, Run, Table
from simgap.store import BLOCKS_AT_ONCE, Store

Progress = Callable[[int, int], object]
"""Is told how many bytes were read, and how many there are."""
ALTERED = "is not as it was written"
GONE = "is gone"


def check(store: Store, progress: Progress = lambda done, total: None) -> Iterator[str]:
    """What is wrong, a line each; nothing when all is as it was committed. Reads all that committed runs hold."""
    whole = True
    for line in _recorded(store, progress):
        whole = False
        yield line
    if whole:  # what they say of shards and of the catalog can be trusted
        yield from _shards(store)
        yield from _catalog(store)


def _recorded(store: Store, progress: Progress) -> Iterator[str]:
    """Runs and DAG runs."""
    committed: list[Run] = []
    for path, data in _all(store, "runs", "/run.json"):
        run = Run.from_bytes(data)
        if run and f"{run.run}/run.json" == path:
            committed.append(run)
        else:
            yield f"{path}: {ALTERED}"
    yield from _files(store, [file for run in committed for file in runs.files_of(run)], progress)
    yield from (f"{run.run}: does not add up to what its units did" for run in committed if not _adds_up(store, run))
    yield from _dag_runs(store, {run.run for run in committed})


def _all(store: Store, folder: str, ending: str) -> Iterator[tuple[str, bytes]]:
    paths = [entry.path for entry in store.list(folder) if entry.path.endswith(ending)]
    yield from zip(paths, store.get_all(paths), strict=True)


def _files(store: Store, files: list[Table | File], progress: Progress) -> Iterator[str]:
    done, total = 0, sum(file.bytes for file in files)
    with ThreadPoolExecutor(BLOCKS_AT_ONCE) as pool:
        for file, found in zip(files, pool.map(lambda file: _digest(store, file.path), files), strict=True):
            done += file.bytes
            progress(done, total)
            if found != file.sha256:
                yield f"{file.path}: {ALTERED if found else GONE}"


def _digest(store: Store, path: str) -> str | None:
    """An object's sha256; None where there is none."""
    try:
        return store.sha256(path)
    except Missing:
        return None


def _adds_up(store: Store, run: Run) -> bool:
    """A manifest that is gone or cannot be read was told of already."""
    try:
        return runs.adds_up(store, run)
    except (SimgapError, ValueError):
        return True


def _dag_runs(store: Store, committed: set[str]) -> Iterator[str]:
    for path, data in _all(store, "studies", "/runs.json"):
        if (dag_run := DagRun.from_bytes(data)) is None:
            yield f"{path}: {ALTERED}"
            continue
        study = path.removesuffix("runs.json") + "study.json"
        yield from (f"{run}: {GONE}, and {path} names it" for run in dag_run.runs.values() if run not in committed)
        if (found := _digest(store, study)) != dag_run.study:
            yield f"{study}: {ALTERED if found else GONE}"


def _shards(store: Store) -> Iterator[str]:
    """The data where it lies, as it was when it was last ingested for a study."""
    ended = dag_runs.latest(dag_runs.recorded(store)).values()
    named = {run for d in ended for role, run in d["runs"].items() if role.startswith("ingest/")}
    last: dict[str, tuple[str, dict[str, str]]] = {}
    for run in sorted(runs.load_all(store, named), key=lambda run: run.ended):
        for shard in runs.read(store, run.run, "shards", ["uri", "etag", "sha256"]).to_pylist():
            last[shard["uri"]] = run.run, shard
    for uri, (path, shard) in last.items():
        if shard["sha256"] and not _is(store, **shard):
            yield f"{store.url(uri)}: changed, or gone, since {path}"


def _is(store: Store, uri: str, etag: str, sha256: str) -> bool:
    """An etag tells that a shard is the one ingested; where it is another, as in a store that was moved, the checksum."""
    try:
        return store.head(uri).etag == etag or store.sha256(uri) == sha256
    except Missing:
        return False


def _catalog(store: Store) -> Iterator[str]:
    anew = "`simgap catalog` makes it anew"
    if not store.exists(catalog.PATH):
        if any(d["state"] == "success" for d in dag_runs.recorded(store)):
            yield f"{catalog.PATH}: {GONE}; {anew}"
    elif not publishing.intact(store):
        yield f"{catalog.PATH}: {ALTERED}; {anew}"
    elif tables := publishing.stale(store):
        yield from (f"{catalog.PATH}: table {table} does not hold what the runs say; {anew}" for table in tables)
    else:
        listed = [{"path": entry.path, "bytes": entry.size} for entry in store.list("runs")]
        with catalog.open_for_reading(store) as connection:
            yield from checks.wrong(connection, pa.Table.from_pylist(listed))
