"""`simgap store gc`."""

from datetime import timedelta

import pytest
from making import NOTHING, committed
from typer.testing import CliRunner

from simgap import catalog, cli, dag_runs, flow, garbage, publishing, runs
from simgap.check import check
from simgap.errors import SimgapError
from simgap.requests import Embed, Report, Tower
from simgap.store import Store

AT_ONCE = timedelta(0)


@pytest.fixture
def store(published: Store) -> Store:
    return published


def embed(name: str) -> Embed:
    return Embed(name=name, samples=NOTHING, encoder=Tower(name="e", model="m", pretrained="p"))


def objects(found: list[garbage.Garbage]) -> dict[tuple[str, str], list[str]]:
    return {(part.run, part.why): [entry.path.removeprefix(part.run) for entry in part.objects] for part in found}


def test_what_a_study_needs_is_no_garbage(store: Store) -> None:
    assert garbage.find(store, AT_ONCE) == []


def test_a_run_that_no_study_names_goes_its_commit_first(store: Store) -> None:
    committed(store, embed("lonely"), {})
    [part] = garbage.find(store, AT_ONCE)
    assert (part.run, part.why) == (embed("lonely").path, "no study names it")
    assert part.objects[0].path.endswith("/run.json") and part.bytes > 0
    garbage.remove(store, [part])
    assert store.list(part.run) == []


def test_what_a_needed_run_was_made_from_is_needed(store: Store) -> None:
    path = "studies/audit/manual__1/runs.json"
    dag_run = dag_runs.DagRun.model_validate_json(store.get(path))
    last = {role: run for role, run in dag_run.runs.items() if role.startswith("verify/")}
    store.put(path, dag_run.model_copy(update={"runs": last}).to_bytes())
    kept = {part.run.split("/")[1] for part in garbage.find(store, AT_ONCE)}
    assert not kept & {"ingest", "embed", "verify"} and "split" in kept  # splits that no certificate was asked for


def test_lost_tries_go_and_the_run_stays_whole(store: Store) -> None:
    [run] = [path for role, path in dag_runs.recorded(store)[0]["runs"].items() if role == "embed/a"]
    store.put(f"{run}/units/0000-deadbeef.embeddings.parquet", b"half")
    store.put(f"{run}/kept/0000/latest.pt", b"a checkpoint")
    found = garbage.find(store, AT_ONCE)
    lost = ["/kept/0000/latest.pt", "/units/0000-deadbeef.embeddings.parquet"]
    assert objects(found) == {(run, "lost tries"): lost}
    garbage.remove(store, found)
    assert list(check(store)) == []


def test_a_run_that_was_never_committed_goes_after_the_grace_period(store: Store) -> None:
    request = Report(name="begun", study={}, sources=[])
    runs.begin(store, request)
    assert garbage.find(store, timedelta(days=1)) == []
    assert objects(garbage.find(store, AT_ONCE)) == {
        (request.path, "never committed"): ["/request.json", "/units.json"]
    }


def test_nothing_is_collected_while_a_study_is_under_way(store: Store, audit_file) -> None:
    flow.resolve(store, audit_file, "manual__2", {})
    with pytest.raises(SimgapError, match=r"studies/audit/manual__2: under way, or killed a short while ago"):
        garbage.find(store, timedelta(days=1))


def test_what_a_failed_study_made_is_kept_for_its_next_try(store: Store, audit_file) -> None:
    resolved = flow.resolve(store, audit_file, "manual__2", {})
    request = embed("of-the-failed")
    committed(store, request, {}, dag_run="manual__2")
    dag_runs.end(store, resolved, "failed", {})
    assert garbage.find(store, AT_ONCE) == []


def test_gc_asks_first_and_takes_what_it_removed_out_of_the_catalog(store: Store, monkeypatch) -> None:
    monkeypatch.setenv("SIMGAP_STORE", store.root)
    lonely = committed(store, embed("lonely"), {}).run
    publishing.publish(store)
    for arguments, answer, left in [(["--dry-run"], "", 1), ([], "n\n", 1), ([], "y\n", 0)]:
        done = CliRunner().invoke(cli.app, ["store", "gc", "--grace-days", "0", *arguments], input=answer)
        assert done.exit_code == 0 and "lonely" in done.output, done.output
        assert catalog.ask(store, f"from main.runs where run = '{lonely}'").num_rows == left
