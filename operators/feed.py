"""The progress feed: what happens in a DAG run, a JSON line an event, written by its tasks and read by the console."""

import json
import os
import time
from pathlib import Path
from typing import Any

Event = dict[str, Any]


def path_of(folder: Path, dag_id: str, dag_run: str) -> Path:
    return folder / dag_id / f"{dag_run}.jsonl"


def tell(dag_id: str, dag_run: str, kind: str, **facts: Any) -> None:
    """Appends an event to the feed under SIMGAP_PROGRESS; where that is not set, nobody follows."""
    if not (folder := os.environ.get("SIMGAP_PROGRESS")):
        return
    path = path_of(Path(folder), dag_id, dag_run)
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"event": kind, "time": time.time(), **facts}) + "\n"
    with path.open("ab", buffering=0) as file:  # one write a line: tasks of several processes append to one file
        file.write(line.encode())


class Reader:
    """Reads a feed as it grows; a feed that does not exist yet is empty."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset, self._rest = path, 0, b""

    def new(self) -> list[Event]:
        """The events that were added since the last call."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]
