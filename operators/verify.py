"""The tasks of the DAG `verify`."""

import subprocess
from datetime import timedelta
from subprocess import PIPE, STDOUT
from typing import Any

from airflow.sdk import DAG, CronTriggerTimetable, get_current_context, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from operators import tether
from operators.process import ASKED_WRONGLY, sort_output, what_went_wrong
from operators.stage import launcher
from operators.telling import Teller

EVERY_SUNDAY = "0 5 * * 0"
JOBS_AT_MOST = 500


def verify_dag(doc: str | None) -> DAG:
    return DAG(
        dag_id="verify",
        doc_md=doc,
        schedule=CronTriggerTimetable(EVERY_SUNDAY, timezone="UTC"),  # pyright: ignore[reportArgumentType]
        catchup=False,
        max_active_runs=1,
        default_args={"retries": 2, "retry_delay": timedelta(seconds=5)},
        tags=["scheduled"],
    )


@task
def check_store() -> None:
    """`simgap store check`; its words are this task's log. What is damaged stays so, so it is not tried again."""
    teller = Teller(get_current_context(), "check_store")
    command = tether.command("simgap", "store", "check")
    with teller.failures(), subprocess.Popen(command, stdout=PIPE, stderr=STDOUT, text=True, errors="replace") as child:
        assert child.stdout is not None
        last_lines = sort_output(child.stdout, print, lambda facts: teller.tell("progress", **facts))
        if code := child.wait():
            kind = AirflowFailException if code == ASKED_WRONGLY else AirflowException
            raise kind(what_went_wrong(last_lines) or f"simgap store check ended with exit code {code}")


@task
def find_certificates() -> list[dict[str, Any]]:
    """The verify runs of each study's latest finished run, as jobs to map over."""
    with Teller(get_current_context(), "find_certificates").failures():
        from simgap import dag_runs, store

        latest = dag_runs.latest(dag_runs.recorded(store.Store.from_environment())).values()
    found = sorted({run for d in latest for role, run in d["runs"].items() if role.startswith("verify/")})
    return [{"runs": found[n::JOBS_AT_MOST], "again": True} for n in range(min(JOBS_AT_MOST, len(found)))]


def certify_again(jobs: Any) -> Any:
    """Each of them done once more beside the store, and compared with what it holds."""
    certify = launcher().partial(task_id="certify_again", group="certify_again", map_index_template="{{ unit_name }}")
    return certify.expand(job=jobs)
