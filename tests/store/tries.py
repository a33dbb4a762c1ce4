"""Steps of a study, each tried in a process of its own that may be killed at any moment.

The processes are forked from a server that has imported torch, so that a try costs no more than what it does. The server
itself never opens a store: a store's threads do not survive a fork.
"""

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from simgap import flow, worker
from simgap.errors import SimgapError
from simgap.requests import BY_STAGE
from simgap.store import Store

SECONDS_AT_MOST = 120
WRITES = ("put", "create", "upload")


@dataclass(frozen=True)
class Step:
    """What is asked of a process: a function of FUNCTIONS and its arguments after the store."""

    kind: str
    stage: str
    arguments: tuple[Any, ...]


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "resolve": flow.resolve,
    "plan": flow.plan,
    "unit": worker.do_unit,
    "commit": flow.commit,
    "publish": flow.publish,
}


@dataclass(frozen=True)
class Moment:
    """When to strike: so many seconds after the start, or after the beginning of a write to the store."""

    seconds: float
    write: int | None = None


@dataclass
class Try:
    """How a try went. `ended`: done, failed or killed; `writes`: seconds from the start to each write's beginning."""

    seconds: float = 0.0
    writes: list[float] = field(default_factory=list)
    ended: str = "killed"
    answer: Any = None


class Tries:
    """Starts processes in one environment; what they print goes to a log."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self._environment, self._log = environment, log
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__, *(f"simgap.stages.{stage}" for stage in BY_STAGE)])

    def start(self, step: Step) -> "Running":
        answers, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_do, args=(step, self._environment, self._log, theirs))
        process.start()
        theirs.close()
        return Running(process, answers)


class Running:
    """A try under way."""

    def __init__(self, process: Any, answers: Connection) -> None:
        self._process, self._answers, self._started = process, answers, time.monotonic()
        self.so_far = Try()

    def comes_to(self, moment: Moment) -> bool:
        """Waits for a moment; False when the try ended before it."""
        while moment.write is not None and len(self.so_far.writes) <= moment.write:
            if not self._hear(SECONDS_AT_MOST):
                return False
        since = self._started if moment.write is None else self._started + self.so_far.writes[moment.write]
        while (left := since + moment.seconds - time.monotonic()) > 0:
            if not self._hear(left):
                return False
        return True

    def kill(self) -> bool:
        """SIGKILL, to the process and all that it started; False when it had ended by itself."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()  # before it has a group of its own
        return self.end().ended == "killed"

    def end(self) -> Try:
        """Waits until it has ended."""
        while self._hear(SECONDS_AT_MOST):
            assert time.monotonic() < self._started + SECONDS_AT_MOST, "a try hangs"
        self._process.join()
        self.so_far.seconds = time.monotonic() - self._started
        return self.so_far

    def _hear(self, seconds: float) -> bool:
        """Takes in what the process says; False once it has ended."""
        if not self._answers.poll(seconds):
            return True
        try:
            kind, said = self._answers.recv()
        except EOFError:
            return False
        if kind == "writes":
            self.so_far.writes.append(time.monotonic() - self._started)
        else:
            self.so_far.ended, self.so_far.answer = kind, said
        return True


def _do(step: Step, environment: dict[str, str], log: Path, answers: Connection) -> None:
    os.setsid()
    os.environ.update(environment)
    with log.open("ab") as printed:
        os.dup2(printed.fileno(), sys.__stdout__.fileno())
        os.dup2(printed.fileno(), sys.__stderr__.fileno())
    for name in WRITES:
        setattr(Store, name, _told(getattr(Store, name), answers))
    try:
        answers.send(("done", FUNCTIONS[step.kind](Store.from_environment(), *step.arguments)))
    except Exception as error:
        answers.send(("failed", str(error) if isinstance(error, SimgapError) else traceback.format_exc()))


def _told(write: Callable[..., Any], answers: Connection) -> Callable[..., Any]:
    def told(store: Store, path: str, data: Any) -> Any:
        answers.send(("writes", path))
        return write(store, path, data)

    return told
