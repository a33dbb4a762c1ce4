"""`simgap store check`."""

import random
import tempfile
from pathlib import Path

import duckdb
import pytest
from making import committed, run_study
from typer.testing import CliRunner

from simgap import catalog, cli, publishing
from simgap.check import check
from simgap.requests import Report
from simgap.store import Store

BYTES_FLIPPED = 70


def kept(store: Store) -> list[str]:
    """Everything that a finished study wrote."""
    return [entry.path for folder in ("runs", "studies", "catalog") for entry in store.list(folder) if entry.size]


def test_nothing_is_wrong_with_a_study_as_it_was_committed(published: Store) -> None:
    told = []
    assert list(check(published, lambda done, total: told.append((done, total)))) == []
    assert told[-1][0] == told[-1][1] > 0


def test_each_byte_that_is_flipped_is_found(published: Store) -> None:
    rng = random.Random(4)
    for path in rng.choices(kept(published), k=BYTES_FLIPPED):
        before = published.get(path)
        at = rng.randrange(len(before))
        published.put(path, before[:at] + bytes([before[at] ^ (1 << rng.randrange(8))]) + before[at + 1 :])
        wrong = list(check(published))
        assert wrong and any(line.startswith(path) for line in wrong), (path, at, wrong)
        published.put(path, before)
    assert list(check(published)) == []


@pytest.mark.parametrize(("stage", "part"), [("embed", "units"), ("ingest", "request.json"), ("split", "run.json")])
def test_what_is_gone_is_named(published: Store, stage: str, part: str) -> None:
    path = next(p for p in kept(published) if p.startswith(f"runs/{stage}/") and part in p)
    published.delete(path)
    assert any("gone" in line and line.startswith(path.removesuffix("/run.json")) for line in check(published))


def test_data_that_changed_since_is_told_apart_from_data_that_was_moved(published: Store) -> None:
    published.put("a/00000.tar", published.get("a/00000.tar"))  # another etag, the same bytes
    assert list(check(published)) == []
    published.put("a/00000.tar", published.get("a/00001.tar"))
    [line] = check(published)
    assert line.startswith(f"{published.root}/a/00000.tar: changed, or gone, since runs/ingest/a-")


def test_data_that_was_ingested_anew_since_is_no_damage(published: Store, audit_file: Path) -> None:
    document = audit_file.read_text().replace('name = "audit"', 'name = "later"')
    (later := audit_file.with_name("later.toml")).write_text(document)
    published.put("a/00000.tar", published.get("a/00001.tar"))
    run_study(published, later)
    assert list(check(published)) == []


def test_a_catalog_that_says_something_else_is_told(published: Store) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "other"
        published.download(catalog.PATH, file)
        with duckdb.connect(str(file)) as connection:
            connection.execute("update splits set samples = samples + 1")
        publishing.seal(file)
        published.upload(catalog.PATH, file)
    anew = "`simgap catalog` makes it anew"
    assert list(check(published)) == [f"catalog/simgap.duckdb: table splits does not hold what the runs say; {anew}"]


def test_what_is_committed_after_the_catalog_was_made_is_no_damage(published: Store) -> None:
    committed(published, Report(name="later", study={}, sources=[]), {})
    assert list(check(published)) == []


def test_the_command_names_what_is_wrong_and_fails(published: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMGAP_STORE", published.root)
    good = CliRunner().invoke(cli.app, ["store", "check"])
    assert good.exit_code == 0 and good.output.endswith(f"{published.root}: all is as it was committed\n")
    path = next(p for p in kept(published) if p.startswith("runs/embed/"))
    published.put(path, b"?")
    bad = CliRunner().invoke(cli.app, ["store", "check"])
    assert f"{path}: is not as it was written\n" in bad.output
    assert str(bad.exception) == f"{published.root}: 1 objects or tables are not what was committed"
