"""The launcher `process`: a unit is a child process on this machine."""

import json
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from operators import tether
from operators.telling import Teller
from simgap.progress import PREFIX

SECONDS_BETWEEN_LOGGED_PROGRESS = 10
ERROR = "error: "
ASKED_WRONGLY = 2
"""The exit code of `simgap run` for an error that trying again cannot cure."""


class ProcessUnit(BaseOperator):
    """Does one job, a unit of one or more runs or those runs again: `python -m simgap run ...`, tethered to this task.

    The child's output goes to the task's log line by line, its progress to the feed.
    """

    def __init__(self, *, job: dict[str, Any], group: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.job, self.group = job, group
        self._child: subprocess.Popen[str] | None = None

    def execute(self, context: Any) -> None:
        first, *others = (run.rpartition("/")[2] for run in self.job["runs"])
        more = f" and {len(others)} more" if others else ""
        again = self.job.get("again")
        context["unit_name"] = f"{first}{more} " + ("again" if again else f"unit {self.job['unit']}")
        teller = Teller(context, self.group, () if again else self.job["runs"])
        with teller.failures():
            last_lines = self._run(context, teller)
            self._check(last_lines)
        teller.tell("unit", runs=self.job["runs"], unit=self.job.get("unit"))

    def on_kill(self) -> None:
        if self._child is not None:
            self._child.kill()

    def _run(self, context: Any, teller: Teller) -> list[str]:
        ti = context["ti"]
        named = {"SIMGAP_MAP_INDEX": str(ti.map_index), "SIMGAP_TRY_NUMBER": str(ti.try_number)}
        self._child = subprocess.Popen(
            tether.command("simgap", *arguments(self.job)),
            env=os.environ | named,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        assert self._child.stdout is not None
        last_lines = sort_output(self._child.stdout, self.log.info, lambda facts: teller.tell("progress", **facts))
        self._child.wait()
        return last_lines

    def _check(self, last_lines: list[str]) -> None:
        assert self._child is not None
        code = self._child.returncode
        if code < 0:
            raise AirflowException(f"killed by {signal.Signals(-code).name}; was there enough memory?")
        if code:
            kind = AirflowFailException if code == ASKED_WRONGLY else AirflowException
            raise kind(what_went_wrong(last_lines) or f"simgap run ended with exit code {code}")


def arguments(job: dict[str, Any]) -> list[str]:
    """What to tell simgap: to do a unit of some runs, or to do them again."""
    return ["run", *job["runs"], *(["--again"] if job.get("again") else ["--unit", str(job["unit"])])]


def what_went_wrong(last_lines: list[str]) -> str:
    """What the program says after its last `error: `; the last line where it does not say so."""
    starts = [number for number, line in enumerate(last_lines) if line.startswith(ERROR)]
    return "\n".join(last_lines[starts[-1] :]).removeprefix(ERROR) if starts else "".join(last_lines[-1:])


def sort_output(
    lines: Iterable[str], log: Callable[[str], object], progress: Callable[[dict[str, Any]], object]
) -> list[str]:
    """Sends progress lines to the feed, and every ten seconds one of them to the log; all others to the log.

    Returns the last lines that were not progress.
    """
    last_lines: deque[str] = deque(maxlen=10)
    logged = -float(SECONDS_BETWEEN_LOGGED_PROGRESS)
    for line in filter(None, map(str.rstrip, lines)):
        if line.startswith(PREFIX):
            progress(json.loads(line.removeprefix(PREFIX)))
            if time.monotonic() - logged < SECONDS_BETWEEN_LOGGED_PROGRESS:
                continue
            logged = time.monotonic()
        else:
            last_lines.append(line)
        log(line)
    return list(last_lines)
