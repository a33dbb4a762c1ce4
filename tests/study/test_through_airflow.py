"""A study through Airflow itself: killed and gone on with in one process, then under a scheduler, two units at a time."""

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pytest
from rich.console import Console

from operators import console, webserver
from operators.embedded import ROOT, Home
from simgap import catalog, flow, runs
from simgap.store import Store

HERE = Path(__file__).parent
PORT = 8097
SECONDS_FOR_A_STUDY = 200
AUDIT = """
name = "audit"
[encoder]
model = "tiny"
pretrained = "{weights}"
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """An embedded Airflow of its own, with the project's DAG file and the tiny study."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "dags" / "studies").mkdir(parents=True)
    shutil.copy(ROOT / "dags" / "study.py", folder / "dags")
    text = (HERE / "tiny.toml").read_text().replace("tests/data/icons", str(ROOT / "tests" / "data" / "icons"))
    (folder / "dags" / "studies" / "tiny.toml").write_text(text)
    return Home(folder / ".simgap", dags=folder / "dags", port=PORT)


@pytest.fixture(scope="module")
def store(home: Home) -> Store:
    """The store after the tiny study was killed while it trained, and gone on with."""
    store = Store((home.path / "store").as_uri())
    killed = subprocess.Popen(
        [sys.executable, "-c", _STUDY, str(home.path), str(home.dags)], cwd=ROOT, env=_environment()
    )
    _wait_for(lambda: list(home.path.glob("store/runs/train/*/request.json")))
    time.sleep(3)  # into the training
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


def test_every_table_has_its_rows(store: Store) -> None:
    empty = {"duplicates"}  # made by a stage to come
    for table in catalog.tables():
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


def test_a_scheduler_does_two_units_at_a_time_with_the_same_rows(home: Home, store: Store) -> None:
    weights = home.path / "weights.pt"
    trained = flow.finished(store, home.dags / "studies" / "tiny.toml", {})
    assert trained
    store.download(runs.files(store, trained["train/everything-0"])["final.pt"], weights)
    _write_audit(home.dags / "studies", weights)
    shutil.rmtree(home.path / "store" / "runs" / "ingest")  # so that there is something to do side by side
    with webserver.running(home) as api:
        api.wait_for("study_audit", 60)
        api.trigger("study_audit", "by-form", {"tests": ["sketch"], "splits": ["everything", "sketch-pruned"]})
        _wait_for(lambda: api.state("study_audit", "by-form") in ("success", "failed"))
        assert api.state("study_audit", "by-form") == "success"
        instances = api.call("dags/study_audit/dagRuns/by-form/taskInstances?limit=500")["task_instances"]
    assert webserver.leader(home) is None
    units = [instance for instance in instances if instance["task_id"].endswith(".units") and instance["duration"]]
    assert _at_once(units) == 2
    columns = "dataset, sample_id, test_set, max_similarity, nearest_query, margin, margin_query, hits"
    asked = "select {} from {}.proximity where test_set = 'sketch' order by all"
    assert _rows(store, asked.format(columns, "audit")) == _rows(store, asked.format(columns, "tiny"))
    searched = catalog.ask(store, 'select distinct test_set, "of" from audit.neighbours')
    assert (
        searched["test_set"].to_pylist() == ["sketch"] * 4
    )  # three data sets and the pruned split: what the form chose
    members = "select dataset, sample_id from {}.members where split = 'sketch-pruned' order by all"
    assert _rows(store, members.format("audit")) == _rows(store, members.format("tiny"))


_STUDY = """
import sys
from pathlib import Path
from rich.console import Console
from operators import console
from operators.embedded import Home
console.study("tiny", Home(Path(sys.argv[1]), dags=Path(sys.argv[2])), Console())
"""


def _write_audit(studies: Path, weights: Path) -> None:
    """The tiny study without training, with the model that it trained as a pretrained encoder."""
    data = (studies / "tiny.toml").read_text()
    start, end = data.index("[encoder]"), data.index("[search]")
    parts = data[data.index("[fetch.icons]") : start] + data[end : data.index("[train]")]
    (studies / "audit.toml").write_text(AUDIT.format(weights=weights).replace("[encoder]", parts + "[encoder]"))


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "SIMGAP_STORE"} | {"PYTHONPATH": str(ROOT)}


def _committed(store: Store) -> dict[str, str]:
    """The runs that were committed, with the mark of their run.json's version."""
    return {entry.path: entry.etag for entry in store.list("runs") if entry.path.endswith("/run.json")}


def _wait_for(condition, seconds: float = SECONDS_FOR_A_STUDY) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it took too long"
        time.sleep(0.5)


def _at_once(instances: list[dict]) -> int:
    """The largest number of task instances that ran at one moment."""
    moments = sorted(
        (datetime.fromisoformat(instance[name]), step)
        for instance in instances
        for name, step in (("start_date", 1), ("end_date", -1))
    )
    running = [sum(step for _, step in moments[: n + 1]) for n in range(len(moments))]
    return max(running)


def _rows(store: Store, asked: str) -> pa.Table:
    return catalog.ask(store, asked)
