"""What a scheduler calls: resolve a study, plan and commit its stages, publish what came of it. All of it is light."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from simgap import catalog, cells, dag_runs, events, publishing, runs, steps, summary
from simgap import study as studies
from simgap.errors import SimgapError, StoreFailed
from simgap.request import Frozen, Request
from simgap.requests import from_document
from simgap.store import Store
from simgap.study import REEVALUATE, Study

Roles = dict[str, str]
PAIRS_AT_MOST = 500
"""(request, unit) pairs of a stage: each may become a mapped task, and Airflow maps over 1,024 at most."""


class Job(Frozen):
    """One process's work: the same unit of several runs that share what is expensive to load."""

    runs: list[str]
    unit: int


class Plan(Frozen):
    """A stage of a study: its requests by role, what is still to be done, and which roles were committed before."""

    stage: str
    part: str | None
    requests: Roles
    jobs: list[Job]
    done: list[str]


def resolve(store: Store, study_file: Path, dag_run: str, parameters: dict[str, Any]) -> str:
    """Writes the study as this DAG run will follow it, file and form together; returns its path in the store."""
    study = studies.load(study_file).chosen(**parameters)
    path = f"studies/{study.name}/{dag_run}/study.json"
    dag_runs.begin(store, path, study)
    return path


def plan(
    store: Store, resolved: str, stage: str, part: str | None, runs_so_far: Roles, lineage: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Writes the requests that are not there yet, and says which units are missing; `lineage` is who asks, as in `commit`."""
    requests = _asked(store, resolved, stage, part, steps.Known(store, runs_so_far))
    done = [role for role, request in requests.items() if runs.find(store, request.path)]
    todo = list({request.path: request for role, request in requests.items() if role not in done}.values())
    coarser = _coarser(store, todo)
    for request in todo:
        runs.begin(store, request, coarser)
    events.start(store, todo, lineage or {})
    paths = {role: request.path for role, request in requests.items()}
    return Plan(stage=stage, part=part, requests=paths, jobs=list(_jobs(store, todo)), done=done).model_dump()


def commit(store: Store, plan: dict[str, Any], lineage: dict[str, Any], *, partly: bool = False) -> dict[str, Any]:
    """Commits a stage's runs once all their units are there; returns them by role, a line for people, and the time.

    `partly` commits those that are whole, and says of how many that is not so.
    """
    stage, made = Plan(**plan), {}
    try:
        for role, path in stage.requests.items():
            if run := _committed(store, path, lineage, partly=partly):
                made[role] = run
    finally:  # one that cannot be committed leaves those before it committed
        fresh = [run for role, run in made.items() if role not in stage.done]
        events.complete(store, fresh, lineage)
    failed = len(stage.requests) - len(made)
    return {
        "runs": {role: run.run for role, run in made.items()},
        "line": summary.line(store, stage.stage, list(made.values())) + (f" · {failed} failed" if failed else ""),
        "seconds": (max(r.ended for r in fresh) - min(r.started for r in fresh)).total_seconds() if fresh else 0.0,
    }


def made(store: Store, roles: Roles, dag_id: str, dag_run: str) -> dict[str, Roles]:
    """Those of the runs that this DAG run made itself, by role, by kind: their stage, or dataset or test_set."""
    kinds: dict[str, Roles] = {}
    for (role, path), run in zip(roles.items(), runs.load_all(store, roles.values()), strict=True):
        if (run.lineage.get("dag_id"), run.lineage.get("dag_run")) == (dag_id, dag_run):
            kinds.setdefault(_kind(store, run), {})[role] = path
    return kinds


def _kind(store: Store, run: runs.Run) -> str:
    if run.stage != "ingest":
        return run.stage
    return "test_set" if runs.request_document(store, run.run)["parameters"]["role"] == "test" else "dataset"


def publish(store: Store, resolved: str, roles: Roles) -> str:
    """Writes down in runs.json how the DAG run ended, then makes the catalog; returns the catalog's path."""
    dag_runs.end(store, resolved, "success", roles)
    return publishing.publish(store)


def finished(store: Store, study_file: Path, parameters: dict[str, Any]) -> Roles | None:
    """The study's runs by role if every one of them is committed and published; None when something is left to do."""
    study = studies.load(study_file).chosen(**parameters)
    roles: Roles = {}
    try:
        for step in steps.STEPS.values():
            requests = step(study, steps.Known(store, roles))
            if not all(runs.find(store, request.path) for request in requests.values()):
                return None
            roles |= {role: request.path for role, request in requests.items()}
    except SimgapError:
        return None  # what is wrong is told by the stage itself, in its place
    return roles if _published(store, study, roles) else None


def _asked(store: Store, resolved: str, stage: str, part: str | None, known: steps.Known) -> dict[str, Request]:
    """What a stage is asked for: by a study, or by the cells of a re-evaluation."""
    document = store.get(resolved)
    if resolved.split("/")[1] == REEVALUATE:
        return cells.STEPS[stage, part](cells.Cells.model_validate_json(document), known)
    return steps.STEPS[stage, part](Study.model_validate_json(document), known)


def _committed(store: Store, path: str, lineage: dict[str, Any], *, partly: bool) -> runs.Run | None:
    try:
        return runs.commit(store, _request(store, path), lineage)
    except StoreFailed:
        raise
    except SimgapError:
        if partly:
            return None
        raise


def _published(store: Store, study: Study, roles: Roles) -> bool:
    found = dag_runs.latest_of(store, study.name)
    return found is not None and found["runs"] == roles and catalog.holds(store, study.name, found["dag_run"])


def _coarser(store: Store, requests: list[Request]) -> int:
    """How many times larger than usual the units have to be, so that there are no more than PAIRS_AT_MOST."""
    least = 2 * len(requests)  # one unit each, and one to reduce
    coarser = 1
    while sum(len(request.units(store, coarser)) for request in requests) > max(PAIRS_AT_MOST, least):
        coarser *= 2
    return coarser


def _jobs(store: Store, requests: list[Request]) -> Iterator[Job]:
    together: dict[tuple[str, int], list[str]] = {}
    for request in requests:
        for unit in runs.missing_units(store, request.path):
            together.setdefault((request.shares(), unit.number), []).append(request.path)
    for (_, unit), paths in together.items():
        yield Job(runs=paths, unit=unit)


def _request(store: Store, path: str) -> Request:
    return from_document(runs.request_document(store, path))
