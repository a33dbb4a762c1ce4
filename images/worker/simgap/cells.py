"""Re-evaluation: which cells of checkpoint x test set there are, what they ask of each stage, and which have an answer.

A checkpoint goes by `<study>/<name>`, or `registered/<name>`; a test set by `<study>/<name>`. Nothing about cells is kept
but runs and studies/: whether one is stale is worked out each time.
"""

from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatch
from typing import Any

from simgap import dag_runs, publishing, runs, steps
from simgap.errors import SimgapError
from simgap.request import Frozen, Request
from simgap.requests import Evaluate, Ingest, Score, from_document
from simgap.steps import Known, Requests
from simgap.store import Store
from simgap.study import REEVALUATE, REGISTERED, Data
from simgap.study import Score as Settings

Roles = dict[str, str]
Pair = tuple[str, str]
"""A cell: the labels of its checkpoint and its test set."""


class Checkpoint(Frozen):
    study: str
    name: str
    model: str
    run: str


class TestSet(Frozen):
    """A test set as it is now: the ingest that a study would ask for today."""

    ingest: Ingest
    protocol: str


class Cells(Frozen):
    """All that is to be answered, by label: the resolved document of a re-evaluation."""

    checkpoints: dict[str, Checkpoint]
    tests: dict[str, TestSet]
    pairs: list[Pair]
    scored: Roles
    """By study, the run in which it scored its own checkpoints."""
    lost_checkpoints: dict[str, str] = {}
    lost_tests: dict[str, str] = {}
    """What cannot be read any more, and why."""

    @property
    def lost(self) -> dict[str, str]:
        return self.lost_checkpoints | self.lost_tests


def ingest(cells: Cells, known: Known) -> Requests:
    return {f"ingest/{test}": cells.tests[test].ingest for test in dict.fromkeys(test for _, test in cells.pairs)}


def evaluate(cells: Cells, known: Known) -> Requests:
    """What the studies would ask themselves, so that what one of them has done is found."""
    return {
        f"evaluate/{checkpoint}/{test}": _evaluate(cells, known, checkpoint, test)
        for checkpoint, test in cells.pairs
        if _usable(known, test)
    }


def score(cells: Cells, known: Known) -> Requests:
    """The studies' own scores where they still hold, and those of each other cell by itself."""
    own = dict(_own_scores(cells, known))
    read = {content for request in own.values() for content in _predictions(request)}
    return dict[str, Request](own) | {
        f"score/{checkpoint}/{test}": _score(cells, known, checkpoint, test)
        for checkpoint, test in cells.pairs
        if (evaluation := f"evaluate/{checkpoint}/{test}") in known.roles
        and known.input(evaluation).content not in read
    }


STEPS: dict[tuple[str, str | None], Callable[[Cells, Known], Requests]] = {
    ("ingest", None): ingest,
    ("evaluate", None): evaluate,
    ("score", None): score,
}
"""A re-evaluation's way through the stages."""


def all_cells(store: Store) -> Cells:
    """Every checkpoint of the studies' latest finished DAG runs, and registered ones, on every test set of theirs.

    A checkpoint or test set that several studies share is one.
    """
    begun = dag_runs.recorded(store)
    registered = [d for d in begun if d["study"] == REGISTERED and d["state"] == "success"]
    studies = [d for name, d in dag_runs.latest(begun).items() if name not in (REGISTERED, REEVALUATE)]
    checkpoints = {f"{c.study}/{c.name}": c for d in [*studies, *registered] for c in _checkpoints(d)}
    there = {label: c for label, c in checkpoints.items() if runs.find(store, c.run)}
    tests, lost_tests = _tests(store, studies)
    return Cells(
        checkpoints=there,
        tests=tests,
        pairs=list(_pairs(there, tests)),
        scored={d["study"]: d["runs"]["score"] for d in studies if "score" in d["runs"]},
        lost_checkpoints={
            label: f"{store.url(c.run)}: the run is gone" for label, c in checkpoints.items() if label not in there
        },
        lost_tests=lost_tests,
    )


def chosen(cells: Cells, roles: Roles, checkpoints: list[str], tests: list[str]) -> Cells:
    """The cells that are evaluated in these runs, and those that patterns of labels (`icons/*`) choose; none means all.

    Raises SimgapError for a pattern that matches nothing.
    """
    models = _matching("checkpoint", checkpoints, [*cells.checkpoints, *cells.lost_checkpoints])
    test_sets = _matching("test set", tests, [*cells.tests, *cells.lost_tests])
    runs_chosen = {checkpoint.run for label, checkpoint in cells.checkpoints.items() if label in models}
    tests_chosen = {test.ingest.path for label, test in cells.tests.items() if label in test_sets}
    pairs = [
        (checkpoint, test)
        for checkpoint, test in cells.pairs
        if f"evaluate/{checkpoint}/{test}" in roles
        or (cells.checkpoints[checkpoint].run in runs_chosen and cells.tests[test].ingest.path in tests_chosen)
    ]
    lost = {
        "lost_checkpoints": {label: why for label, why in cells.lost_checkpoints.items() if label in models},
        "lost_tests": {label: why for label, why in cells.lost_tests.items() if label in test_sets},
    }
    return cells.model_copy(update={"pairs": pairs, **lost})


def found(store: Store, cells: Cells) -> Roles:
    """The runs of the cells that are committed, by role."""
    roles: Roles = {f"checkpoint/{label}": cells.checkpoints[label].run for label, _ in cells.pairs}
    for step in STEPS.values():
        asked = {role: request.path for role, request in step(cells, Known(store, roles)).items()}
        there = runs.find_all(store, asked.values())
        roles |= {role: path for role, path in asked.items() if path in there}
    return roles


def answered(store: Store, cells: Cells, roles: Roles) -> list[Pair]:
    """The cells that one of these runs has scored."""
    known, own = Known(store, roles), [path for study in cells.scored if (path := roles.get(f"score/{study}"))]
    read = {content for path in own for content in _predictions(_score_request(store, path))}
    return [
        (checkpoint, test)
        for checkpoint, test in cells.pairs
        if (evaluation := f"evaluate/{checkpoint}/{test}") in roles
        and (f"score/{checkpoint}/{test}" in roles or known.input(evaluation).content in read)
    ]


def _checkpoints(dag_run: dict[str, Any]) -> Iterator[Checkpoint]:
    resolved = dag_run["resolved"]
    model = resolved["model"] if dag_run["study"] == REGISTERED else (resolved["train"] or {}).get("model", "")
    for role, run in dag_run["runs"].items():
        stage, _, name = role.partition("/")
        if stage in ("train", "register"):
            yield Checkpoint(study=dag_run["study"], name=name, model=model, run=run)


def _tests(store: Store, studies: list[dict[str, Any]]) -> tuple[dict[str, TestSet], dict[str, str]]:
    """The studies' test sets as they lie there now, and those that cannot be listed, with the reason."""
    tests, lost = {}, {}
    for dag_run in studies:
        known, resolved = Known(store, dag_run["runs"]), dag_run["resolved"]
        for data in map(Data.model_validate, resolved["tests"]):
            label = f"{dag_run['study']}/{data.name}"
            try:
                asked = steps.ingest_of(data, "test", known)
            except SimgapError as error:
                lost[label] = str(error)
            else:
                tests[label] = TestSet(ingest=asked, protocol=resolved["evaluate"]["protocol"])
    return tests, lost


def _pairs(checkpoints: dict[str, Checkpoint], tests: dict[str, TestSet]) -> Iterator[Pair]:
    """Each checkpoint on each test set once; a test set goes by its name in the checkpoint's own study, if it has one."""
    of_run = {checkpoint.run: label for label, checkpoint in reversed(checkpoints.items())}
    same: dict[tuple[str, str], list[str]] = {}
    for label, test in tests.items():
        same.setdefault((test.ingest.path, test.protocol), []).append(label)
    for label in reversed(of_run.values()):
        own = f"{checkpoints[label].study}/"
        for labels in same.values():
            yield label, next((test for test in labels if test.startswith(own)), labels[0])


def _matching(what: str, patterns: list[str], labels: Iterable[str]) -> set[str]:
    there = list(labels)
    for pattern in patterns:
        if not any(fnmatch(label, pattern) for label in there):
            raise SimgapError(f"{what} {pattern!r}: there is none; there are: {', '.join(there) or '(none)'}")
    return {label for label in there if not patterns or any(fnmatch(label, pattern) for pattern in patterns)}


def _usable(known: Known, test: str) -> bool:
    run = known.roles.get(f"ingest/{test}")
    return run is not None and runs.load(known.store, run).counts.done > 0


def _evaluate(cells: Cells, known: Known, checkpoint: str, test: str) -> Evaluate:
    model, tested = cells.checkpoints[checkpoint], cells.tests[test]
    return Evaluate(
        name=f"{model.name}-{tested.ingest.name}",
        checkpoint=runs.load(known.store, model.run).as_input(),
        checkpoint_name=model.name,
        model=model.model,
        test_set=tested.ingest.name,
        samples=known.samples(test),
        protocol=tested.protocol,
    )


def _score(cells: Cells, known: Known, checkpoint: str, test: str) -> Score:
    model, settings = cells.checkpoints[checkpoint], Settings()
    return Score(
        name=f"{model.name}-{cells.tests[test].ingest.name}",
        predictions=[known.input(f"evaluate/{checkpoint}/{test}")],
        checkpoints=[runs.load(known.store, model.run).as_input()],
        compare=[],
        controls=[],
        everything=None,
        reference=None,
        resamples=settings.resamples,
        seed=settings.seed,
    )


def _own_scores(cells: Cells, known: Known) -> Iterator[tuple[str, Score]]:
    """A study's score run stands for its cells as long as all that it read is current, and no other's run is of them."""
    current = {known.input(role).content for role in known.roles if role.startswith("evaluate/")}
    for study, path in cells.scored.items():
        run = runs.find(known.store, path)
        if run is None or publishing.outdated(run):
            continue
        request = _score_request(known.store, path)
        if (read := _predictions(request)) <= current:
            current -= read
            yield f"score/{study}", request


def _score_request(store: Store, path: str) -> Score:
    request = from_document(runs.request_document(store, path))
    assert isinstance(request, Score)
    return request


def _predictions(request: Score) -> set[str]:
    """What a score run read, by content: a run is found for other inputs that hold the same."""
    return {predictions.content for predictions in request.predictions}
