"""A study gone through step by step, while its processes and the store under them are killed at random."""

import os
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from buckets import Minio
from rich.table import Table
from tries import Moment, Running, Step, Tries, Try

from simgap import steps
from simgap.store import Store

KILLS = int(os.environ.get("SIMGAP_TEST_KILLS", "100"))
"""In all; a tenth of them strike a study that goes through Airflow."""
SEED = 1
SHARE_AT_A_WRITE = 0.6
SHARE_OF_TWO_AT_ONCE = 0.2
SHARE_OF_MINIO = 0.12
SECONDS_AFTER_A_WRITE_BEGAN = 0.03
KILLS_FOR_ONE_IN_TIME = 1.3
"""Some moments come too late: the step is done before them."""
CHANCE_AT_MOST = 0.95
TRIES_AT_MOST = 50

Do = Callable[[Step], Any]


def walk(do: Do, study_file: Path, dag_run: str) -> dict[str, str]:
    """Goes through a study as its DAG does, and returns its runs by role. `do` answers None when it was cut short."""
    resolved = _until_done(do, Step("resolve", "", (study_file, dag_run, {})))
    roles: dict[str, str] = {}
    for stage, part in steps.STEPS:
        plan = Step("plan", stage, (resolved, stage, part, roles))
        while (planned := _until_done(do, plan))["jobs"]:
            for job in planned["jobs"]:
                do(Step("unit", stage, (job["runs"], job["unit"])))
        lineage = {"dag_id": "study", "dag_run": dag_run, "task_id": f"{stage}.units"}
        roles |= _until_done(do, Step("commit", stage, (planned, lineage)))["runs"]
    _until_done(do, Step("publish", "", (resolved, roles)))
    return roles


def _until_done(do: Do, step: Step) -> Any:
    for _ in range(TRIES_AT_MOST):
        if (answer := do(step)) is not None:
            return answer
    raise AssertionError(f"{step}: not done after {TRIES_AT_MOST} tries")


@dataclass(frozen=True)
class Reference:
    """A study when nothing is killed: its store, its runs by role, and how each kind of step went."""

    store: Store
    roles: dict[str, str]
    typical: dict[tuple[str, str], list[Try]]


class Undisturbed:
    """Does every step once, and remembers how it went."""

    def __init__(self, tries: Tries) -> None:
        self._tries = tries
        self.went: dict[tuple[str, str], list[Try]] = defaultdict(list)

    def __call__(self, step: Step) -> Any:
        went = self._tries.start(step).end()
        assert went.ended == "done", went.answer
        self.went[step.kind, step.stage].append(went)
        return went.answer or True


@dataclass
class Tally:
    """What was done to a study: kills by stage and by what was killed."""

    kills: Counter[tuple[str, str]] = field(default_factory=Counter)
    tries: Counter[str] = field(default_factory=Counter)
    at_a_write: int = 0
    two_at_once: int = 0
    failed: int = 0
    done_again: Counter[str] = field(default_factory=Counter)

    def table(self, title: str) -> Table:
        """Kills: a row for each stage, a column for each kind of victim."""
        stages, victims = (list(dict.fromkeys(key[part] for key in self.kills)) for part in (0, 1))
        table = Table("stage", *victims, "units done again", title=title)
        for stage in stages:
            counts = [self.kills[stage, victim] for victim in victims] + [self.done_again[stage]]
            table.add_row(stage, *(str(count or "") for count in counts))
        return table

    def summary(self) -> str:
        tries = ", ".join(f"{count} of a {kind}" for kind, count in self.tries.items())
        return (
            f"tries: {tries}; {self.at_a_write} kills while the store was written to;"
            f" {self.two_at_once} units done by two processes at once; {self.failed} tries failed because MinIO was gone"
        )


class Disturbed:
    """Does steps, and kills while they are done: so many times in all, by seeded dice."""

    def __init__(self, tries: Tries, minio: Minio, kills: int, seed: int, typical: dict[tuple[str, str], list[Try]]):
        self._tries, self._minio, self._dice, self._typical = tries, minio, random.Random(seed), typical
        self.kills_left = kills
        self._steps_left = Counter({of: len(went) for of, went in typical.items()})
        self.tally = Tally()

    def __call__(self, step: Step) -> Any:
        """The step's answer; None when what did it was killed."""
        started = [self._start(step)]
        if step.kind == "unit" and self._dice.random() < SHARE_OF_TWO_AT_ONCE:
            started.append(self._start(step))
            self.tally.two_at_once += 1
        hit_minio = self._kill(step, started) if self._dice.random() < self._chance(step) else False
        went = [running.end() for running in started]
        for bad in (one for one in went if one.ended == "failed"):
            assert hit_minio, bad.answer
            self.tally.failed += 1
        done = [one for one in went if one.ended == "done"]
        self.tally.done_again[step.stage] += step.kind == "unit" and not done
        self._steps_left[step.kind, step.stage] -= bool(done)
        return (done[0].answer or True) if done else None

    def _start(self, step: Step) -> Running:
        self.tally.tries[step.kind] += 1
        return self._tries.start(step)

    def _chance(self, step: Step) -> float:
        """So that kills and steps come to an end together; a step that is done after all others takes what is left."""
        if step.kind == "unit" and not any(stage == step.stage for stage, _ in self.tally.kills):
            return 1.0  # no stage is spared
        left = sum(max(0, count) * _weight(*of) for of, count in self._steps_left.items())
        weight = _weight(step.kind, step.stage)
        expected = KILLS_FOR_ONE_IN_TIME * self.kills_left * weight / max(left, weight)
        return 1.0 if step.kind == "publish" and self.kills_left else min(CHANCE_AT_MOST, expected)

    def _kill(self, step: Step, started: list[Running]) -> bool:
        """Strikes one of the processes, or MinIO, at a random moment; True when it was MinIO."""
        moment, victim = self._moment(step), self._dice.choice(started)
        hit_minio = self._dice.random() < SHARE_OF_MINIO
        if not victim.comes_to(moment):
            return False
        if hit_minio:
            self._minio.kill()
            self._minio.start()
            self._minio.wait_until_ready()
        elif not victim.kill():
            return False
        what = "minio" if hit_minio else "one of two" if len(started) > 1 else step.kind
        self.kills_left -= 1
        self.tally.kills[step.stage or step.kind, what] += 1
        self.tally.at_a_write += moment.write is not None
        return hit_minio

    def _moment(self, step: Step) -> Moment:
        typical = self._typical[step.kind, step.stage]
        writes = min(len(went.writes) for went in typical)
        if writes and self._dice.random() < SHARE_AT_A_WRITE:
            return Moment(self._dice.uniform(0, SECONDS_AFTER_A_WRITE_BEGAN), self._dice.randrange(writes))
        return Moment(self._dice.uniform(0, median(went.seconds for went in typical)))


def _weight(kind: str, stage: str) -> float:
    """How often a step is struck. Units are what takes time, above all trainings, which go on from what they kept."""
    if kind != "unit":
        return 0.25
    return 3.0 if stage == "train" else 1.0
