"""Where does it come from, and what was made from it? The graph of runs, read from run.json and request.json alone."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simgap import dag_runs, publishing, runs
from simgap.errors import SimgapError
from simgap.runs import Run
from simgap.store import FOLDER, Store

RUN_FOLDER = re.compile(r"runs/[^/]+/[^/]+")
NAMED_AT_MOST = 20
Edges = dict[str, list[str]]
"""From a run to those next to it, by their folders."""


@dataclass(frozen=True)
class Node:
    """A run in a tree, and the runs next to it: None where an earlier node shows them."""

    path: str
    next: list["Node"] | None


def up(store: Store, path: str) -> Edges:
    """What a run was made from, back to where the data came from."""
    return _reached(path, lambda run: sources(store, run))


def down(store: Store, path: str) -> Edges:
    """What was made from a run, of all that is committed."""
    made: Edges = {}
    for run in publishing.committed(store):
        for source in sources(store, run.run):
            made.setdefault(source, []).append(run.run)
    return _reached(path, lambda run: sorted(made.get(run, [])))


def sources(store: Store, path: str) -> list[str]:
    """The runs that a run read: its inputs, and those whose folders its shards lie in. None of a run that is gone."""
    run = runs.find(store, path)
    if run is None:
        return []
    fetched = {run_of(store, place) for _, place in _listed(store, run)}
    return sorted({*run.inputs, *filter(None, fetched)})


def tree(path: str, edges: Edges) -> Node:
    """The graph from one run on; what hangs on a run is in the tree once."""
    return _tree(path, edges, set())


def data_sets(store: Store, paths: Iterable[str], *, shards: bool) -> dict[str, dict[str, Any]]:
    """Rows of the catalog's `datasets` by ingest run, each with its rows of `shards`, if asked for, as `listed`."""
    ingested = [path for path in paths if path.startswith("runs/ingest/") and runs.find(store, path)]
    with publishing.connect(store, ingested) as connection:
        rows = connection.sql("from datasets").to_arrow_table().to_pylist()
        listed = connection.sql("from shards order by shard").to_arrow_table().to_pylist() if shards else []
    found = {row["run"]: row | {"listed": []} for row in rows}
    for shard in listed:
        found[shard["run"]]["listed"].append(shard)
    return found


def named_by(store: Store) -> dict[str, dict[str, list[str]]]:
    """The DAG runs that name a run, by study, for each run that is named."""
    found: dict[str, dict[str, list[str]]] = {}
    for dag_run in dag_runs.recorded(store):
        for run in sorted(set(dag_run["runs"].values())):
            found.setdefault(run, {}).setdefault(dag_run["study"], []).append(dag_run["dag_run"])
    return found


def run_of(store: Store, place: str) -> str | None:
    """The folder of the run that a path or URL is in, by its name alone."""
    found = RUN_FOLDER.match(place.removeprefix(store.root + "/"))
    return found[0] if found else None


def resolve(store: Store, what: str, study: str | None = None) -> str:
    """The folder of the run that is meant: by its folder, a file in it, a shard that it read, or the name of a split or
    checkpoint in the latest finished DAG run of a study.

    Raises SimgapError when there is none, or more than one.
    """
    place = _relative(store, what)
    if folder := run_of(store, place):
        return _existing(store, folder)
    latest = _latest_roles(store, study)
    found = _named(latest, what) | _read_from(store, place, latest if study else None)
    if not found:
        there = f"of {study or 'any study'}; there are: {_few(_names(latest))}"
        raise SimgapError(f"{what}: no run's folder, no shard, and no split or checkpoint {there}")
    if len(found) > 1:
        told = ", ".join(f"{run} ({', '.join(whose)})" if whose else run for run, whose in sorted(found.items()))
        raise SimgapError(f"{what}: could be {told}; give a run's folder, or the study with --study")
    return next(iter(found))


def _reached(start: str, following: Callable[[str], list[str]]) -> Edges:
    edges: Edges = {}
    waiting = [start]
    while waiting:
        run = waiting.pop()
        if run not in edges:
            edges[run] = following(run)
            waiting += edges[run]
    return edges


def _tree(path: str, edges: Edges, seen: set[str]) -> Node:
    if path in seen:
        return Node(path, None)
    seen.add(path)
    return Node(path, [_tree(other, edges, seen) for other in edges[path]])


def _listed(store: Store, run: Run) -> list[tuple[str, str]]:
    """An ingest's shards and the files beside them, as its request lists them: path in the data set, place in or out of
    the store. No other stage has any."""
    if run.stage != "ingest":
        return []
    parameters = runs.request_document(store, run.run)["parameters"]
    files = [file for kind in ("shards", "labels", "records") for file in parameters.get(kind, [])]
    return [(file["path"], file["uri"].removeprefix(store.root + "/")) for file in files]


def _relative(store: Store, place: str) -> str:
    """A place as a path in the store, if it is there: given as a URL, or in a folder as a file's own name."""
    place = place.removeprefix(store.root + "/")
    folder = Path(store.root.removeprefix(FOLDER))
    if store.root.startswith(FOLDER) and "/" in place and "://" not in place:
        absolute = Path(place).absolute()
        return absolute.relative_to(folder).as_posix() if absolute.is_relative_to(folder) else place
    return place


def _existing(store: Store, folder: str) -> str:
    if runs.find(store, folder):
        return folder
    there = [run.run for run in publishing.committed(store)]
    of_stage = [run for run in there if run.startswith(folder.rpartition("/")[0] + "/")]
    raise SimgapError(f"{folder}: no committed run; there are: {_few(of_stage or there)}")


def _latest_roles(store: Store, study: str | None) -> dict[str, dict[str, str]]:
    """The roles of each study's latest finished DAG run, or of one study's."""
    names = sorted({d["study"] for d in dag_runs.recorded(store)})
    if study is not None and study not in names:
        raise SimgapError(f"study {study!r}: none of the store's: {_few(names)}")
    latest = {name: dag_runs.latest_of(store, name) for name in names if study in (None, name)}
    return {name: found["runs"] for name, found in latest.items() if found}


def _named(latest: dict[str, dict[str, str]], name: str) -> dict[str, list[str]]:
    """The split or checkpoint of this name, and the studies that have it."""
    found: dict[str, list[str]] = {}
    for study, roles in latest.items():
        for role in (f"split/{name}", f"train/{name}"):
            if role in roles:
                found.setdefault(roles[role], []).append(study)
    return found


def _read_from(store: Store, place: str, of: dict[str, dict[str, str]] | None) -> dict[str, list[str]]:
    """The ingest runs that read a shard: all of them, or those of studies."""
    known = {run for roles in of.values() for run in roles.values()} if of is not None else None
    ingested = [
        run for run in publishing.committed(store) if run.stage == "ingest" and (known is None or run.run in known)
    ]
    return {run.run: [] for run in ingested if any(place in names for names in _listed(store, run))}


def _names(latest: dict[str, dict[str, str]]) -> list[str]:
    """The names of all splits and checkpoints."""
    named = (role.split("/", 1) for roles in latest.values() for role in roles if "/" in role)
    return sorted({name for stage, name in named if stage in ("split", "train")})


def _few(names: list[str]) -> str:
    more = [f"and {len(names) - NAMED_AT_MOST} more"] if len(names) > NAMED_AT_MOST else []
    return ", ".join([*names[:NAMED_AT_MOST], *more]) or "(none)"
