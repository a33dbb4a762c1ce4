"""`make up` and `make down`: Airflow with its web UI on this machine. `python -m operators.webserver up|down`"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import psutil
from rich.console import Console

from operators import lock, tether
from operators.api import Api
from operators.embedded import Home
from simgap.errors import SimgapError

SECONDS_TO_START = 120
SECONDS_TO_END = 5
SKIP_LOGS = "--skip-serve-logs"


def up(home: Home) -> str:
    """Starts Airflow in a session of its own, waits until it is healthy, and returns its URL; nothing if it is up.

    Raises SimgapError when a study is under way without it, or when it does not start.
    """
    if leader(home):
        return api(home).url
    log = home.logs / "airflow.log"
    with lock.held(home.path / "lock", f"make up (process {os.getpid()}, since {datetime.now():%H:%M})") as descriptor:
        _refuse_taken_port(home)
        home.prepare()
        with log.open("wb") as file:
            serve = [sys.executable, "-m", "operators.webserver", "serve"]
            child = subprocess.Popen(
                serve, env=home.environment(), stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                start_new_session=True, pass_fds=[descriptor],
            )  # fmt: skip
    _state_file(home).write_text(json.dumps({"session": child.pid, "folder": os.getcwd(), "url": home.url}))
    try:
        _wait(home, child, log)
    except BaseException:
        down(home)
        raise
    return home.url


def down(home: Home) -> int:
    """Ends every process that `up` started, and what those started; returns how many."""
    session = leader(home)
    ended = end_session(session, SECONDS_TO_END) if session else 0
    _state_file(home).unlink(missing_ok=True)
    return ended


@contextmanager
def running(home: Home) -> Iterator[Api]:
    """An embedded Airflow with a scheduler, for as long as the context lasts."""
    up(home)
    try:
        yield api(home)
    finally:
        down(home)


def leader(home: Home) -> int | None:
    """The session of the Airflow that `up` started, if any of its processes lives."""
    if not _state_file(home).exists():
        return None
    state = json.loads(_state_file(home).read_text())
    alive = [process for process in _session(state["session"]) if _works_in(process, state["folder"])]
    return state["session"] if alive else None


def api(home: Home) -> Api:
    return Api(json.loads(_state_file(home).read_text())["url"])


def end_session(session: int, seconds: float) -> int:
    """Ends a session's processes and all that they started; by force after some seconds. Returns how many."""
    going = processes(session)
    for process in going:
        _quietly(process.terminate)
    _, left = psutil.wait_procs(going, timeout=seconds)
    left = {*left, *_session(session)}
    for process in left:
        _quietly(process.kill)
    psutil.wait_procs(left, timeout=seconds)
    return len(going | left)


def processes(session: int) -> set[psutil.Process]:
    """A session's processes and all that they started."""
    return {process for member in _session(session) for process in _family(member)}


def _session(session: int) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if _session_of(process) == session]


def _session_of(process: psutil.Process) -> int | None:
    try:
        return os.getsid(process.pid)
    except (ProcessLookupError, PermissionError):
        return None


def _family(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _works_in(process: psutil.Process, folder: str) -> bool:
    """A session's number may be another's by now; our processes work in the folder that `up` was called in."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE and process.cwd() == folder
    except psutil.Error:
        return False


def _quietly(action: Callable[[], None]) -> None:
    with suppress(psutil.NoSuchProcess):
        action()


def _refuse_taken_port(home: Home) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", home.port))
        except OSError as error:
            raise SimgapError(f"port {home.port}: {error.strerror}; SIMGAP_AIRFLOW_PORT=8081 takes another") from error


def _wait(home: Home, child: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + SECONDS_TO_START
    while not Api(home.url).healthy():
        if child.poll() is not None or time.monotonic() > until:
            raise SimgapError(f"Airflow did not start; see {log}")
        time.sleep(0.5)


def _state_file(home: Home) -> Path:
    return home.path / "server.json"


def _serve() -> None:
    """Starts Airflow's parts, tethered to this process, and ends with the first of them that ends.

    Like `airflow standalone`, but that one serves logs on all of the machine's addresses.
    """
    from operators.walk import close_abandoned

    close_abandoned()
    parts = [["api-server"], ["scheduler", SKIP_LOGS], ["dag-processor"], ["triggerer", SKIP_LOGS]]
    started = {subprocess.Popen(tether.command("airflow", *part), close_fds=False).pid: part[0] for part in parts}
    pid, status = os.wait()
    sys.exit(f"airflow {started[pid]} ended with exit code {os.waitstatus_to_exitcode(status)}")


def main() -> None:
    console = Console(highlight=False, soft_wrap=True)
    home = Home.from_environment()
    try:
        match sys.argv[1:]:
            case ["up"]:
                words = "is up already" if leader(home) else "is up"
                console.print(f"Airflow {words}: {up(home)}  (no login needed; make down ends it)")
            case ["down"]:
                ended = down(home)
                console.print(f"Airflow is down: {ended} processes ended" if ended else "Airflow was not up")
            case ["serve"]:
                _serve()
    except SimgapError as error:
        Console(stderr=True).print(f"[red]error:[/] {error}", highlight=False, soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
