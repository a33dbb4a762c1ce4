"""`simgap register`: a checkpoint from elsewhere joins the table of checkpoints and test sets."""

from pydantic import TypeAdapter, ValidationError

from simgap import dag_runs, flow, runs, worker
from simgap.errors import SimgapError
from simgap.requests import Register
from simgap.steps import pretrained_tower
from simgap.store import Store
from simgap.study import REGISTERED, Name


def register(store: Store, name: str, model: str, weights: str) -> runs.Run:
    """Keeps weights (a file, or a tag of open_clip's) under a name, in place of those that had it before.

    Raises SimgapError for a name of a wrong shape, an unknown model, and weights that do not fit it.
    """
    _check(name)
    request = Register(name=name, weights=pretrained_tower(model, weights))
    if not (made := runs.find(store, request.path)):
        runs.begin(store, request)
        made = worker.do_run(store, request.path)
    resolved = f"studies/{REGISTERED}/{name}/study.json"
    dag_runs.begin(store, resolved, request.weights)
    flow.publish(store, resolved, {f"register/{name}": made.run})
    return made


def _check(name: str) -> None:
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError as error:
        raise SimgapError(
            f"name {name!r}: letters, digits and . _ - alone, at most 80, the first a letter or digit"
        ) from error
