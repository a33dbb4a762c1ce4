"""What the DAG `reevaluate` calls: find what is stale, and publish what came of it. All of it is light."""

from collections.abc import Iterator

from simgap import catalog, cells, dag_runs, flow, sql
from simgap.cells import Cells, Roles
from simgap.request import Frozen
from simgap.store import Store
from simgap.study import REEVALUATE

NOTE_LENGTH = 1000
"""Airflow keeps no more of a note."""


class Found(Frozen):
    """Where the resolved cells lie in the store, None when none is stale; and what to tell people."""

    resolved: str | None
    note: str


class Outcome(Frozen):
    """What a re-evaluation made, how many cells it could not answer, and what to tell people."""

    roles: Roles
    failed: int
    note: str


def find(store: Store, dag_run: str, checkpoints: list[str], tests: list[str]) -> Found:
    """Works out which of the chosen cells are missing or stale, and writes them down if any are.

    When all are answered, the leaderboard is brought up to date if need be, and nothing else is written.
    """
    everything = cells.all_cells(store)
    roles = cells.found(store, everything)
    asked = cells.chosen(everything, roles, checkpoints, tests)
    answered = cells.answered(store, asked, roles)
    path, stale = f"studies/{REEVALUATE}/{dag_run}/study.json", len(asked.pairs) - len(answered)
    if stale or asked.lost:
        dag_runs.begin(store, path, asked)
        return Found(resolved=path, note=f"cells missing or stale: {stale} of {len(asked.pairs)}")
    _bring_up_to_date(store, path, asked)
    return Found(resolved=None, note=f"nothing is stale; cells answered: {len(answered)}")


def publish(store: Store, resolved: str, roles: Roles) -> Outcome:
    """Writes runs.json and the catalog, also when some cells failed; says what changed and by how much."""
    asked = Cells.model_validate_json(store.get(resolved))
    answered = set(cells.answered(store, asked, roles))
    listed = _with_checkpoints(asked, roles)
    flow.publish(store, resolved, listed)
    failed = [
        f"{checkpoint} on {test}: failed" for checkpoint, test in asked.pairs if (checkpoint, test) not in answered
    ]
    broken = [f"{label}: {reason}" for label, reason in asked.lost.items()]
    lines = [*broken, *failed, *_changes(store, resolved.split("/")[2])]
    return Outcome(roles=listed, failed=len(failed) + len(broken), note=_note(lines))


def _bring_up_to_date(store: Store, path: str, asked: Cells) -> None:
    """The leaderboard is of the latest re-evaluation: where a study has changed what is found, one more is published."""
    roles, latest = cells.found(store, asked), dag_runs.latest_of(store, REEVALUATE)
    if asked.pairs and (latest is None or latest["runs"] != roles):
        dag_runs.begin(store, path, asked)
        flow.publish(store, path, roles)


def _with_checkpoints(asked: Cells, roles: Roles) -> Roles:
    return {f"checkpoint/{label}": asked.checkpoints[label].run for label, _ in asked.pairs} | roles


def _changes(store: Store, dag_run: str) -> Iterator[str]:
    """`icons/everything-0 on icons/sketch: top1 5.8 % (+0.2), top5 15.6 % (new)`, a line a cell."""
    with catalog.open_for_reading(store) as connection:
        rows = connection.execute(sql.text("catalog/changes"), {"dag_run": dag_run}).fetchall()
    for checkpoint, test_set, metrics in rows:
        yield f"{checkpoint} on {test_set}: " + ", ".join(_told(**metric) for metric in metrics)


def _told(metric: str, value: float, difference: float | None) -> str:
    return f"{metric} {value:.1%} ({'new' if difference is None else f'{100 * difference:+.1f}'})"


def _note(lines: list[str]) -> str:
    """As many lines as fit, the most telling first."""
    more = "... and {} more: simgap sql 'from score_history'"
    kept: list[str] = []
    for number, line in enumerate(lines):
        rest = more.format(len(lines) - number)
        if len("\n".join([*kept, line, rest])) > NOTE_LENGTH:
            return "\n".join([*kept, rest])
        kept.append(line)
    return "\n".join(kept) or "nothing changed"
