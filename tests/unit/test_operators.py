"""What operators do without Airflow: the feed, what people see of it, the lock, and processes that leave none behind."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from operators import feed, lock, webserver
from operators.board import Board, bars, duration, plain
from operators.embedded import Home
from simgap.errors import SimgapError

RUN = "runs/train/sketch-pruned-0-3f9a1c2e"


def event(kind: str, group: str = "train", **facts: Any) -> feed.Event:
    return {"event": kind, "time": facts.pop("time", 0.0), "group": group, **facts}


def plan(jobs: int, *runs: str) -> feed.Event:
    return event("plan", jobs=jobs, requests={run: run for run in runs}, done=[])


def progress(time: float, done: int) -> feed.Event:
    return event("progress", time=time, run=RUN, done=done, total=400, of="images", note="epoch 2/6")


def lines(board: Board, *events: feed.Event) -> list[str]:
    return [line.plain for line in board.hear(events)]


def test_a_feed_is_read_as_it_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMGAP_PROGRESS", str(tmp_path))
    path = feed.path_of(tmp_path, "study_icons", "manual__1")
    reader = feed.Reader(path)
    assert reader.new() == []
    feed.tell("study_icons", "manual__1", "plan", jobs=1)
    assert [e["jobs"] for e in reader.new()] == [1]
    with path.open("ab") as file:
        file.write(b'{"event": "un')
        file.flush()
        assert reader.new() == []
        file.write(b'it"}\n')
    assert reader.new() == [{"event": "unit"}]


def test_nobody_follows_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIMGAP_PROGRESS", raising=False)
    monkeypatch.chdir(tmp_path)
    feed.tell("study_icons", "manual__1", "plan")
    assert list(tmp_path.rglob("*")) == []


def test_a_stage_is_a_line_when_done() -> None:
    done = event("commit", line="4 models", seconds=61.2)
    (line,) = lines(Board(80), plan(1, RUN), event("unit", runs=[RUN]), done)
    assert line.startswith(" ✓ train             4 models ")
    assert line.endswith("  61 s")
    assert len(line) == 80


def test_what_was_done_before_is_said_once_and_what_has_no_requests_is_not() -> None:
    done = event("commit", line="one model", seconds=0.0)
    assert lines(Board(), plan(0, RUN), done) == [f" = train             already done ({RUN})"]
    assert lines(Board(), plan(0), done) == []


def test_what_is_under_way_shows_rate_and_time_left() -> None:
    board = Board()
    assert lines(board, plan(2, RUN), progress(10.0, 100), progress(12.0, 200)) == []
    assert list(plain(board)) == [" ▸ train             0/2 sketch-pruned-0  epoch 2/6  50%  50 images/s  0:00:04 left"]
    console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(bars(board, 120))
    assert "50 images/s  0:00:04 left" in console.export_text()


def test_a_new_try_starts_its_rate_anew() -> None:
    board = Board()
    lines(board, plan(1, RUN), progress(0.0, 100), progress(1.0, 300), progress(50.0, 20), progress(52.0, 220))
    assert "100 images/s" in next(plain(board))


def test_a_failure_is_told_and_is_the_end_only_when_final() -> None:
    board = Board()
    (again,) = lines(board, event("failed", message="x.tar: truncated", final=False))
    assert again == " ! train             x.tar: truncated (will be tried again)"
    assert not board.failed
    assert lines(board, event("failed", message="x.tar: truncated", final=True)) == [
        " ✗ train             x.tar: truncated"
    ]
    assert board.failed


@pytest.mark.parametrize(("seconds", "text"), [(0.44, "0.4 s"), (9.1, "9.1 s"), (61.2, "61 s"), (125, "2 min 05 s")])
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_lock_says_who_holds_it_and_outlives_its_first_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with lock.held(path, "make study (process 1)") as descriptor:
        heir = subprocess.Popen(["sleep", "60"], pass_fds=[descriptor])
    try:
        with pytest.raises(SimgapError, match="make study \\(process 1\\) is at work"), lock.held(path, "another"):
            pass
    finally:
        heir.kill()
        heir.wait()
    with lock.held(path, "another"):
        assert path.read_text() == "another"


@pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG")
def test_a_tethered_process_ends_with_its_killed_parent(tmp_path: Path) -> None:
    (tmp_path / "sleeper.py").write_text("import os, time; print(os.getpid(), flush=True); time.sleep(60)")
    code = "from operators import tether; import subprocess; subprocess.run(tether.command('sleeper'))"
    path = os.pathsep.join([str(tmp_path), *sys.path])
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        child.wait(10)


def test_a_session_ends_with_what_left_it() -> None:
    code = "import subprocess, time; subprocess.Popen(['sleep', '60'], start_new_session=True); time.sleep(60)"
    parent = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    while not (children := psutil.Process(parent.pid).children()):
        time.sleep(0.05)
    assert webserver.end_session(parent.pid, seconds=5) == 2
    assert not children[0].is_running() or children[0].status() == psutil.STATUS_ZOMBIE


def test_another_airflows_settings_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "postgresql://production")
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "theirs")
    environment = Home(tmp_path, port=8123).environment()
    assert environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == f"sqlite:///{tmp_path}/airflow/airflow.db"
    assert "AIRFLOW__CORE__FERNET_KEY" not in environment
    assert (environment["AIRFLOW__API__HOST"], environment["AIRFLOW__API__PORT"]) == ("127.0.0.1", "8123")


@pytest.mark.parametrize("given", ["0", "-1", "many", ""])
def test_a_number_that_is_none_is_said(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMGAP_AIRFLOW_PORT", given)
    with pytest.raises(SimgapError, match="SIMGAP_AIRFLOW_PORT"):
        Home.from_environment()
