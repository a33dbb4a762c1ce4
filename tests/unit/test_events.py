"""OpenLineage's events: what is told of a study, to whom, and that nobody has to listen."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from making import committed, put_data, put_pool, run_study
from referencing import Registry, Resource

from simgap import catalog, cli, events, flow, runs
from simgap.errors import SimgapError
from simgap.request import Input
from simgap.requests import Score
from simgap.store import Store

SPEC = Path(__file__).parents[1] / "data" / "openlineage"
SCHEMAS = [Resource.from_contents(json.loads(path.read_text())) for path in sorted(SPEC.rglob("*.json"))]
REGISTRY = Registry().with_resources((str(schema.id()), schema) for schema in SCHEMAS)
CONFIGURED = ("OPENLINEAGE_URL", "OPENLINEAGE_CONFIG", "OPENLINEAGE_DISABLED")


@pytest.fixture(autouse=True)
def _nothing_is_configured(monkeypatch, tmp_path):
    for name in CONFIGURED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def file(tmp_path, monkeypatch) -> Path:
    """Where events are written, a line each."""
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__TYPE", "file")
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__LOG_FILE_PATH", str(tmp_path / "events.jsonl"))
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__APPEND", "true")
    return tmp_path / "events.jsonl"


def told(file: Path, state: str | None = None) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [event for event in found if state in (None, event["eventType"])]


def by_job(file: Path, state: str) -> dict[str, dict[str, Any]]:
    return {event["job"]["name"]: event for event in told(file, state)}


def valid(instance: dict[str, Any], schema_url: str) -> None:
    validator = Draft202012Validator({"$ref": schema_url}, registry=REGISTRY, format_checker=Draft202012Validator.FORMAT_CHECKER)
    validator.validate(instance)


def facets(found: object) -> Iterator[dict[str, Any]]:
    """Everything in an event that says which schema it follows, the event aside."""
    values = found.values() if isinstance(found, dict) else found if isinstance(found, list) else []
    for value in values:
        if isinstance(value, dict) and "_schemaURL" in value:
            yield value
        yield from facets(value)


def check_all_are_valid(found: list[dict[str, Any]]) -> None:
    for event in found:
        valid(event, event["schemaURL"])
        for facet in facets(event):
            name = facet["_schemaURL"].rpartition("/")[2]
            valid({name[0].lower() + name[1:]: facet} if False else facet, facet["_schemaURL"])


def test_each_run_of_an_audit_starts_and_completes_once(store, audit_file, file):
    put_data(store)
    made = run_study(store, audit_file)
    jobs = sorted(f"{run.stage}/{run.name}" for run in (runs.load(store, path) for path in made.roles.values()))
    for state in ("START", "COMPLETE"):
        assert sorted(event["job"]["name"] for event in told(file, state)) == jobs
    assert not told(file, "FAIL")
    starts, ends = by_job(file, "START"), by_job(file, "COMPLETE")
    assert {job: event["run"]["runId"] for job, event in starts.items()} == {
        job: event["run"]["runId"] for job, event in ends.items()
    }
    assert len({event["run"]["runId"] for event in told(file)}) == len(jobs)
    assert all(starts[job]["eventTime"] <= ends[job]["eventTime"] for job in jobs)
    check_all_are_valid(told(file))
    told_before = file.read_text()
    run_study(store, audit_file, "manual__2")
    assert file.read_text() == told_before
