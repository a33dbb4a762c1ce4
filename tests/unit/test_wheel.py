"""What is shipped: a wheel has all that a stage needs, its SQL, models and page template with it."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from making import pairs, put_pool, put_test_set

from simgap import flow, runs
from simgap.store import Store

ROOT = Path(__file__).parents[2]
STUDY = """
name = "shipped"
pool = [{ name = "pool", shards = "pool" }]
reference = { name = "reference", shards = "reference" }
tests = [{ name = "test", shards = "test" }]
encoder = { model = "tiny", pretrained = "none" }
splits = { everything = { rule = "all" } }
"""


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel holds, and nothing else of the project."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    zipfile.ZipFile(next(folder.glob("*.whl"))).extractall(folder / "site")
    return folder / "site"


def test_the_wheel_holds_every_file_of_the_package(shipped: Path) -> None:
    package = ROOT / "images" / "worker" / "simgap"
    files = subprocess.check_output(
        ["git", "ls-files", "-co", "--exclude-standard", "--", package, ROOT / "sql"], cwd=ROOT, text=True
    ).split()
    kept = {f.removeprefix("images/worker/") for f in files if f.startswith("images")} - {"simgap/sql"}
    kept |= {f"simgap/{f}" for f in files if f.startswith("sql")}
    assert kept == {str(p.relative_to(shipped)) for p in (shipped / "simgap").rglob("*") if p.is_file()}


def test_an_installed_wheel_does_a_stage_with_its_sql(shipped: Path, store: Store, tmp_path: Path) -> None:
    put_pool(store, "pool", pairs(0, 3))
    put_pool(store, "reference", pairs(1, 2))
    put_test_set(store, "test", [])
    file = tmp_path / "shipped.toml"
    file.write_text(STUDY)
    resolved, roles = flow.resolve(store, file, "manual__1", {}), {}
    for stage in ("ingest", "split"):
        plan = flow.plan(store, resolved, stage, None, roles)
        for job in plan["jobs"]:
            _run(shipped, store, [*job["runs"], "--unit", str(job["unit"])], tmp_path)
        roles |= flow.commit(store, plan, {})["runs"]
    assert runs.read(store, roles["split/everything"], "members").num_rows == 5


def _run(shipped: Path, store: Store, arguments: list[str], folder: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(shipped), "SIMGAP_STORE": store.root}
    where = [sys.executable, "-c", "import simgap; print(simgap.__file__)"]
    assert subprocess.check_output(where, env=environment, cwd=folder, text=True).startswith(str(shipped))
    subprocess.run([sys.executable, "-m", "simgap", "run", *arguments], env=environment, cwd=folder, check=True)
