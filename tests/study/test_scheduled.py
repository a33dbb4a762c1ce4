"""The DAGs reevaluate and verify through Airflow in one process: a note, assets' events, a cell that fails, and damage."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from making import Made, labelled, put_test_set, tar

from operators.embedded import ROOT, Home
from simgap import catalog, runs
from simgap.store import Store

WALK = """
import json, sys
from datetime import datetime, UTC
from airflow.dag_processing.dagbag import DagBag
from airflow.models import DagRun
from airflow.models.asset import AssetEvent, AssetModel
from airflow.utils.session import create_session
from sqlalchemy import select
dag = DagBag(sys.argv[1]).dags[sys.argv[2]]
run = dag.test(logical_date=datetime.now(UTC), run_conf=json.loads(sys.argv[3]))
with create_session() as session:
    run = session.scalars(select(DagRun).where(DagRun.run_id == run.run_id)).one()
    events = session.execute(select(AssetModel.name, AssetEvent.extra).join(AssetEvent, AssetEvent.asset_id == AssetModel.id)
                             .where(AssetEvent.source_run_id == run.run_id)).all()
    first = min(ti.start_date for ti in run.get_task_instances(session=session) if ti.start_date)
    states = {}
    for ti in run.get_task_instances(session=session):
        states.setdefault(ti.task_id, []).append(str(ti.state))
    # from the first task's start: before it, Airflow imports its API, which a scheduler has done long since
    told = {"state": str(run.state), "note": run.note, "tasks": states, "run": run.run_id,
            "seconds": (run.end_date - first).total_seconds(), "events": {name: extra for name, extra in events}}
print("TOLD" + json.dumps(told))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, two_studies_once: Path) -> Home:
    """An embedded Airflow of its own, with the scheduled DAGs and the store of two studies."""
    folder = tmp_path_factory.mktemp("scheduled")
    (folder / "dags").mkdir()
    for name in ("reevaluate.py", "verify.py"):
        shutil.copy(ROOT / "dags" / name, folder / "dags")
    home = Home(folder / ".simgap", dags=folder / "dags")
    shutil.copytree(two_studies_once, home.path / "store", copy_function=os.link)
    home.prepare()
    return home


def walk(home: Home, dag_id: str, form: dict[str, list[str]] | None = None, store: str = "store") -> dict[str, Any]:
    """Goes through a DAG once; what Airflow then knows of it."""
    environment = home.environment() | {"SIMGAP_STORE": (home.path / store).as_uri()}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", WALK, str(home.dags), dag_id, json.dumps(form)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    told = [line for line in done.stdout.splitlines() if line.startswith("TOLD")]
    assert told, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(told[0].removeprefix("TOLD"))


def test_cells_are_answered_around_one_that_fails_and_then_nothing_is_stale(home: Home) -> None:
    store = Store(f"file://{home.path}/store")
    put_test_set(store, "t", labelled(range(900, 909)))
    store.put("u/test/0.tar", tar([]))
    told = walk(home, "reevaluate")
    assert told["state"] == "failed" and told["tasks"]["all_answered"] == ["failed"]
    assert told["tasks"]["publish_cells"] == told["tasks"]["score.commit"] == ["success"]
    first, second, *changed = told["note"].splitlines()
    assert [first, second] == ["one/whole-0 on two/u: failed", "two/cut-0 on two/u: failed"]
    assert len(changed) == 2 and all(" on " in line and "top1" in line for line in changed)
    assert set(told["events"]) == {"simgap_results"}
    made = told["events"]["simgap_results"]
    assert made["dag_run"] == told["run"] and len(made["runs"]) == 2
    scores = catalog.ask(store, "select distinct run from scores", "reevaluate").to_pylist()
    assert {row["run"] for row in scores} == set(made["runs"].values())

    told = walk(home, "reevaluate", {"checkpoints": ["two/*"], "tests": ["*/t"]})
    assert (told["state"], told["note"]) == ("success", "nothing is stale; cells answered: 2")
    assert {task for task, states in told["tasks"].items() if states != ["skipped"]} == {"find_stale"}
    assert told["events"] == {}
    assert told["seconds"] < 10


def test_a_damaged_certificate_is_found_twice_over(home: Home, finished_audit: tuple[Path, Made]) -> None:
    folder, made = finished_audit
    shutil.copytree(folder, home.path / "audit", copy_function=os.link)  # an etag has the file's number in it
    store = Store(f"file://{home.path}/audit")
    [table] = runs.load(store, made.roles["verify/pruned/t1"]).tables["certificates"]
    store.put(table.path, b"damaged")
    told = walk(home, "verify", store="audit")
    assert told["state"] == "failed" and told["tasks"]["check_store"] == ["failed"]
    certificates = sum(role.startswith("verify/") for role in made.roles)
    assert sorted(told["tasks"]["certify_again"]) == ["failed"] + ["success"] * (certificates - 1)
