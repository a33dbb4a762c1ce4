"""Fixtures: an empty store, and a small audit that was gone through once."""

import json
import os
import shutil
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as a unit has it; and threads of tests side by side wait for each other

import pytest
from making import AUDIT, MODEL, Made, labelled, put_data, put_test_set, put_trained_study, run_study

from simgap import publishing
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
def published(audit) -> Store:
    """A copy of the finished audit, with a catalog of its own."""
    store, _ = audit
    publishing.publish(store)
    return store


@pytest.fixture
def audit(finished_audit, tmp_path) -> tuple[Store, Made]:
    """A copy of the finished audit that a test may change; its catalog still names the first one's files."""
    folder, made = finished_audit
    shutil.copytree(folder, tmp_path / "audit")
    return Store(f"file://{tmp_path}/audit"), made


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory) -> list[Path]:
    """Two files of random weights of the model `tiny-test`."""
    import open_clip
    import torch

    from simgap.stages import clip  # it has open_clip know the model  # noqa: F401

    folder = tmp_path_factory.mktemp("tiny")
    for seed in (0, 1):
        torch.manual_seed(seed)
        torch.save(open_clip.create_model("tiny-test").state_dict(), folder / f"{seed}.pt")
    return [folder / "0.pt", folder / "1.pt"]


@pytest.fixture(scope="session")
def two_studies_once(tmp_path_factory, tiny_weights) -> Path:
    folder = tmp_path_factory.mktemp("two") / "store"
    store = Store(f"file://{folder}")
    put_test_set(store, "t", labelled(range(700, 712)))
    put_test_set(store, "u", labelled(range(800, 806)))
    put_trained_study(store, "one", {"whole": tiny_weights[0]}, ["t"])
    put_trained_study(store, "two", {"cut": tiny_weights[1]}, ["t", "u"])
    return folder


@pytest.fixture
def two_studies(two_studies_once, tmp_path) -> Store:
    """Study `one` has checkpoint whole-0 and test set t, `two` has cut-0, the same t, and u; a copy of its own."""
    shutil.copytree(two_studies_once, tmp_path / "two", copy_function=_linked)
    return Store(f"file://{tmp_path}/two")


def _linked(source: str, target: str) -> None:
    """An object's etag has its file's number in it, so a copy would be another object."""
    os.link(source, target)
