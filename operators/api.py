"""The few calls of Airflow's REST API that the console and `make up` need."""

import json
import time
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

from simgap.errors import SimgapError

SECONDS_FOR_AN_ANSWER = 10
NOT_FOUND = 404


class Api:
    """An Airflow that asks for no login, at `http://127.0.0.1:<port>`."""

    def __init__(self, url: str) -> None:
        self.url = url

    def healthy(self) -> bool:
        """Whether the API, the scheduler and the DAG processor all answer."""
        try:
            health = self.call("monitor/health")
        except (URLError, TimeoutError, ConnectionError):
            return False
        return all(health[part]["status"] == "healthy" for part in ("metadatabase", "scheduler", "dag_processor"))

    def knows(self, dag_id: str) -> bool:
        """Raises SimgapError when the DAG is paused: a run of it would wait for ever."""
        try:
            dag = self.call(f"dags/{dag_id}")
        except HTTPError as error:
            if error.code == NOT_FOUND:
                return False
            raise
        if dag["is_paused"]:
            raise SimgapError(f"{dag_id} is paused in Airflow; switch it on at {self.url}/dags/{dag_id}")
        return True

    def wait_for(self, dag_id: str, seconds: float) -> None:
        """Waits until Airflow has read a DAG's file. Raises SimgapError when it does not."""
        until = time.monotonic() + seconds
        while not self.knows(dag_id):
            if time.monotonic() > until:
                raise SimgapError(f"{dag_id} is not known to Airflow at {self.url}; see the import errors there")
            time.sleep(1)

    def trigger(self, dag_id: str, dag_run: str, parameters: dict[str, Any]) -> None:
        self.call(f"dags/{dag_id}/dagRuns", {"dag_run_id": dag_run, "logical_date": None, "conf": parameters})

    def state(self, dag_id: str, dag_run: str) -> str | None:
        """queued, running, success or failed; None when Airflow is too busy to say. Raises SimgapError when it is gone."""
        try:
            return self.call(f"dags/{dag_id}/dagRuns/{quote(dag_run)}")["state"]
        except TimeoutError:
            return None
        except (URLError, ConnectionError) as error:
            raise SimgapError(f"Airflow at {self.url} is gone; make up, or make study again, goes on") from error

    def page(self, dag_id: str, dag_run: str) -> str:
        """Where a person sees the DAG run."""
        return f"{self.url}/dags/{dag_id}/runs/{quote(dag_run)}"

    def call(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The answer of a path under /api/v2/, to a GET or to a POST of `body`."""
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{self.url}/api/v2/{path}", data, {"Content-Type": "application/json"})
        with urlopen(request, timeout=SECONDS_FOR_AN_ANSWER) as answer:
            return json.load(answer)
