"""One unit of one request while it is being done: where a stage writes, and what becomes its manifest."""

import os
import platform
import secrets
import socket
import tempfile
from datetime import UTC, datetime
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any, Generic, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from simgap import progress, runs
from simgap.request import Request, Unit
from simgap.store import Store, told
from simgap.version import code_version

VOLATILE = ("images_per_second", "uri", "etag", "role")
"""Columns about the machine, the place and the use, not the data: stored, but no part of what a run holds."""

Asked = TypeVar("Asked", bound=Request)


class Task(Generic[Asked]):
    """What a stage is handed for one unit. Everything it makes becomes visible at once, with the manifest."""

    def __init__(self, request: Asked, unit: Unit, store: Store) -> None:
        self.request, self.unit, self._store = request, unit, store
        self._folder = tempfile.TemporaryDirectory(prefix="simgap-")
        self.scratch = Path(self._folder.name)
        self._try = f"{request.path}/units/{unit.number:04d}-{secrets.token_hex(4)}"
        self._writers: dict[str, _Writer] = {}
        self._files: dict[str, runs.File] = {}
        self._counts = runs.Counts()
        self._facts: dict[str, Any] = {}
        self._started = datetime.now(UTC)

    def write(self, table: str, rows: pa.Table | pa.RecordBatch) -> None:
        """Appends the rows of one shard (or of a whole table that has no shards) to a parquet file."""
        rows = pa.Table.from_batches([rows]) if isinstance(rows, pa.RecordBatch) else rows
        with told(str(self.scratch)):
            if table not in self._writers:
                self._writers[table] = _Writer(self.scratch / f"{table}.parquet", rows.schema)
            self._writers[table].write(rows)

    def attach(self, name: str, path: Path) -> None:
        """Adds a file under its logical name."""
        self._files[name] = self._send(name.replace("/", "."), path)

    def count(self, listed: int = 0, done: int = 0, failed: int = 0) -> None:
        """Adds to the counts that have to balance before the run is committed."""
        self._counts += runs.Counts(listed=listed, done=done, failed=failed)

    def note(self, **facts: Any) -> None:
        """Keeps small facts about how it went in the manifest, outside of what the run holds."""
        self._facts |= facts

    def progress(self, done: int, total: int, of: str = "images", note: str = "") -> None:
        progress.report(self.request.path, done, total, of, note)

    def partials(self, table: str) -> list[pa.Table]:
        """For a reduce unit: what the other units wrote under this name, in the units' order."""
        manifests = [
            runs.manifest(self._store, self.request.path, u) for u in runs.units(self._store, self.request.path)
        ]
        paths = [m.tables[table].path for m in manifests if m and table in m.tables]
        return [runs.read_file(self._store, path) for path in paths]

    def keep(self, name: str, path: Path) -> None:
        """Stores a file at once, for a later try of this unit to go on from."""
        self._store.upload(self._kept(name), path)

    def kept(self) -> list[str]:
        return [entry.path.rpartition("/")[2] for entry in self._store.list(self._kept("").rstrip("/"))]

    def fetch_kept(self, name: str, path: Path) -> None:
        self._store.download(self._kept(name), path)

    def finish(self) -> bool:
        """Uploads, then writes the manifest; False when another try had done the unit before."""
        tables = {name: self._close(name, writer) for name, writer in self._writers.items()}
        manifest = runs.Manifest(
            unit=self.unit, tables=tables, files=self._files, counts=self._counts, facts=self._facts,
            who=_who(), started=self._started, ended=datetime.now(UTC),
        )  # fmt: skip
        path = runs.manifest_path(self.request.path, self.unit)
        return self._store.create(path, manifest.model_dump_json(indent=1).encode())

    def close(self) -> None:
        with self._folder, told(str(self.scratch)):
            for writer in self._writers.values():
                writer.close()

    def _kept(self, name: str) -> str:
        return f"{self.request.path}/kept/{self.unit.number:04d}/{name}"

    def _close(self, name: str, writer: "_Writer") -> runs.Table:
        with told(str(self.scratch)):
            writer.close()
        sent = self._send(f"{name}.parquet", writer.path)
        return runs.Table(**sent.model_dump(), rows=writer.rows, content=f"{writer.content:064x}")

    def _send(self, name: str, path: Path) -> runs.File:
        with path.open("rb") as file:
            digest = file_digest(file, "sha256").hexdigest()
        target = f"{self._try}.{name}"
        self._store.upload(target, path)
        return runs.File(path=target, bytes=path.stat().st_size, sha256=digest)


class _Writer:
    """A parquet file with a row group for each part, and the sum of the parts' checksums."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path, self.rows, self.content = path, 0, 0
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")

    def write(self, rows: pa.Table) -> None:
        self._writer.write_table(rows, row_group_size=max(1, rows.num_rows))
        self.rows += rows.num_rows
        if rows.num_rows:
            self.content = (self.content + checksum(rows)) % (1 << 256)

    def close(self) -> None:
        self._writer.close()


def checksum(rows: pa.Table) -> int:
    """A checksum of the rows in their order, as one number; volatile columns are left out."""
    rows = rows.drop_columns([name for name in VOLATILE if name in rows.column_names])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as stream:
        stream.write_table(pa.concat_tables([rows]).combine_chunks())
    return int.from_bytes(sha256(sink.getvalue()).digest())


def _who() -> dict[str, Any]:
    """The process that did it: recorded, never hashed. What ran in Airflow carries its task's names."""
    asked_by = {
        name: os.environ[f"SIMGAP_{name.upper()}"]
        for name in ("map_index", "try_number")
        if f"SIMGAP_{name.upper()}" in os.environ
    }
    return {
        "host": socket.gethostname(),
        "image": os.environ.get("SIMGAP_IMAGE", ""),
        "code_version": code_version(),
        "python": platform.python_version(),
        **asked_by,
    }
