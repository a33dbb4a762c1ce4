"""Does units: loads the stage's function, hands it tasks, and writes what it made. The one way in, on a laptop or in a pod."""

import importlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from pydantic import ValidationError

from simgap import runs
from simgap.errors import SimgapError, StoreFailed
from simgap.request import Request, Unit
from simgap.requests import BY_STAGE, from_document
from simgap.store import Store
from simgap.task import Task


def load_request(store: Store, run: str) -> Request:
    """The request of a run's folder. Raises SimgapError when it is none of this version's."""
    document = runs.request_document(store, run)
    kind = BY_STAGE.get(document["stage"])
    if kind is None or kind.revision != document["revision"]:
        raise SimgapError(
            f"{run}: asks for {document['stage']} revision {document['revision']}, which this version does not do"
        )
    try:
        request = from_document(document)
    except ValidationError as error:
        raise SimgapError(f"{run}: request.json is none of this version's: {error.errors()[0]['msg']}") from error
    if request.path != run:
        raise SimgapError(f"{run}: request.json was changed by hand: it belongs to {request.path}")
    return request


def do_unit(store: Store, paths: Sequence[str], number: int) -> None:
    """Does one unit of one or more runs of a stage, where no other process has done it; then, if only the reduce
    unit of a run is left, that too. Safe to call again, and from two processes at once.

    Raises SimgapError for a unit that a run does not have, or a reduce unit before its time.
    """
    requests = [load_request(store, path) for path in paths]
    _do(store, [(r, unit) for r in requests if not _done(store, r, unit := _numbered(store, r, number))])
    last = [(r, unit) for r in requests for unit in runs.missing_units(store, r.path) if unit.reduce]
    _do(store, last)


def do_run(store: Store, path: str) -> runs.Run:
    """Does all that is missing of a run, one unit after another, and commits it."""
    request = load_request(store, path)
    while missing := runs.missing_units(store, path):
        do_unit(store, [path], missing[0].number)
    return runs.commit(store, request, {})


def stage_function(stage: str) -> Callable[[list[Task], Store], None]:
    return getattr(importlib.import_module(f"simgap.stages.{stage}"), stage)


def _do(store: Store, work: list[tuple[Request, Unit]]) -> None:
    together: dict[str, list[tuple[Request, Unit]]] = {}
    for request, unit in work:
        together.setdefault(request.shares(), []).append((request, unit))
    for sharing in together.values():
        _do_together(store, sharing)


def _do_together(store: Store, work: list[tuple[Request, Unit]]) -> None:
    """Does units in one go; where that fails, each by itself, so that one does not hold the others back."""
    try:
        _do_at_once(store, work)
    except StoreFailed:
        raise
    except Exception:
        if len(work) == 1:
            raise
        _do_each(store, work)


def _do_each(store: Store, work: list[tuple[Request, Unit]]) -> None:
    """Raises at the end what went wrong: first what a later try may mend, then all that a person has to, a line each."""
    failed: list[Exception] = []
    for one in work:
        try:
            _do_at_once(store, [one])
        except Exception as error:
            failed.append(error)
    for error in failed:
        if isinstance(error, StoreFailed) or not isinstance(error, SimgapError):
            raise error
    if failed:
        raise SimgapError("\n".join(map(str, failed)))


def _do_at_once(store: Store, work: list[tuple[Request, Unit]]) -> None:
    with ExitStack() as stack:
        tasks = [Task(request, unit, store) for request, unit in work]
        for task in tasks:
            stack.callback(task.close)
        stage_function(tasks[0].request.stage)(tasks, store)
        for task in tasks:
            task.finish()


def _numbered(store: Store, request: Request, number: int) -> Unit:
    units = {unit.number: unit for unit in runs.units(store, request.path)}
    if number not in units:
        raise SimgapError(f"{request.path}: has no unit {number}; its units are 0 to {max(units)}")
    if units[number].reduce and any(not unit.reduce for unit in runs.missing_units(store, request.path)):
        raise SimgapError(f"{request.path}: unit {number} puts the others together, and some of them are not done yet")
    return units[number]


def _done(store: Store, request: Request, unit: Unit) -> bool:
    return store.exists(runs.manifest_path(request.path, unit))
