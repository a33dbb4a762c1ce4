"""The run folder: request.json, units.json, a manifest for each unit done, and run.json, the commit.

runs/<stage>/<name>-<key>/
  request.json               what is asked
  units.json                 the cut into units
  units/0003-<try>.<name>    what one try of one unit made
  units/0003.json            the unit's manifest, put-if-absent: the first try to write it has done the unit
  kept/0003/<name>           what survives a killed try (a training's checkpoints)
  run.json                   the commit, put-if-absent: no run.json, no run; it has the checksum of all the others
"""

import json
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import lru_cache, partial
from hashlib import sha256
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from simgap.errors import Missing, SimgapError
from simgap.request import Frozen, Input, Request, Sealed, Unit, canonical_json
from simgap.store import OBJECTS_AT_ONCE, Store

MANIFEST = re.compile(r"runs/[^/]+/[^/]+/units/\d+\.json")


class Table(Frozen):
    """A parquet file of a unit. `content` is the sum of its parts' checksums, so it does not depend on the cut."""

    path: str
    rows: int
    bytes: int
    sha256: str
    content: str


class File(Frozen):
    path: str
    bytes: int
    sha256: str


class Counts(Frozen):
    listed: int = 0
    done: int = 0
    failed: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(listed=self.listed + other.listed, done=self.done + other.done, failed=self.failed + other.failed)


class Manifest(Frozen):
    """What one unit made, and who made it."""

    unit: Unit
    tables: dict[str, Table]
    files: dict[str, File]
    counts: Counts
    facts: dict[str, Any]
    who: dict[str, Any]
    started: datetime
    ended: datetime


class Run(Sealed):
    """run.json: a stage done once on one request."""

    run: str
    stage: str
    name: str
    key: str
    revision: int
    content: str
    inputs: list[str]
    tables: dict[str, list[Table]]
    files: dict[str, File]
    folder: list[File] = []
    """What else there is in its folder: request.json, units.json, the manifests, and what only the reduce unit read."""
    counts: Counts
    facts: list[dict[str, Any]]
    who: list[dict[str, Any]]
    lineage: dict[str, Any] = Field(default_factory=dict)
    started: datetime
    ended: datetime
    seconds: float

    def as_input(self) -> Input:
        return Input(run=self.run, content=self.content)


def begin(store: Store, request: Request, coarser: int = 1) -> None:
    """Writes what is asked and its cut into units; a request that was begun before stays as it is, cut and all."""
    if store.create(f"{request.path}/request.json", pretty(request.document())) or not store.exists(
        f"{request.path}/units.json"
    ):
        document = [unit.model_dump(mode="json") for unit in request.units(store, coarser)]
        store.create(f"{request.path}/units.json", pretty(document))


def units(store: Store, run: str) -> list[Unit]:
    return [Unit(**unit) for unit in json.loads(store.get(f"{run}/units.json"))]


def request_document(store: Store, run: str) -> dict[str, Any]:
    """Raises SimgapError when the folder holds no request."""
    try:
        return json.loads(store.get(f"{run}/request.json"))
    except Missing as error:
        raise SimgapError(
            f"{store.url(run)}: no request.json there; give a run's folder, runs/<stage>/<name>-<key>"
        ) from error


def manifest_path(run: str, unit: Unit) -> str:
    return f"{run}/units/{unit.number:04d}.json"


def manifest(store: Store, run: str, unit: Unit) -> Manifest | None:
    try:
        return Manifest.model_validate_json(store.get(manifest_path(run, unit)))
    except Missing:
        return None


def missing_units(store: Store, run: str) -> list[Unit]:
    """The units without a manifest; a reduce unit counts as missing only when it is the last one."""
    there = {entry.path for entry in store.list(f"{run}/units")}
    missing = [unit for unit in units(store, run) if manifest_path(run, unit) not in there]
    return [unit for unit in missing if not unit.reduce] or missing


def find(store: Store, run: str) -> Run | None:
    """The committed run at this place, or None."""
    try:
        return _load(store, run)
    except Missing:
        return None


def commit(store: Store, request: Request, lineage: dict[str, Any]) -> Run:
    """Writes run.json once every unit is there and the counts add up; a run committed before is returned as it is.

    Raises SimgapError when a unit is missing, a sample is neither done nor counted as failed, or units that have to be of
    one kind of device are not.
    """
    if done := find(store, request.path):
        return done
    documents = _documents(store, request.path)
    manifests = [Manifest.model_validate_json(data) for path, data in documents.items() if "/units/" in path]
    counts = sum((m.counts for m in manifests), Counts())
    if counts.listed != counts.done + counts.failed:
        raise SimgapError(
            f"{request.path}: {counts.listed:,} listed, but {counts.done:,} done and {counts.failed:,} failed:"
            f" samples are lost; nothing was committed; remove {store.url(request.path)} to do it anew"
        )
    devices = sorted({str(m.facts.get("device")) for m in manifests})
    if request.one_device and len(devices) > 1:
        raise SimgapError(
            f"{request.path}: its units were done on different devices ({', '.join(devices)}), whose numbers differ;"
            f" remove {store.url(request.path)} to do it anew on one kind"
        )
    tables, files = _outputs(manifests)
    run = Run(
        run=request.path, stage=request.stage, name=request.name, key=request.key, revision=request.revision,
        content=content_of(tables, files), inputs=request.inputs(), tables=tables, files=files,
        folder=[*_described(documents), *_partials(manifests)],
        counts=counts, facts=[m.facts for m in manifests], who=[m.who for m in manifests], lineage=lineage,
        started=min(m.started for m in manifests), ended=max(m.ended for m in manifests),
        seconds=sum((m.ended - m.started).total_seconds() for m in manifests),
    )  # fmt: skip
    store.create(f"{request.path}/run.json", run.to_bytes())
    return _load(store, request.path)


def files_of(run: Run) -> list[Table | File]:
    """All that a committed run's folder has to hold, besides run.json."""
    return [*run.folder, *(part for parts in run.tables.values() for part in parts), *run.files.values()]


def adds_up(store: Store, run: Run) -> bool:
    """Whether a run holds and counts what its units' manifests say together."""
    paths = [file.path for file in run.folder if MANIFEST.fullmatch(file.path)]
    manifests = [Manifest.model_validate_json(data) for data in store.get_all(paths)]
    counts, (tables, files) = sum((m.counts for m in manifests), Counts()), _outputs(manifests)
    balanced = counts.listed == counts.done + counts.failed
    return balanced and (counts, tables, files, content_of(tables, files)) == (
        run.counts, run.tables, run.files, run.content
    )  # fmt: skip


def content_of(tables: dict[str, list[Table]], files: dict[str, File]) -> str:
    """The checksum of what a run holds, whatever its cut into units and the names of its files."""
    sums = {name: f"{sum(int(t.content, 16) for t in parts) % (1 << 256):064x}" for name, parts in tables.items()}
    return sha256(canonical_json([sums, {name: file.sha256 for name, file in files.items()}])).hexdigest()


def read(store: Store, source: Input | str, table: str, columns: list[str] | None = None) -> pa.Table:
    """All rows of a committed run's table; no rows and no columns when the run wrote none."""
    parts = [read_file(store, file.path, columns) for file in load(store, source).tables.get(table, [])]
    return pa.concat_tables(parts) if parts else pa.table({})


def read_file(store: Store, path: str, columns: list[str] | None = None) -> pa.Table:
    with store.reader(path) as file:
        return pq.read_table(file, columns=columns)


def files(store: Store, source: Input | str) -> dict[str, str]:
    """A committed run's files: logical name to path."""
    return {name: file.path for name, file in load(store, source).files.items()}


def load(store: Store, source: Input | str) -> Run:
    """A committed run; raises `Missing` when it does not exist."""
    return _load(store, source.run if isinstance(source, Input) else source)


def load_all(store: Store, paths: Iterable[str]) -> list[Run]:
    """Committed runs, several read at once."""
    with ThreadPoolExecutor(OBJECTS_AT_ONCE) as pool:
        return list(pool.map(partial(_load, store), paths))


def find_all(store: Store, paths: Iterable[str]) -> set[str]:
    """Which of these runs are committed, several looked for at once."""
    asked = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(OBJECTS_AT_ONCE) as pool:
        return {path for path, run in zip(asked, pool.map(partial(find, store), asked), strict=True) if run}


@lru_cache(maxsize=4096)  # run.json is never written twice
def _load(store: Store, run: str) -> Run:
    return Run.model_validate_json(store.get(f"{run}/run.json"))


def _outputs(manifests: list[Manifest]) -> tuple[dict[str, list[Table]], dict[str, File]]:
    """The units' tables and files; a leading underscore marks what only the reduce unit reads."""
    tables: dict[str, list[Table]] = {}
    for manifest in manifests:
        for name, table in sorted(manifest.tables.items()):
            if not name.startswith("_"):
                tables.setdefault(name, []).append(table)
    return tables, {name: file for m in manifests for name, file in sorted(m.files.items())}


def _described(documents: dict[str, bytes]) -> Iterator[File]:
    for path, data in documents.items():
        yield File(path=path, bytes=len(data), sha256=sha256(data).hexdigest())


def _partials(manifests: list[Manifest]) -> Iterator[File]:
    for table in (table for m in manifests for name, table in m.tables.items() if name.startswith("_")):
        yield File(path=table.path, bytes=table.bytes, sha256=table.sha256)


def _documents(store: Store, run: str) -> dict[str, bytes]:
    """What the folder of a run says about it, by path: request.json, units.json, and each unit's manifest in order."""
    if missing := missing_units(store, run):
        number = missing[0].number
        raise SimgapError(f"{run}: unit {number} is not done; `simgap run {run} --unit {number}` does it")
    paths = [f"{run}/request.json", f"{run}/units.json", *(manifest_path(run, unit) for unit in units(store, run))]
    return dict(zip(paths, store.get_all(paths), strict=True))


def pretty(document: object) -> bytes:
    """A document as the store keeps it for people to read."""
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()
