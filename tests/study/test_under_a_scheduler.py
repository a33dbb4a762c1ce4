"""A study under Airflow's own scheduler: started by its form, two units at a time, with the rows of one done without Airflow."""

import io
import shutil
from datetime import datetime
from pathlib import Path

import open_clip
import pytest
import torch
from making import run_study, wait_for
from rich.console import Console

from operators import console, webserver
from operators.embedded import ROOT, Home
from simgap import catalog, dag_runs
from simgap.errors import SimgapError
from simgap.stages import clip  # noqa: F401  (tells open_clip of the project's models)
from simgap.store import Store

PORT = 8097
SECONDS_FOR_A_STUDY = 200
CHOSEN = {"tests": ["sketch"], "splits": ["everything", "sketch-pruned"]}
AUDIT = """
name = "audit"
fetch.icons.package = "{icons}"
fetch.icons.images = {{ emoji = ["twemoji", "openmoji"], interface = ["bi"], noto = ["noto"] }}
fetch.icons.tests = {{ v2 = "noto-v1", sketch = "fluent-emoji-high-contrast" }}
fetch.icons.concepts = ["noto", "noto-v1", "fluent-emoji-high-contrast"]
pool = [{{ name = "emoji", shards = "fetch://icons/emoji" }}, {{ name = "interface", shards = "fetch://icons/interface" }}]
reference = {{ name = "noto", shards = "fetch://icons/noto" }}
tests = [{{ name = "v2", shards = "fetch://icons/v2" }}, {{ name = "sketch", shards = "fetch://icons/sketch" }}]
encoder = {{ model = "tiny", pretrained = "{weights}" }}
search.neighbours = 10
[splits]
everything = {{ rule = "all" }}
reference = {{ rule = "none" }}
sketch-pruned = {{ rule = "prune", tests = ["sketch"] }}
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An embedded Airflow of its own, with the project's DAG file and a small audit."""
    (tmp_path / "dags" / "studies").mkdir(parents=True)
    shutil.copy(ROOT / "dags" / "study.py", tmp_path / "dags")
    torch.manual_seed(0)
    weights = tmp_path / "weights.pt"
    torch.save(open_clip.create_model("tiny").state_dict(), weights)
    study = AUDIT.format(icons=ROOT / "tests" / "data" / "icons", weights=weights)
    (tmp_path / "dags" / "studies" / "audit.toml").write_text(study)
    (tmp_path / "broken.pt").write_bytes(b"no weights")
    broken = study.replace('name = "audit"', 'name = "broken"').replace("weights.pt", "broken.pt")
    (tmp_path / "dags" / "studies" / "broken.toml").write_text(broken)
    return Home(tmp_path / ".simgap", dags=tmp_path / "dags", port=PORT)


def test_a_scheduler_does_two_units_at_a_time_with_the_same_rows_and_ends_at_what_cannot_be_mended(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SIMGAP_STORE", raising=False)
    with webserver.running(home) as api:
        api.wait_for("study_audit", 60)
        api.trigger("study_audit", "by-form", CHOSEN)
        wait_for(lambda: api.state("study_audit", "by-form") in ("success", "failed"), SECONDS_FOR_A_STUDY)
        assert api.state("study_audit", "by-form") == "success"
        instances = api.call("dags/study_audit/dagRuns/by-form/taskInstances?limit=500")["task_instances"]
        with pytest.raises(SimgapError, match="the study did not end well; more: http"):
            console.study("broken", home, Console(file=(said := io.StringIO()), width=200))
    assert "✗ embed             encoder tiny/" in said.getvalue()
    assert "broken.pt: its weights cannot be loaded" in said.getvalue()
    assert "= fetch             already done" in said.getvalue()
    assert "search" not in said.getvalue() and "will be tried again" not in said.getvalue()
    assert webserver.leader(home) is None
    states = {d["study"]: d["state"] for d in dag_runs.recorded(Store.from_url(home.store))}
    assert states == {"audit": "success", "broken": "failed"}
    units = [instance for instance in instances if instance["task_id"].endswith(".units") and instance["duration"]]
    assert _at_once(units) == 2

    by_hand, scheduled = Store(f"file://{tmp_path}/by-hand"), Store.from_url(home.store)
    run_study(by_hand, home.dags / "studies" / "audit.toml", **CHOSEN)
    for table in ("proximity", "members", "neighbours", "certificates"):
        asked = f"select * exclude (run) from audit.{table} order by all"
        rows = catalog.ask(scheduled, asked)
        assert rows.num_rows and rows == catalog.ask(by_hand, asked), table
    assert _searched(scheduled) == {"sketch"}  # what the form chose


def _searched(store: Store) -> set[str]:
    return set(catalog.ask(store, "select test_set from audit.neighbours")["test_set"].to_pylist())


def _at_once(instances: list[dict]) -> int:
    """The largest number of task instances that ran at one moment."""
    moments = sorted(
        (datetime.fromisoformat(instance[name]), step)
        for instance in instances
        for name, step in (("start_date", 1), ("end_date", -1))
    )
    running = [sum(step for _, step in moments[: n + 1]) for n in range(len(moments))]
    return max(running)
