"""A study through Airflow in one process: killed while it trains, gone on with, and then done with."""

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from making import wait_for
from rich.console import Console

from operators import console
from operators.embedded import ROOT, Home
from simgap import catalog, flow, runs, schema
from simgap.again import again
from simgap.store import Store

HERE = Path(__file__).parent
SECONDS_TO_THE_SECOND_EPOCH = 120


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """An embedded Airflow of its own, with the project's DAG file and the tiny study."""
    folder = tmp_path_factory.mktemp("a home")
    (folder / "dags" / "studies").mkdir(parents=True)
    shutil.copy(ROOT / "dags" / "study.py", folder / "dags")
    text = (HERE / "tiny.toml").read_text().replace("tests/data/icons", str(ROOT / "tests" / "data" / "icons"))
    (folder / "dags" / "studies" / "tiny.toml").write_text(text)
    return Home(folder / ".simgap", dags=folder / "dags")


@pytest.fixture(scope="module")
def store(home: Home) -> Store:
    """The store after the tiny study was killed in a training's second epoch, and gone on with."""
    store = Store.from_url(home.store)
    killed = subprocess.Popen(
        [sys.executable, "-c", _STUDY, str(home.path), str(home.dags)], cwd=ROOT, env=_environment()
    )
    wait_for(lambda: list(home.path.glob("store/runs/train/*/kept/0000/latest.pt")), SECONDS_TO_THE_SECOND_EPOCH)
    before = _committed(store)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert before, "nothing was committed before the kill"
    said = study(home)
    assert before.items() <= _committed(store).items(), "what was committed was done again"
    assert "reference-0" in said
    return store


def study(home: Home) -> str:
    """What `make study` prints."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SIMGAP_STORE", raising=False)
        console.study("tiny", home, Console(file=out, width=200))
    return out.getvalue()


def test_a_killed_training_went_on_from_its_last_epoch(home: Home, store: Store) -> None:
    made = flow.finished(store, home.dags / "studies" / "tiny.toml", {})
    assert made
    [facts] = runs.load(store, made["train/everything-0"]).facts
    assert facts["resumed_after_epoch"] == 1


def test_what_a_killed_study_holds_is_what_an_undisturbed_one_makes(home: Home, store: Store) -> None:
    made = flow.finished(store, home.dags / "studies" / "tiny.toml", {})
    assert made
    for run in {run for role, run in made.items() if role.split("/")[0] in ("ingest", "search", "split", "verify")}:
        assert all(then == now for _, then, now in again(store, run).holds), run


def test_every_table_has_its_rows(store: Store) -> None:
    empty = {"duplicates"}  # made by a stage to come
    for table in schema.tables():
        rows = catalog.ask(store, f"select * from tiny.{table.name}").num_rows
        assert bool(rows) != (table.name in empty | {"failures"}), table.name


def test_no_sample_is_lost(store: Store) -> None:
    asked = "select listed, done + failed as counted from tiny.runs"
    assert all(row["listed"] == row["counted"] for row in catalog.ask(store, asked).to_pylist())
    shards = "select listed, done + failed as counted from tiny.shards"
    assert all(row["listed"] == row["counted"] for row in catalog.ask(store, shards).to_pylist())


def test_training_saw_every_member_and_nothing_else(store: Store) -> None:
    asked = """
        with seen as (select checkpoint, sum(samples) as samples, sum(yielded) as yielded from tiny.exposures group by all)
        select samples, yielded, samples_seen, (select count(*) from tiny.members where split = c.split) as members
        from tiny.checkpoints as c join seen using (checkpoint)"""
    for row in catalog.ask(store, asked).to_pylist():
        assert (row["samples"], row["yielded"]) == (row["members"], row["samples_seen"])


def test_certificates_hold_to_the_last_bit(store: Store) -> None:
    [row] = catalog.ask(store, "select * from tiny.certificates").to_pylist()
    assert (row["exceeding"], row["needlessly_removed"], row["mean_difference"]) == (0, 0, 0.0)


def test_a_second_time_starts_no_stage_and_is_quick(home: Home, store: Store) -> None:
    before, started = _committed(store), time.monotonic()
    said = study(home)
    assert time.monotonic() - started < 10
    assert "✓" not in said
    assert "everything" in said
    assert _committed(store) == before


_STUDY = """
import sys
from pathlib import Path
from rich.console import Console
from operators import console
from operators.embedded import Home
console.study("tiny", Home(Path(sys.argv[1]), dags=Path(sys.argv[2])), Console())
"""


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "SIMGAP_STORE"} | {"PYTHONPATH": str(ROOT)}


def _committed(store: Store) -> dict[str, str]:
    """The runs that were committed, with the mark of their run.json's version."""
    return {entry.path: entry.etag for entry in store.list("runs") if entry.path.endswith("/run.json")}
