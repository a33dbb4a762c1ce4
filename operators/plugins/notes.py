"""An Airflow plugin, found through PLUGINS_FOLDER: what a task pushed as XCom `note` becomes its DAG run's note.

A task itself cannot write a note but through the REST API, with credentials. This listens where Airflow keeps the DAG run's
state, and needs none.
"""

from airflow.listeners import hookimpl
from airflow.models.dagrun import DagRun
from airflow.models.xcom import XComModel
from airflow.plugins_manager import AirflowPlugin
from airflow.utils.session import create_session
from sqlalchemy import select
from sqlalchemy.orm import Session, object_session

NOTE = "note"


class Notes:
    @hookimpl
    def on_dag_run_success(self, dag_run: DagRun, msg: str) -> None:
        note(dag_run)

    @hookimpl
    def on_dag_run_failed(self, dag_run: DagRun, msg: str) -> None:
        note(dag_run)


def note(dag_run: DagRun) -> None:
    """Takes the last note that a task of the DAG run pushed, if any did. The scheduler commits it with the state; what
    `dag.test()` gives is of no session."""
    if session := object_session(dag_run):
        _take(session, dag_run)
        return
    with create_session() as session:
        _take(session, session.get_one(DagRun, dag_run.id))


def _take(session: Session, dag_run: DagRun) -> None:
    pushed = select(XComModel).where(XComModel.dag_run_id == dag_run.id, XComModel.key == NOTE)
    last = session.scalars(pushed.order_by(XComModel.timestamp.desc()).limit(1)).first()
    if last is not None:
        dag_run.note = XComModel.deserialize_value(last)


class NotesPlugin(AirflowPlugin):
    name = "simgap_notes"
    listeners = [Notes()]
