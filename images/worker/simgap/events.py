"""OpenLineage: START, COMPLETE and FAIL events of runs, to where that library's own environment variables or file say.

Events are projections of request.json and run.json. Where nothing is configured, nothing is sent, and the library is not
imported. A backend that is down or hangs loses events; it neither fails a stage nor holds it up for long.
"""

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, uuid5

import pyarrow.parquet as pq

from simgap import lineage, runs, schema
from simgap.errors import SimgapError
from simgap.request import Request
from simgap.requests import Ingest, from_document
from simgap.runs import Run
from simgap.store import Store
from simgap.version import code_version

if TYPE_CHECKING:
    from openlineage.client import OpenLineageClient
    from openlineage.client.event_v2 import InputDataset, OutputDataset, RunEvent
    from openlineage.client.facet_v2 import DatasetFacet, RunFacet

JOBS = "simgap"
"""The namespace of jobs: `<stage>/<name>`, and the DAGs that asked for them."""
SECONDS_FOR_AN_EVENT = 5
"""How long a stage waits for a backend to take an event before it goes on, and tells of no more."""
THREAD = "openlineage"
SETTINGS = ("OPENLINEAGE_URL", "OPENLINEAGE_CONFIG", "OPENLINEAGE__TRANSPORT", "OPENLINEAGE__TRANSPORT__TYPE")
Asked = dict[str, Any]
"""The DAG run that asked for a run: dag_id and dag_run; empty where none did."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Held:
    """A table, a file or a folder of shards, as a data set of OpenLineage's; `content` is the checksum of what it holds."""

    namespace: str
    name: str
    content: str | None
    bytes: int
    files: int
    rows: int | None = None
    columns: dict[str, str] = field(default_factory=dict)
    place: str | None = None


@dataclass(frozen=True)
class Kind:
    """Tables with the same columns: a stage's revision writes a table in one way, and a study has one encoder. So one of
    them is looked into, and not each of the hundreds that a report reads."""

    stage: str
    revision: int
    table: str
    example: str = field(compare=False)


def start(store: Store, requests: list[Request], asked: Asked) -> None:
    """Tells that runs begin."""
    if requests:
        _tell(_event(store, "START", request, asked) for request in requests)


def complete(store: Store, made: list[Run], asked: Asked) -> None:
    """Tells what committed runs hold."""
    if made:
        _tell(_event(store, "COMPLETE", _request(store, run.run), asked, made=run) for run in made)


def fail(store: Store, paths: Iterable[str], message: str, asked: Asked) -> None:
    """Tells that runs failed for good, and why; those that were committed all the same did not."""
    missing = (path for path in paths if not runs.find(store, path))
    _tell(_event(store, "FAIL", _request(store, path), asked, message=message) for path in missing)


@contextmanager
def told(store: Store, request: Request) -> Iterator[None]:
    """Tells of a run that is done inside, asked for by no DAG run."""
    start(store, [request], {})
    try:
        yield
    except Exception as error:
        fail(store, [request.path], str(error), {})
        raise
    complete(store, [runs.load(store, request.path)], {})


def configured() -> bool:
    """Whether anything says where events go: the library alone would print them."""
    files = ("openlineage.yml", os.path.expanduser("~/.openlineage/openlineage.yml"))
    disabled = os.environ.get("OPENLINEAGE_DISABLED", "").strip().lower() == "true"
    return not disabled and (any(map(os.environ.get, SETTINGS)) or any(map(os.path.isfile, files)))


def namespace(url: str) -> str:
    """A store's URL without credentials."""
    scheme, _, place = url.partition("://")
    host, slash, path = place.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def _tell(events: Iterator["RunEvent"]) -> None:
    """Makes and sends events in a thread of its own: a transport tries for longer than a stage should wait."""
    if not configured():
        return
    answers: SimpleQueue[bool | Exception] = SimpleQueue()
    Thread(target=_send, args=(events, answers), name=THREAD, daemon=True).start()
    try:
        while (answer := answers.get(timeout=SECONDS_FOR_AN_EVENT)) is True:
            pass
    except Empty:
        answer = TimeoutError(f"no answer within {SECONDS_FOR_AN_EVENT} s")
    if answer:
        log.warning("OpenLineage: events are lost: %s", answer)


def _send(events: Iterator["RunEvent"], answers: "SimpleQueue[bool | Exception]") -> None:
    """Answers True for each event that was sent; then False, or what went wrong."""
    try:
        client = _client()
        for event in events:
            client.emit(event)
            answers.put(True)
        client.close(SECONDS_FOR_AN_EVENT)
        answers.put(False)
    except Exception as error:
        answers.put(error)


def _client() -> "OpenLineageClient":
    from openlineage.client import OpenLineageClient, facet_v2

    logging.getLogger("urllib3.connectionpool").addFilter(_is_not_ours)
    facet_v2.set_producer(_producer())
    client = OpenLineageClient()
    if not (os.environ.get("OPENLINEAGE_URL") or (client.config.transport or {}).get("type")):
        raise SimgapError("its configuration names no transport")
    return client


def _is_not_ours(record: logging.LogRecord) -> bool:
    """Leaves out each time that sending is tried again: what came of it is one line."""
    return record.threadName != THREAD


def _producer() -> str:
    return f"urn:simgap:{code_version()}"


def _event(
    store: Store, state: str, request: Request, asked: Asked, made: Run | None = None, message: str | None = None
) -> "RunEvent":
    from openlineage.client.event_v2 import Job, RunEvent, RunState
    from openlineage.client.event_v2 import Run as Told

    return RunEvent(
        eventType=RunState[state],
        eventTime=datetime.now(UTC).isoformat(),
        producer=_producer(),
        run=Told(_id(store, asked, request.path), _run_facets(store, asked, made, message)),
        job=Job(JOBS, f"{request.stage}/{request.name}"),
        inputs=list(_inputs(store, request, made)),
        outputs=list(_outputs(store, made)) if made else [],
    )


def _run_facets(store: Store, asked: Asked, made: Run | None, message: str | None) -> dict[str, "RunFacet"]:
    from openlineage.client.facet_v2 import error_message_run, parent_run, processing_engine_run

    codes = sorted({who["code_version"] for who in made.who}) if made else [code_version()]
    facets: dict[str, RunFacet] = {
        "processing_engine": processing_engine_run.ProcessingEngineRunFacet(version=", ".join(codes), name="simgap")
    }
    if asked:
        dag_run, dag = parent_run.Run(_id(store, asked)), parent_run.Job(JOBS, asked["dag_id"])
        facets["parent"] = parent_run.ParentRunFacet(dag_run, dag)
    if message is not None:
        facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(message, programmingLanguage="Python")
    return facets


def _inputs(store: Store, request: Request, made: Run | None) -> Iterator["InputDataset"]:
    from openlineage.client.event_v2 import InputDataset
    from openlineage.client.facet_v2 import input_statistics_input_dataset as statistics

    for held in _read(store, request, made):
        counted = statistics.InputStatisticsInputDatasetFacet(held.rows, held.bytes, held.files)
        yield InputDataset(held.namespace, held.name, {"inputStatistics": counted}, facets=_facets(held))


def _outputs(store: Store, made: Run) -> Iterator["OutputDataset"]:
    from openlineage.client.event_v2 import OutputDataset
    from openlineage.client.facet_v2 import output_statistics_output_dataset as statistics

    for held in _held(store, made):
        counted = statistics.OutputStatisticsOutputDatasetFacet(held.rows, held.bytes, held.files)
        yield OutputDataset(held.namespace, held.name, {"outputStatistics": counted}, facets=_facets(held))


def _facets(held: Held) -> dict[str, "DatasetFacet"]:
    from openlineage.client.facet_v2 import dataset_version_dataset, schema_dataset

    facets: dict[str, DatasetFacet] = {}
    if held.columns:
        fields = [schema_dataset.SchemaDatasetFacetFields(name, type_) for name, type_ in held.columns.items()]
        facets["schema"] = schema_dataset.SchemaDatasetFacet(fields)
    if held.content:
        facets["version"] = dataset_version_dataset.DatasetVersionDatasetFacet(held.content)
    return facets


def _read(store: Store, request: Request, made: Run | None) -> Iterator[Held]:
    """What a run reads: all that its inputs hold; of an ingest, its data set where that lies."""
    for path in request.inputs():
        yield from _held(store, runs.load(store, path))
    if isinstance(request, Ingest):
        files = [*request.shards, *request.labels, *request.records]
        places = [file.uri.removeprefix(store.root + "/") for file in files]
        fetched = {place: run for place in places if (run := lineage.run_of(store, place))}
        for run in sorted(set(fetched.values())):
            yield from (held for held in _held(store, runs.load(store, run)) if held.place in fetched)
        if not fetched:
            yield _data_set(store, request, made)


def _held(store: Store, run: Run) -> Iterator[Held]:
    """The tables and files that a run made."""
    ours = namespace(store.root)
    for name, parts in run.tables.items():
        yield Held(
            ours, f"{run.run}/{name}", runs.content_of({name: parts}, {}), sum(part.bytes for part in parts),
            len(parts), sum(part.rows for part in parts), _columns(store, Kind(run.stage, run.revision, name, parts[0].path)),
        )  # fmt: skip
    for name, file in run.files.items():
        yield Held(ours, f"{run.run}/{name}", file.sha256, file.bytes, 1, place=file.path)


def _data_set(store: Store, request: Ingest, made: Run | None) -> Held:
    """A data set that lies in a folder, in the store or elsewhere; once ingested, with the checksum that the catalog has."""
    shard = request.shards[0]
    folder = store.url(shard.uri.removesuffix(shard.path)).rstrip("/")
    inside = folder.startswith(store.root + "/")
    within = store.root if inside else "/".join(folder.split("/")[:3])
    told = lineage.data_sets(store, [made.run], shards=False).get(made.run) if made else None
    size = sum(shard.size or 0 for shard in request.shards)
    return Held(
        namespace(within), folder.removeprefix(within + "/"), told["sha256"] if told else None, size,
        len(request.shards), told["samples"] if told else None,
    )  # fmt: skip


@lru_cache(maxsize=256)
def _columns(store: Store, kind: Kind) -> dict[str, str]:
    """A parquet file's columns and types, in the catalog's order where the catalog has the table."""
    with store.reader(kind.example) as file:
        found = {field.name: str(field.type) for field in pq.read_schema(file)}
    order = next((list(t.columns) for t in schema.tables() if t.name == kind.table), [])
    return {name: found[name] for name in sorted(found, key=lambda name: order.index(name) if name in order else -1)}


def _id(store: Store, asked: Asked, *run: str) -> str:
    """Of a DAG run, or of a run within it: the same each time that it is asked for."""
    names = (namespace(store.root), str(asked.get("dag_id")), str(asked.get("dag_run")), *run)
    return str(uuid5(NAMESPACE_URL, "\n".join(names)))


def _request(store: Store, path: str) -> Request:
    return from_document(runs.request_document(store, path))
