"""`simgap run --again`: does a committed run once more, into a scratch folder, and compares what both hold."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from simgap import runs, worker
from simgap.store import Store

ENVIRONMENT = ("device", "torch", "dtype", "threads")
"""Facts of a run that may change what a training or an encoder makes, to the last bits or more."""


@dataclass(frozen=True)
class Again:
    """A run done again, as (name, then, now): the checksum of each table and file, and the environment where it differs."""

    holds: list[tuple[str, str, str]]
    environment: list[tuple[str, str, str]]


def again(store: Store, path: str) -> Again:
    """Does a committed run once more and compares. Raises `Missing` when the run was never committed."""
    before = runs.load(store, path)
    with tempfile.TemporaryDirectory(prefix="simgap-again-") as folder:
        scratch = _Scratch(store, Path(folder), path)
        for name in ("request.json", "units.json"):
            scratch.put(f"{path}/{name}", store.get(f"{path}/{name}"))
        after = worker.do_run(scratch, path)
    holds = _paired(checksums(before) | damaged(store, before), checksums(after))
    environment = _paired(_environment(before), _environment(after))
    return Again(holds, [(name, then, now) for name, then, now in environment if then != now])


class _Scratch(Store):
    """A store that keeps one run's folder elsewhere and everything else where it is."""

    def __init__(self, base: Store, folder: Path, run: str) -> None:
        super().__init__(base.root)
        self._folder, self._run = Store(f"file://{folder}"), run

    def _locate(self, uri: str):
        return (self._folder if uri.startswith(self._run) else super())._locate(uri)


def damaged(store: Store, run: runs.Run) -> dict[str, str]:
    """What a run holds no longer: tables and files whose stored bytes are not those that were committed."""
    stored = [*((name, part) for name, parts in run.tables.items() for part in parts), *run.files.items()]
    return {name: "damaged" for name, file in stored if store.sha256(file.path) != file.sha256}


def _paired(before: dict[str, str], after: dict[str, str]) -> list[tuple[str, str, str]]:
    return [(name, before.get(name, "-"), after.get(name, "-")) for name in sorted({*before, *after})]


def _environment(run: runs.Run) -> dict[str, str]:
    """Of all units: a fact in which they differ has several values."""
    found = {name: sorted({str(facts[name]) for facts in run.facts if name in facts}) for name in ENVIRONMENT}
    return {name: ", ".join(values) for name, values in found.items() if values}


def checksums(run: runs.Run) -> dict[str, str]:
    """What each table and file of a run holds."""
    sums = {name: runs.content_of({name: parts}, {}) for name, parts in run.tables.items()}
    return sums | {name: file.sha256 for name, file in run.files.items()}
