"""`simgap store init`: a bucket with versions and life-cycle rules, and users who may do what their role needs."""

import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from buckets import Bucket, Endpoint
from typer.testing import CliRunner

from simgap import bucket as buckets
from simgap import cli
from simgap import store as store_module
from simgap.errors import SimgapError
from simgap.store import Store

PUT = {"runs/x/y-1/units/0000.json", "studies/s/d/study.json", "catalog/simgap.duckdb", "elsewhere"}
MAY_PUT = {
    "worker": {"runs/x/y-1/units/0000.json"},
    "airflow": PUT - {"elsewhere"},
    "reader": set(),
    "admin": PUT,
}


@pytest.fixture(scope="module")
def made(endpoint: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Bucket, Path, str]]:
    """A bucket that `simgap store init` made, twice over; the folder of its users' keys, and what was printed."""
    bucket, folder = Bucket(f"simgap-init-{secrets.token_hex(6)}", endpoint), tmp_path_factory.mktemp("credentials")
    arguments, environment = ["store", "init", "--credentials", str(folder)], bucket.environment("of/simgap")
    first = CliRunner().invoke(cli.app, arguments, env=environment)
    before = {file.name: file.read_text() for file in folder.iterdir()}
    again = CliRunner().invoke(cli.app, arguments, env=environment)
    assert (first.exit_code, again.exit_code) == (0, 0), (first.output, first.exception, again.output, again.exception)
    assert before == {file.name: file.read_text() for file in folder.iterdir()}
    yield bucket, folder, first.output + again.output
    bucket.remove()


def as_user(made: tuple[Bucket, Path, str], role: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    bucket, folder, _ = made
    keys = dict(line.split("=", 1) for line in (folder / f"{role}.env").read_text().splitlines())
    for name, value in (bucket.endpoint.environment() | keys).items():
        monkeypatch.setenv(name, value)
    store_module._bucket.cache_clear()  # of the user before
    return Store(bucket.store("of/simgap"))


def test_the_bucket_keeps_versions_for_a_while(made: tuple[Bucket, Path, str]) -> None:
    bucket, _, _ = made
    client = bucket.endpoint.client()
    assert client.get_bucket_versioning(Bucket=bucket.name)["Status"] == "Enabled"
    [rule] = client.get_bucket_lifecycle_configuration(Bucket=bucket.name)["Rules"]
    assert rule["NoncurrentVersionExpiration"] == {"NoncurrentDays": buckets.DAYS_OF_OLD_VERSIONS}
    assert rule["Status"] == "Enabled"


def test_keys_are_for_their_owner_alone_and_are_not_printed(made: tuple[Bucket, Path, str]) -> None:
    _, folder, said = made
    for role in buckets.ROLES:
        file = folder / f"{role}.env"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert file.read_text().partition("SECRET_ACCESS_KEY=")[2].strip() not in said


@pytest.mark.parametrize("role", buckets.ROLES)
def test_each_role_may_do_what_it_needs_and_nothing_else(
    made: tuple[Bucket, Path, str], role: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bucket, _, _ = made
    (tmp_path / "large").write_bytes(bytes(20_000_000))
    seen = bucket.endpoint.client()
    seen.put_object(Bucket=bucket.name, Key="of/simgap/runs/there", Body=b"1")
    store = as_user(made, role, monkeypatch)
    assert store.get("runs/there") == b"1" and "runs/there" in [entry.path for entry in store.list("")]
    for path in PUT:
        for put in (lambda p: store.put(p, b"2"), lambda p: store.upload(p, tmp_path / "large")):
            assert _may(put, path) == (path in MAY_PUT[role]), (role, path)
    assert _may(store.delete, "runs/there") == (role == "admin")


def _may(action: Callable[[str], object], path: str) -> bool:
    """Whether it is done; what is refused has to say why."""
    try:
        action(path)
    except SimgapError as told:
        if "may not do this" not in str(told):
            raise
        return False
    return True
