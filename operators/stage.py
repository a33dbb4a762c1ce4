"""A stage in a DAG: a task group of three. `plan` finds what is missing, the units do it, `commit` makes it count.

simgap is imported where a task runs: a DAG file is read every few seconds, and DuckDB takes a while to import.
"""

import os
from pathlib import Path
from typing import Any

from airflow.sdk import TaskGroup, chain, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException

from operators import assets
from operators.process import ProcessUnit
from operators.telling import Teller
from simgap.errors import SimgapError

LAUNCHERS = {"process": ProcessUnit}

Runs = dict[str, str]
"""Role to run folder."""


def stage(
    name: str, resolved: Any, *upstream: Any, of: str | None = None, only: str | None = None, partly: bool = False
) -> Any:
    """Adds a stage to the DAG and returns the runs known after it: those of the upstream stages and its own.

    `resolved` is the resolved study's path; `of` or `only` names the part of the study that the stage is done for.
    `partly` goes on with what is whole when units fail.
    """
    part = of or only
    group = f"{name}_{part}" if part else name
    with TaskGroup(group):
        jobs: Any = plan(name, part, group, resolved, list(upstream))
        units = (
            launcher()
            .partial(task_id="units", group=group, retries=2, map_index_template="{{ unit_name }}")
            .expand(job=jobs)
        )
        runs = commit.override(trigger_rule="all_done" if partly else "none_failed")(group, jobs["plan"], partly)
        chain(units, runs)
    return runs


@task
def plan(name: str, part: str | None, group: str, resolved: str, upstream: list[Runs]) -> list[dict[str, Any]]:
    """What is missing, as jobs to map over; the plan itself goes to `commit` beside it."""
    context: Any = get_current_context()
    teller = Teller(context, group)
    runs = {role: run for known in upstream for role, run in known.items()}
    with teller.failures():
        from simgap import flow, store

        planned = flow.plan(store.Store.from_environment(), resolved, name, part, runs, teller.lineage)
    context["ti"].xcom_push("plan", {"planned": planned, "upstream": runs})
    teller.tell("plan", jobs=len(planned["jobs"]), requests=planned["requests"], done=planned["done"])
    return planned["jobs"]


@task
def commit(group: str, plan: dict[str, Any], partly: bool) -> Runs:
    """Commits what the units did, also when there was nothing to do; returns upstream's runs and these."""
    context: Any = get_current_context()
    teller = Teller(context, group, plan["planned"]["requests"].values())
    with teller.failures():
        from simgap import flow, store

        done = flow.commit(store.Store.from_environment(), plan["planned"], teller.lineage, partly=partly)
    teller.tell("commit", line=done["line"], seconds=done["seconds"])
    return plan["upstream"] | done["runs"]


@task
def resolve(study_file: str) -> str:
    """The study as this DAG run does it: the file with what was chosen in the form. Returns its path in the store."""
    context: Any = get_current_context()
    chosen = {name: list(values) for name, values in context["params"].items()}
    if "seeds" in chosen:
        chosen["seeds"] = [int(seed) for seed in chosen["seeds"]]
    with Teller(context, "resolve").failures():
        from simgap import flow, store

        return flow.resolve(store.Store.from_environment(), Path(study_file), context["ti"].run_id, chosen)


def publish(resolved: Any, runs: Any) -> None:
    """Adds the last tasks: the catalog, once all runs are there; or a word in the store that the DAG run failed."""
    chain(make_catalog.override(task_id="publish")(resolved, runs), note_failure(resolved))


@task(outlets=[assets.MADE])
def make_catalog(resolved: str, runs: Runs) -> str:
    """Writes down which runs this DAG run made or found, then the catalog. Returns the catalog's path in the store."""
    context: Any = get_current_context()
    ti = context["ti"]
    with Teller(context, "publish").failures():
        from simgap import flow, store

        there = store.Store.from_environment()
        published = flow.publish(there, resolved, runs)
        assets.tell(context["outlet_events"], ti.run_id, flow.made(there, runs, ti.dag_id, ti.run_id))
    return published


@task(trigger_rule="one_failed", retries=0)
def note_failure(resolved: str | None) -> None:
    """Writes down that the DAG run failed, and fails itself: what comes last makes a DAG run's state."""
    from simgap import dag_runs, store

    if resolved is not None:
        dag_runs.end(store.Store.from_environment(), resolved, "failed", {})
    raise AirflowFailException("the study did not end well; the first task that failed says why")


def launcher() -> type[ProcessUnit]:
    """The operator that SIMGAP_LAUNCHER names."""
    name = os.environ.get("SIMGAP_LAUNCHER", "process")
    if name not in LAUNCHERS:
        raise SimgapError(f"SIMGAP_LAUNCHER={name}: no such launcher; there is: {', '.join(LAUNCHERS)}")
    return LAUNCHERS[name]
