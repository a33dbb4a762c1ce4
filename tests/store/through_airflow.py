"""`make study` in a process of its own, while its processes are killed at random."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import psutil
from buckets import Bucket

from operators.embedded import ROOT, Home
from simgap import runs

SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_AFTER = 3.0
SECONDS_FOR_ALL = 560
STUDY = """
import sys
from pathlib import Path
from rich.console import Console
from operators import console
from operators.embedded import Home
console.study("tiny", Home(Path(sys.argv[1]), dags=Path(sys.argv[2])), Console())
"""
VICTIMS = {"console": "", "walker": "operators.walk", "unit": "simgap run"}
"""What is killed, and the words that tell its command line."""


class StudyThroughAirflow:
    """A study through an Airflow with its own home, in one prefix of a bucket."""

    def __init__(self, home: Home, bucket: Bucket, prefix: str) -> None:
        self.home, self.bucket, self.prefix = home, bucket, prefix
        self.said = home.path.parent / "said.log"
        self.kills: Counter[str] = Counter()
        self.starts = 0
        self.seconds = 0.0

    def go(self, kills: int, seed: int, units: int) -> None:
        """Starts the study again and again until it is done; strikes at random while `units` units are done."""
        dice, started = random.Random(seed), time.monotonic()
        moments = sorted(dice.sample(range(units * 9 // 10), kills))
        victims = dice.sample(list(VICTIMS), counts=[-(-kills // len(VICTIMS))] * len(VICTIMS), k=kills)
        try:
            self._go(dice, moments, victims)
        finally:
            self._console.kill()
            self.seconds = time.monotonic() - started

    def _go(self, dice: random.Random, moments: list[int], victims: list[str]) -> None:
        until = time.monotonic() + SECONDS_FOR_ALL
        self._start()
        while self._console.poll() != 0:
            assert time.monotonic() < until, f"not done in {SECONDS_FOR_ALL} s; see {self.said}"
            if self._console.poll() is not None:
                assert self.starts <= self.kills.total(), f"it ended badly by itself; see {self.said}"
                self._start()
            if victims and self._units_done() >= moments[0]:
                time.sleep(dice.uniform(0, SECONDS_AFTER))
                if self._strike(victims[0]):
                    victims, moments = victims[1:], moments[1:]
            time.sleep(SECONDS_BETWEEN_LOOKS)
        assert not victims, f"the study was done before {', '.join(victims)} could be killed"

    def _start(self) -> None:
        self.starts += 1
        environment = os.environ | self.bucket.environment(self.prefix)
        with self.said.open("ab") as said:
            command = [sys.executable, "-c", STUDY, str(self.home.path), str(self.home.dags)]
            self._console = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=said)

    def _strike(self, victim: str) -> bool:
        """Kills one of the study's processes, if there is one of this kind."""
        for process in _processes_of(self._console, victim):
            process.send_signal(signal.SIGKILL)
            self.kills[victim] += 1
            return True
        return False

    def _units_done(self) -> int:
        return sum(is_manifest(path) for path, _ in self.bucket.versions(self.prefix))


def is_manifest(path: str) -> bool:
    """runs/<stage>/<name>-<key>/units/0003.json"""
    return runs.MANIFEST.fullmatch(path) is not None


def _processes_of(console: subprocess.Popen[bytes], victim: str) -> list[psutil.Process]:
    try:
        root = psutil.Process(console.pid)
        children = root.children(recursive=True)
        if victim == "console":
            return [root] if children else []
        return [child for child in children if VICTIMS[victim] in " ".join(child.cmdline())]
    except psutil.NoSuchProcess:
        return []
