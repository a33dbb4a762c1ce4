"""Goes through a study's DAG in one process, without a scheduler: `python -m operators.walk DAG_FILE DAG_ID MOMENT`.

Needs the embedded Airflow's environment and its lock: two that work on one database do the work twice.
"""

import os
import sys
from datetime import datetime
from pathlib import Path


def dag_run_of(moment: datetime) -> str:
    """The id that `dag.test()` gives the DAG run of this moment."""
    return f"manual__{moment.isoformat()}"


def walk(dag_file: Path, dag_id: str, moment: datetime) -> bool:
    """Does a DAG run; True when it ended well."""
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(str(dag_file))
    if dag_id not in bag.dags:
        print(*bag.import_errors.values(), f"{dag_file} has no DAG {dag_id}", sep="\n")
        return False
    close_abandoned()
    dag_run = bag.dags[dag_id].test(logical_date=moment, run_after=moment)
    return dag_run.state == "success"


def close_abandoned() -> None:
    """Fails the DAG runs that an earlier walk was killed in: a scheduler would take them for its own and go on."""
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from airflow.utils.state import DagRunState, State, TaskInstanceState
    from airflow.utils.types import DagRunTriggeredByType
    from sqlalchemy import select

    left = select(DagRun).where(DagRun.triggered_by == DagRunTriggeredByType.TEST, DagRun.state == DagRunState.RUNNING)
    with create_session() as session:
        for dag_run in session.scalars(left).all():
            dag_run.set_state(DagRunState.FAILED)
            for instance in dag_run.get_task_instances(state=State.unfinished, session=session):
                instance.set_state(TaskInstanceState.FAILED, session=session)


def main() -> None:
    dag_file, dag_id, moment = sys.argv[1:]
    ended_well = walk(Path(dag_file), dag_id, datetime.fromisoformat(moment))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if ended_well else 1)  # tearing down an interpreter full of Airflow takes seconds


if __name__ == "__main__":
    main()
