"""DAG runs as the store records them: studies/<study>/<dag run>/study.json, what is followed, and runs.json, how it went."""

import json
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from simgap.request import Frozen, Sealed
from simgap.store import Store


class DagRun(Sealed):
    """runs.json: how a DAG run went, and every run that it made or found, by role. `study` is study.json's checksum."""

    study: str
    started: datetime
    ended: datetime | None = None
    state: str = "unfinished"
    runs: dict[str, str] = {}


def begin(store: Store, resolved: str, document: Frozen) -> None:
    """Writes what a DAG run is to follow, and that it began."""
    data = document.model_dump_json(by_alias=True, indent=1).encode()
    begun = DagRun(study=sha256(data).hexdigest(), started=datetime.now(UTC))
    store.put(_runs_json(resolved), begun.to_bytes())
    store.put(resolved, data)


def end(store: Store, resolved: str, state: str, roles: dict[str, str]) -> None:
    """Writes down in runs.json that a DAG run ended, and with which runs."""
    begun = DagRun.model_validate_json(store.get(_runs_json(resolved)))
    ended = begun.model_copy(update={"ended": datetime.now(UTC), "state": state, "runs": roles})
    store.put(_runs_json(resolved), ended.to_bytes())


def recorded(store: Store) -> list[dict[str, Any]]:
    """The DAG runs of all studies, by start: study, dag_run, started, ended, state, resolved, and runs by role."""
    there = [entry.path for entry in store.list("studies")]
    folders = [path.removesuffix("study.json") for path in there if path.endswith("/study.json")]
    begun = [folder for folder in folders if folder + "runs.json" in set(there)]
    resolved = dict(zip(folders, store.get_all(folder + "study.json" for folder in folders), strict=True))
    ended = dict(zip(begun, store.get_all(folder + "runs.json" for folder in begun), strict=True))
    found = [_dag_run(folder, data, ended.get(folder, b"{}")) for folder, data in resolved.items()]
    return sorted(found, key=lambda d: (d["started"] or "", d["dag_run"]))


def latest_of(store: Store, study: str) -> dict[str, Any] | None:
    """The last DAG run of a study that came to its end."""
    return latest(recorded(store)).get(study)


def latest(dag_runs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The last DAG run of each study that came to its end, by the study's name."""
    ended = sorted((d for d in dag_runs if d["state"] == "success"), key=lambda d: d["ended"])
    last = {d["study"]: d for d in ended}
    return {study: last[study] for study in sorted(last)}


def _dag_run(folder: str, study_json: bytes, runs_json: bytes) -> dict[str, Any]:
    _, study, dag_run, _ = folder.split("/")
    known = json.loads(runs_json)
    return {
        "study": study,
        "dag_run": dag_run,
        "started": known.get("started"),
        "ended": known.get("ended"),
        "state": known.get("state", "unfinished"),
        "resolved": json.loads(study_json),
        "runs": known.get("runs", {}),
    }


def _runs_json(resolved: str) -> str:
    return resolved.removesuffix("study.json") + "runs.json"
