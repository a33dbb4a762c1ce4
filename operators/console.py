"""`make study`: does a study, or shows what it found when it is done. `python -m operators.console STUDY`"""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.live import Live

from operators import feed, lock, tether, webserver
from operators.board import Board, bars, duration, plain
from operators.embedded import Home
from operators.walk import dag_run_of
from simgap import flow, show
from simgap.errors import SimgapError
from simgap.store import Store

SECONDS_BETWEEN_LOOKS = 0.2
SECONDS_BETWEEN_PLAIN_LINES = 10
SECONDS_BETWEEN_QUESTIONS = 2
SECONDS_TO_READ_A_DAG = 60
SECONDS_TO_END = 2


@dataclass(frozen=True)
class Going:
    """A DAG run under way: its feed, its state, and where to read more about it."""

    feed: Path
    state: Callable[[], str | None]
    more: str


def main() -> None:
    console = Console()
    try:
        (name,) = sys.argv[1:]
        study(name, Home.from_environment(), console)
    except (SimgapError, OSError) as error:
        Console(stderr=True).print(f"[red]error:[/] {error}", highlight=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("stopped; make study goes on from here", highlight=False)
        sys.exit(128 + signal.SIGINT)


def study(name: str, home: Home, console: Console) -> None:
    """Does what is missing of a study, the whole of it, and shows its results. Raises SimgapError when it fails."""
    file = home.dags / "studies" / f"{name}.toml"
    store, started = Store.from_url(home.store), time.monotonic()
    if flow.finished(store, file, {}) is None:
        _do(f"study_{name}", home, console)
        console.print(f"\n{name} is done, in {duration(time.monotonic() - started)}\n", highlight=False)
    show.results(store, name, console)


def _do(dag_id: str, home: Home, console: Console) -> None:
    moment = datetime.now(UTC)
    if webserver.leader(home):
        _ask_airflow(dag_id, home, moment, console)
    else:
        _walk(dag_id, home, moment, console)


def _ask_airflow(dag_id: str, home: Home, moment: datetime, console: Console) -> None:
    """Triggers the DAG in the Airflow that `make up` started, and follows it."""
    api, dag_run = webserver.api(home), dag_run_of(moment)
    if not api.healthy():
        raise SimgapError(f"Airflow at {api.url} does not answer (yet); wait, or make down and make up again")
    api.wait_for(dag_id, SECONDS_TO_READ_A_DAG)
    api.trigger(dag_id, dag_run, {})
    page = api.page(dag_id, dag_run)
    console.print(f"Airflow is up, so it does the study; follow it here or at {page}", soft_wrap=True, highlight=False)
    path = feed.path_of(home.progress, dag_id, dag_run)
    try:
        follow(Going(path, _seldom(lambda: api.state(dag_id, dag_run)), page), console)
    except KeyboardInterrupt:
        console.print(f"no longer following; Airflow goes on: {page}", soft_wrap=True, highlight=False)
        sys.exit(128 + signal.SIGINT)


def _walk(dag_id: str, home: Home, moment: datetime, console: Console) -> None:
    """Goes through the DAG in a process of its own, which ends with this one, however this one ends."""
    holder = f"{dag_id} (process {os.getpid()}, since {moment.astimezone():%H:%M})"
    log = home.logs / f"{dag_id}-{moment:%Y%m%dT%H%M%S}.log"
    with lock.held(home.path / "lock", holder) as descriptor:
        home.prepare()
        command = tether.command("operators.walk", str(home.dags / "study.py"), dag_id, moment.isoformat())
        console.print(f"Airflow starts; its log: {log}", soft_wrap=True, highlight=False)
        with log.open("wb") as file:
            walker = subprocess.Popen(
                command, env=home.environment(), stdout=file, stderr=file, start_new_session=True, pass_fds=[descriptor]
            )
        try:
            path = feed.path_of(home.progress, dag_id, dag_run_of(moment))
            follow(Going(path, lambda: _state(walker), str(log)), console)
        finally:
            _end(walker)


def _seldom(ask: Callable[[], str | None]) -> Callable[[], str | None]:
    """Asks every two seconds at most, and gives no answer in between: Airflow has the study to do."""
    asked = -math.inf

    def state() -> str | None:
        nonlocal asked
        if time.monotonic() - asked < SECONDS_BETWEEN_QUESTIONS:
            return None
        answer = ask()
        asked = time.monotonic()
        return answer

    return state


def _state(walker: subprocess.Popen[bytes]) -> str:
    code = walker.poll()
    return "running" if code is None else "failed" if code else "success"


def _end(walker: subprocess.Popen[bytes]) -> None:
    """Ends the walker and the units it started, which are of its session."""
    if walker.poll() is None:
        webserver.end_session(walker.pid, SECONDS_TO_END)
        walker.wait()


def follow(going: Going, console: Console) -> None:
    """Prints a DAG run as it goes, until it ends. Raises SimgapError when it ends badly."""
    board, reader = Board(console.width), feed.Reader(going.feed)
    state = (_follow_live if console.is_terminal else _follow_plain)(going, board, reader, console)
    if state != "success":
        raise SimgapError(f"the study did not end well; more: {going.more}")


def _follow_live(going: Going, board: Board, reader: feed.Reader, console: Console) -> str:
    with Live(console=console, transient=True, get_renderable=lambda: bars(board, console.width)) as live:
        while True:
            state = going.state()  # before the feed is read: what was told before the end is not missed
            for line in board.hear(reader.new()):
                live.console.print(line)
            if state in ("success", "failed"):
                return state
            time.sleep(SECONDS_BETWEEN_LOOKS)


def _follow_plain(going: Going, board: Board, reader: feed.Reader, console: Console) -> str:
    told = time.monotonic()
    while True:
        state = going.state()
        for line in board.hear(reader.new()):
            console.print(line, soft_wrap=True, highlight=False)
            told = time.monotonic()
        if state in ("success", "failed"):
            return state
        if time.monotonic() - told > SECONDS_BETWEEN_PLAIN_LINES:
            for words in plain(board):
                console.print(words, soft_wrap=True, highlight=False, markup=False)
            told = time.monotonic()
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _stop(signum: int, _frame: object) -> None:
    sys.exit(128 + signum)


if __name__ == "__main__":
    if "MAKELEVEL" in os.environ:
        tether.tether(os.getppid())  # make that is killed leaves nothing behind either
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGHUP, _stop)
    main()
