"""What a task tells the feed, and how its failures end it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from airflow.sdk.exceptions import AirflowFailException

from operators import feed
from simgap.errors import SimgapError, StoreFailed


class Teller:
    """A task's voice in the feed of its DAG run."""

    def __init__(self, context: Any, group: str) -> None:
        self._ti, self._group = context["ti"], group

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
        self.tell("failed", message=str(error) or type(error).__name__, final=final)
