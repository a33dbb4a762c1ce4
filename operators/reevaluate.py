"""The DAG `reevaluate`: when it runs, its form, and its first and last task."""

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, AssetOrTimeSchedule, CronTriggerTimetable, Param, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException

from operators import assets
from operators.telling import Teller

EVERY_NIGHT = "0 3 * * *"
NOTE = "note"
"""The XCom that becomes the DAG run's note (plugins/notes.py)."""


def reevaluate_dag(doc: str | None) -> DAG:
    """The empty DAG: at night, and when a checkpoint or a test set is new."""
    fields: Any = {"checkpoints": _labels("icons/everything-0", "registered/*"), "tests": _labels("icons/sketch")}
    schedule: Any = AssetOrTimeSchedule(
        timetable=CronTriggerTimetable(EVERY_NIGHT, timezone="UTC"), assets=assets.CHECKPOINTS | assets.TEST_SETS
    )
    return DAG(
        dag_id="reevaluate",
        doc_md=doc,
        schedule=schedule,
        catchup=False,
        max_active_runs=1,
        params=fields,
        default_args={"retries": 2, "retry_delay": timedelta(seconds=5)},
        tags=["scheduled"],
    )


@task.short_circuit
def find_stale() -> str | None:
    """Where the cells to answer are written down; when none is stale, nothing comes after this."""
    context: Any = get_current_context()
    ti, chosen = context["ti"], context["params"]
    with Teller(context, "find_stale").failures():
        from simgap import reevaluation, store

        found = reevaluation.find(
            store.Store.from_environment(), ti.run_id, list(chosen["checkpoints"]), list(chosen["tests"])
        )
    ti.xcom_push(NOTE, found.note)
    print(found.note)
    return found.resolved


@task(outlets=[assets.MADE])
def publish_cells(resolved: Any, runs: Any) -> dict[str, Any]:
    """Publishes the table, also when cells failed, and says what changed. Returns what there is to tell."""
    context: Any = get_current_context()
    ti = context["ti"]
    with Teller(context, "publish_cells").failures():
        from simgap import flow, reevaluation, store

        there = store.Store.from_environment()
        outcome = reevaluation.publish(there, resolved, runs)
        made = flow.made(there, outcome.roles, ti.dag_id, ti.run_id)
        results = {"score": made.get("score", {})}  # news of the test sets it read would start this DAG again
        assets.tell(context["outlet_events"], ti.run_id, results)
    ti.xcom_push(NOTE, outcome.note)
    print(outcome.note)
    return {"failed": outcome.failed, "note": outcome.note}


@task
def all_answered(outcome: Any) -> None:
    """Fails when a cell has no answer. A task of its own: one that fails tells no asset's events."""
    if outcome["failed"]:
        raise AirflowFailException(f"{outcome['failed']} without an answer:\n{outcome['note']}")


def _labels(*examples: str) -> Param:
    told = "A line each, * stands for anything; none: all of them."
    return Param([], type="array", items={"type": "string"}, examples=list(examples), description=told)
