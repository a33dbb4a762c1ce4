"""`simgap store gc`: runs that no study names any more, and what lost tries left behind."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from simgap import dag_runs, runs
from simgap.errors import SimgapError
from simgap.runs import Run
from simgap.store import Entry, Store

RUN = re.compile(r"runs/[^/\"]+/[^/\"]+")
COMMIT = "/run.json"


@dataclass(frozen=True)
class Garbage:
    """Objects of one run's folder that can go, in the order in which they go, and why."""

    run: str
    why: str
    objects: list[Entry]

    @property
    def bytes(self) -> int:
        return sum(entry.size for entry in self.objects)


def find(store: Store, grace: timedelta) -> list[Garbage]:
    """What nobody needs, and has not been touched for longer than `grace`.

    Raises SimgapError while a DAG run that began within `grace` is under way: it may use any run that it finds.
    """
    before, begun = datetime.now(UTC) - grace, dag_runs.recorded(store)
    for d in begun:
        if d["state"] == "unfinished" and d["started"] and datetime.fromisoformat(d["started"]) > before:
            raise SimgapError(
                f"studies/{d['study']}/{d['dag_run']}: under way, or killed a short while ago; wait for its end"
            )
    folders: dict[str, list[Entry]] = {}
    for entry in store.list("runs"):
        folders.setdefault("/".join(entry.path.split("/")[:3]), []).append(entry)
    committed = {run.run: run for run in runs.load_all(store, [run for run, e in folders.items() if _is_committed(e)])}
    needed = _needed(store, committed, begun)
    found = [_garbage(run, entries, committed.get(run), run in needed) for run, entries in folders.items()]
    return [part for part in found if part.objects and max(e.modified for e in part.objects) < before]


def _is_committed(entries: list[Entry]) -> bool:
    return any(entry.path.endswith(COMMIT) for entry in entries)


def _needed(store: Store, committed: dict[str, Run], begun: list[dict[str, Any]]) -> set[str]:
    """The runs that a DAG run names, those that one made which did not end well, and all that these were made from."""
    failed = {d["dag_run"] for d in begun if d["state"] != "success"}
    todo = [run for d in begun for run in d["runs"].values()]
    todo += [run.run for run in committed.values() if run.lineage.get("dag_run") in failed]
    needed: set[str] = set()
    while todo:
        new = [run for run in dict.fromkeys(todo) if run in committed and run not in needed]
        needed.update(new)
        asked = store.get_all(f"{run}/request.json" for run in new)
        todo = [run for document in asked for run in RUN.findall(document.decode())]
    return needed


def _garbage(path: str, entries: list[Entry], run: Run | None, needed: bool) -> Garbage:
    if run is None:
        return Garbage(path, "never committed", entries)
    if not needed:
        return Garbage(path, "no study names it", sorted(entries, key=lambda e: not e.path.endswith(COMMIT)))
    named = {file.path for file in runs.files_of(run)} | {path + COMMIT}
    return Garbage(path, "lost tries", [entry for entry in entries if entry.path not in named])


def remove(store: Store, garbage: Iterable[Garbage]) -> None:
    """Removes objects, run.json first: what is left of a run after a kill is no run."""
    for part in garbage:
        for entry in part.objects:
            store.delete(entry.path)
