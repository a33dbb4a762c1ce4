"""What a task tells the feed, and how its failures end it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from airflow.sdk.exceptions import AirflowFailException

from operators import feed
from simgap.errors import SimgapError, StoreFailed


class Teller:
    """A task's voice in the feed of its DAG run; where it fails for good, the runs that it does have failed."""

    def __init__(self, context: Any, group: str, runs: Iterable[str] = ()) -> None:
        self._ti, self._group, self._runs = context["ti"], group, list(runs)

    @property
    def lineage(self) -> dict[str, str]:
        """Who asks for the runs of this stage."""
        return {"dag_id": self._ti.dag_id, "dag_run": self._ti.run_id, "task_id": f"{self._group}.units"}

    def tell(self, kind: str, **facts: Any) -> None:
        feed.tell(self._ti.dag_id, self._ti.run_id, kind, group=self._group, **facts)

    @contextmanager
    def failures(self) -> Iterator[None]:
        """Tells of what is raised inside. Most SimgapErrors are a person's to mend, so the task is not tried again."""
        try:
            yield
        except StoreFailed as error:
            self._failed(error, final=self._last_try)
            raise
        except SimgapError as error:
            self._failed(error, final=True)
            raise AirflowFailException(str(error)) from error
        except AirflowFailException as error:
            self._failed(error, final=True)
            raise
        except Exception as error:
            self._failed(error, final=self._last_try)
            raise

    @property
    def _last_try(self) -> bool:
        return self._ti.try_number > self._ti.max_tries

    def _failed(self, error: Exception, final: bool) -> None:
        message = str(error) or type(error).__name__
        self.tell("failed", message=message, final=final)
        if final and self._runs:
            from simgap import events, store

            events.fail(store.Store.from_environment(), self._runs, message, self.lineage)
