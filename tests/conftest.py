"""Fixtures: an empty store, and a small audit that was gone through once."""

import json
import os
import shutil
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as a unit has it; and threads of tests side by side wait for each other

import pytest
from making import AUDIT, MODEL, Made, put_data, run_study

from simgap.store import Store


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(f"file://{tmp_path}/store")


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """Random weights of the model `test-tower`, which open_clip knows from here on."""
    import open_clip
    import torch

    folder = tmp_path_factory.mktemp("models")
    (folder / "test-tower.json").write_text(json.dumps(MODEL))
    open_clip.add_model_config(folder / "test-tower.json")
    torch.manual_seed(0)
    torch.save(open_clip.create_model("test-tower").state_dict(), folder / "weights.pt")
    return folder / "weights.pt"


@pytest.fixture(scope="session")
def audit_file(tmp_path_factory, weights) -> Path:
    file = tmp_path_factory.mktemp("studies") / "audit.toml"
    file.write_text(AUDIT.replace("WEIGHTS", str(weights)))
    return file


@pytest.fixture(scope="session")
def finished_audit(tmp_path_factory, audit_file) -> tuple[Path, Made]:
    folder = tmp_path_factory.mktemp("audit") / "store"
    store = Store(f"file://{folder}")
    put_data(store)
    return folder, run_study(store, audit_file)


@pytest.fixture(scope="session")
def read_audit(finished_audit) -> tuple[Store, Made]:
    """The finished audit, for tests that only read it."""
    folder, made = finished_audit
    return Store(f"file://{folder}"), made


@pytest.fixture
def audit(finished_audit, tmp_path) -> tuple[Store, Made]:
    """A copy of the finished audit that a test may change; its catalog still names the first one's files."""
    folder, made = finished_audit
    shutil.copytree(folder, tmp_path / "audit")
    return Store(f"file://{tmp_path}/audit"), made
