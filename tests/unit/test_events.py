"""OpenLineage's events: what is told of a study, to whom, and that nobody has to listen."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from making import Made, committed, put_data, run_study
from referencing import Registry, Resource

from simgap import catalog, cli, events, flow, requests, runs, schema, worker
from simgap.errors import SimgapError
from simgap.store import Store
from simgap.study import Fetch as Icons

SPEC = Path(__file__).parents[1] / "data" / "openlineage"
SCHEMAS = [Resource.from_contents(json.loads(path.read_text())) for path in sorted(SPEC.rglob("*.json"))]
REGISTRY = Registry().with_resources((str(schema.id()), schema) for schema in SCHEMAS)
Told = dict[str, Any]


@pytest.fixture(autouse=True)
def _nothing_is_configured(monkeypatch, tmp_path):
    for name in ("OPENLINEAGE_DISABLED", *events.SETTINGS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def file(monkeypatch, tmp_path) -> Path:
    """Events go to this file, a line each."""
    to_file(monkeypatch.setenv, tmp_path / "events.jsonl")
    return tmp_path / "events.jsonl"


def to_file(setenv: Callable[[str, str], object], path: Path) -> None:
    setenv("OPENLINEAGE__TRANSPORT__TYPE", "file")
    setenv("OPENLINEAGE__TRANSPORT__LOG_FILE_PATH", str(path))
    setenv("OPENLINEAGE__TRANSPORT__APPEND", "true")


def told(file: Path, state: str | None = None) -> list[Told]:
    found = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [event for event in found if state in (None, event["eventType"])]


@pytest.fixture(scope="module")
def heard(tmp_path_factory, audit_file) -> tuple[Store, Made, list[Told]]:
    """A whole audit, gone through twice, and what was told of it."""
    folder = tmp_path_factory.mktemp("heard")
    store = Store(f"file://{folder}/store")
    put_data(store)
    with pytest.MonkeyPatch.context() as patch:
        to_file(patch.setenv, folder / "events.jsonl")
        made = run_study(store, audit_file)
        first = told(folder / "events.jsonl")
        run_study(store, audit_file, "manual__2")
    assert told(folder / "events.jsonl") == first, "of what was found done something was told"
    return store, made, first


def of(found: list[Told], state: str) -> dict[str, Told]:
    """Events by job; a job's second would be missed, so there is none."""
    events = [event for event in found if event["eventType"] == state]
    jobs = {event["job"]["name"]: event for event in events}
    assert len(jobs) == len(events)
    return jobs


def test_each_run_starts_and_completes_once(heard):
    store, made, found = heard
    starts, ends = of(found, "START"), of(found, "COMPLETE")
    jobs = {f"{run.stage}/{run.name}" for run in (runs.load(store, path) for path in made.roles.values())}
    assert starts.keys() == ends.keys() == jobs and len(found) == 2 * len(jobs)
    ids = {job: event["run"]["runId"] for job, event in starts.items()}
    assert ids == {job: event["run"]["runId"] for job, event in ends.items()} and len(set(ids.values())) == len(jobs)
    assert all(starts[job]["eventTime"] < ends[job]["eventTime"] for job in jobs)
    [parent] = {json.dumps(event["run"]["facets"]["parent"]) for event in found}
    assert json.loads(parent)["job"] == {"namespace": "simgap", "name": "study", "facets": {}}


def check_valid(found: list[Told]) -> None:
    """By the schema that each event, and each facet in it, says it follows."""
    assert found
    for part in (part for event in found for part in [event, *facets(event)]):
        reference = {"$ref": part.get("schemaURL") or part["_schemaURL"]}
        checker = Draft202012Validator.FORMAT_CHECKER
        Draft202012Validator(reference, registry=REGISTRY, format_checker=checker).validate(part)


def facets(found: object) -> Iterator[Told]:
    values = found.values() if isinstance(found, dict) else found if isinstance(found, list) else []
    for value in values:
        if isinstance(value, dict) and "_schemaURL" in value:
            yield value
        yield from facets(value)


def test_events_are_valid_by_openlineages_own_schemas(heard):
    check_valid(heard[2])


def test_what_is_told_of_outputs_is_what_the_catalog_has(heard):
    store, _, found = heard
    outputs = {out["name"]: out for event in of(found, "COMPLETE").values() for out in event["outputs"]}
    asked = """select run || '/' || name as name, kind, sum("rows")::bigint as "rows", sum(bytes)::bigint as bytes
        from run_outputs group by all"""
    rows = catalog.ask(store, asked).to_pylist()
    assert outputs.keys() == {row["name"] for row in rows} and len(rows) > 60
    for row in rows:
        counted = outputs[row["name"]]["outputFacets"]["outputStatistics"]
        assert (counted.get("rowCount"), counted["size"]) == (row["rows"], row["bytes"])
        if row["kind"] == "table":
            told_of = [field["name"] for field in outputs[row["name"]]["facets"]["schema"]["fields"]]
            table = schema.table(row["name"].rpartition("/")[2])
            assert told_of == [name for name in table.columns if name != "run"]


def test_an_input_is_what_an_earlier_run_put_out(heard):
    _, made, found = heard
    ends = of(found, "COMPLETE")
    outputs = {out["name"]: out["facets"] for event in ends.values() for out in event["outputs"]}
    for job, event in ends.items():
        for read in event["inputs"] if not job.startswith("ingest/") else []:
            assert read["facets"] == outputs[read["name"]]
    read = {one["name"] for one in ends["verify/pruned-t1"]["inputs"]}
    assert {f"{made.roles['split/pruned']}/members", f"{made.roles['embed/a']}/embeddings"} <= read


def test_an_ingest_reads_its_data_set_where_that_lies(heard):
    store, _, found = heard
    [row] = catalog.ask(store, "from datasets where dataset = 'a'").to_pylist()
    [read] = of(found, "COMPLETE")["ingest/a"]["inputs"]
    assert (read["namespace"], read["name"]) == (store.root, "a")
    assert read["facets"]["version"]["datasetVersion"] == row["sha256"]
    counted = read["inputFacets"]["inputStatistics"]
    assert (counted["fileCount"], counted["rowCount"], counted["size"]) == (2, row["samples"], row["bytes"])
    [before] = of(found, "START")["ingest/a"]["inputs"]
    assert before["name"] == "a" and "version" not in before["facets"]


@pytest.mark.parametrize("absolute", [False, True])
def test_an_ingest_of_fetched_data_reads_what_the_fetch_put_out(store, tmp_path, file, absolute):
    (tmp_path / "0.tar").write_bytes(b"a shard")
    icons = Icons(package="p", images={}, concepts=[], tests={})
    fetched = runs.load(
        store, committed(store, requests.Fetch(name="icons", icons=icons), {}, pool__0=tmp_path / "0.tar")
    )
    [shard] = fetched.files.values()
    listed = requests.Shard(
        path="0.tar", uri=store.url(shard.path) if absolute else shard.path, size=shard.bytes, sha256=shard.sha256
    )
    events.start(store, [requests.Ingest(name="pool", role="pool", shards=[listed])], {})
    [read] = told(file)[0]["inputs"]
    assert read["name"] == f"{fetched.run}/pool.0" and read["facets"]["version"]["datasetVersion"] == shard.sha256


def test_shards_of_another_store_are_told_without_credentials(store, file):
    shard = requests.Shard(path="0.tar", uri="s3://me:secret@elsewhere/laion/0.tar", size=1)
    events.start(store, [requests.Ingest(name="pool", role="pool", shards=[shard])], {})
    [read] = told(file)[0]["inputs"]
    assert (read["namespace"], read["name"]) == ("s3://elsewhere", "laion")
    assert "secret" not in file.read_text()


def test_a_run_that_fails_for_good_is_told_with_its_message(store, audit_file, file, monkeypatch):
    from operators.telling import Teller

    monkeypatch.setenv("SIMGAP_STORE", store.root)
    put_data(store)
    made = run_study(store, audit_file, until="ingest")
    planned = flow.plan(store, made.resolved, "embed", None, made.roles, {"dag_id": "study", "dag_run": "manual__1"})
    run = planned["requests"]["embed/a"]
    for try_number in (1, 2):
        ti = SimpleNamespace(dag_id="study", run_id="manual__1", try_number=try_number, max_tries=1)
        with pytest.raises(RuntimeError), Teller({"ti": ti}, "embed", [run]).failures():
            raise RuntimeError("no memory left")
    [failed] = told(file, "FAIL")
    assert failed["job"]["name"] == "embed/a"
    assert failed["run"]["facets"]["errorMessage"]["message"] == "no memory left"
    assert failed["run"]["runId"] in {event["run"]["runId"] for event in told(file, "START")}
    check_valid([failed])


def test_what_a_stage_committed_before_one_that_cannot_be_is_told(store, audit_file, file):
    put_data(store)
    made = run_study(store, audit_file, until="ingest")
    planned = flow.plan(store, made.resolved, "embed", None, made.roles)
    worker.do_unit(store, [planned["requests"]["embed/a"]], 0)
    with pytest.raises(SimgapError, match="is not done"):
        flow.commit(store, planned, {"dag_id": "study", "dag_run": "manual__1"})
    assert [event["job"]["name"] for event in told(file, "COMPLETE") if "embed" in event["job"]["name"]] == ["embed/a"]
    events.fail(store, planned["requests"].values(), "not done", {})
    assert "embed/a" not in of(told(file), "FAIL") and "embed/b" in of(told(file), "FAIL")


def ingest(store: Store, *shards: str) -> requests.Ingest:
    """A request of the study's own data, begun."""
    listed = [requests.Shard(path=name, uri=f"a/{name}", size=1) for name in shards]
    request = requests.Ingest(name="a", role="pool", shards=listed)
    runs.begin(store, request)
    return request


@pytest.mark.parametrize("shard", ["00000.tar", "none.tar"])
def test_a_run_done_by_hand_is_told_once(store, file, monkeypatch, shard):
    put_data(store)
    request = ingest(store, shard)
    monkeypatch.setenv("SIMGAP_STORE", store.root)
    monkeypatch.setattr(sys, "argv", ["simgap", "run", request.path])
    for _ in range(2):
        with pytest.raises(SystemExit):
            cli.main()
    ending = "COMPLETE" if shard == "00000.tar" else "FAIL"
    assert [event["eventType"] for event in told(file)] == ["START", ending] * (1 if ending == "COMPLETE" else 2)
    assert all("parent" not in event["run"]["facets"] for event in told(file))
    check_valid(told(file))


@contextmanager
def backend(
    answer: Callable[[BaseHTTPRequestHandler], object], monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[Told]]:
    """A server that events are posted to: what came in."""
    came: list[Told] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            came.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            assert self.path == "/api/v1/lineage"
            answer(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("OPENLINEAGE_URL", f"http://127.0.0.1:{server.server_port}")
    yield came
    server.shutdown()
    server.server_close()


def status(code: int) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def test_a_backend_is_sent_the_events(store, monkeypatch, audit_file):
    put_data(store)
    with backend(status(201), monkeypatch) as came:
        made = run_study(store, audit_file, until="ingest")
    assert [event["eventType"] for event in came] == ["START"] * 5 + ["COMPLETE"] * 5
    assert {f"ingest/{name}" for name in ("a", "b", "ref", "t1", "t2")} == {event["job"]["name"] for event in came}
    assert len(made.roles) == 5
    check_valid(came)


@pytest.mark.parametrize("kind", ["500", "hangs", "nobody"])
def test_a_backend_that_is_down_loses_events_and_not_the_study(store, monkeypatch, audit_file, caplog, kind):
    put_data(store)
    monkeypatch.setattr(events, "SECONDS_FOR_AN_EVENT", 0.3)
    over = threading.Event()
    answer = (lambda _: over.wait(20)) if kind == "hangs" else status(500)
    with backend(answer, monkeypatch):
        if kind == "nobody":
            monkeypatch.setenv("OPENLINEAGE_URL", "http://127.0.0.1:1")
        started = time.monotonic()
        made = run_study(store, audit_file, until="ingest")
        assert time.monotonic() - started < 5
        over.set()
    assert all(runs.find(store, path) for path in made.roles.values())
    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(lines) == 2 and all(line.startswith("OpenLineage: events are lost: ") for line in lines)


@pytest.mark.parametrize("disabled", [False, True])
def test_nothing_configured_nothing_is_told_and_the_library_stays_unread(tmp_path, disabled):
    code = """if True:
        import sys
        from simgap import events, requests, store
        request = requests.Ingest(name="a", role="pool", shards=[])
        events.start(store.Store.from_environment(), [request], {})
        assert not [name for name in sys.modules if name.startswith("openlineage")]
        """
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path)}
    if disabled:
        environment |= {"OPENLINEAGE_DISABLED": "true", "OPENLINEAGE_URL": "http://127.0.0.1:1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_configuration_without_a_transport_prints_nothing_of_a_study(store, monkeypatch, tmp_path, caplog):
    (tmp_path / "openlineage.yml").write_text("facets: {environment_variables: []}")
    monkeypatch.setenv("OPENLINEAGE_CONFIG", str(tmp_path / "openlineage.yml"))
    events.start(store, [ingest(store, "00000.tar")], {})
    assert "OpenLineage: events are lost: its configuration names no transport" in caplog.messages
    assert "runId" not in caplog.text


@pytest.mark.parametrize(
    ("url", "told_as"),
    [("s3://b/of/us", "s3://b/of/us"), ("s3://me:secret@b/of/us", "s3://b/of/us"), ("file:///a@b/c", "file:///a@b/c")],
)
def test_a_namespace_is_a_stores_url_without_credentials(url, told_as):
    assert events.namespace(url) == told_as
