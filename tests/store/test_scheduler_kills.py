"""A study under Airflow's own scheduler: its unit, the task around it, and all of Airflow are killed while it runs."""

import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from buckets import Bucket
from compare import assert_complete, assert_nothing_was_done_again, assert_same
from disturbed import Reference
from making import wait_for
from through_airflow import is_manifest

from operators import webserver
from operators.embedded import ROOT, Home
from simgap import flow
from simgap.store import Store

pytestmark = pytest.mark.timeout(900)
SECONDS_FOR_A_STUDY = 700
UNITS_BEFORE = {"unit": 3, "task": 6, "airflow": 9}
"""Each is killed once, when a unit is under way after so many are done."""


@pytest.fixture
def home(bucket: Bucket, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    (tmp_path / "dags" / "studies").mkdir(parents=True)
    shutil.copy(ROOT / "dags" / "study.py", tmp_path / "dags")
    shutil.copy(tiny, tmp_path / "dags" / "studies")
    monkeypatch.setenv("SIMGAP_STORE", bucket.store("scheduled"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return Home(tmp_path / ".simgap", dags=tmp_path / "dags", port=port)


def test_a_study_goes_on_whatever_is_killed(home: Home, bucket: Bucket, undisturbed: Reference) -> None:
    with webserver.running(home) as api:
        api.wait_for("study_tiny", 60)
        api.trigger("study_tiny", "killed", {})
        for victim, units in UNITS_BEFORE.items():
            wait_for(lambda units=units: _units_done(bucket) >= units and list(_units(home)), SECONDS_FOR_A_STUDY)
            kill(home, victim)
        wait_for(lambda: api.state("study_tiny", "killed") in ("success", "failed"), SECONDS_FOR_A_STUDY)
        assert api.state("study_tiny", "killed") == "success"
    store = Store(bucket.store("scheduled"))
    roles = flow.finished(store, home.dags / "studies" / "tiny.toml", {})
    assert roles
    assert_complete(store, roles)
    assert_nothing_was_done_again(bucket, "scheduled")
    assert_same(store, undisturbed.store, roles, undisturbed.roles)


def kill(home: Home, victim: str) -> None:
    if victim == "airflow":
        for process in webserver.processes(webserver.leader(home)):
            process.send_signal(signal.SIGKILL)
        wait_for(lambda: webserver.leader(home) is None, 10)
        webserver.up(home)
    else:
        unit = next(_units(home))
        (unit.parent() if victim == "task" else unit).send_signal(signal.SIGKILL)


def _units(home: Home) -> Iterator[psutil.Process]:
    """Processes that do a unit, of this Airflow."""
    leader = webserver.leader(home)
    for process in webserver.processes(leader) if leader else ():
        try:
            if " simgap run " in " ".join(process.cmdline()):
                yield process
        except psutil.NoSuchProcess:
            continue


def _units_done(bucket: Bucket) -> int:
    return sum(is_manifest(path) for path, _ in bucket.versions("scheduled"))
