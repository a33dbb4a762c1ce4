"""What a study file becomes in Airflow: a DAG with a page that explains it and a form."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Param, task
from airflow.sdk.exceptions import AirflowFailException

from simgap.errors import SimgapError
from simgap.study import Study, head, load

FORM = """
## The form
**tests** and **splits** choose a part of the study, and **seeds** those of its trainings; as they stand, all of it is
done as its file says. A split brings along the splits it is made from; a test set goes together with the splits that
name it. The encoder stays the same whatever the seeds.
What an earlier run has done already, here or in another study, is found and not done again.

## The stages
`fetch` and `ingest` bring and count the data. `split_encoder` and `train_encoder` make the encoder, where the study
trains its own. `embed`, `search_reference` and `search_pool` find how similar the pool is to the test sets; `split`
prunes it, and `verify` checks every split. `train`, `evaluate`, `score` and `report` find what the similarity bought.
Each is a group of three: `plan` finds what is missing, `units` do it, `commit` makes it count. Results: `simgap sql`.
"""


def studies(folder: Path) -> Iterator[tuple[Path, Study]]:
    """The studies in a folder, by name. A file that is none becomes a DAG that says why, and spares the others."""
    for path in sorted(folder.glob("*.toml")):
        try:
            yield path, load(path)
        except SimgapError as error:
            _broken(path, str(error))


def study_dag(path: Path, study: Study) -> DAG:
    """The empty DAG of a study: named after its file, started by hand, one run at a time."""
    fields: Any = form(study)
    return DAG(
        dag_id=dag_id(path),
        doc_md=f"{head(path)}\n{FORM}",
        params=fields,
        tags=["study", "audit" if study.train is None else "training"],
        **_COMMON,
    )


def dag_id(path: Path) -> str:
    return f"study_{path.stem}"


def form(study: Study) -> dict[str, Param]:
    """The parameters that a person can choose when triggering: of the study's test sets and splits, and any seeds."""
    named = {"tests": [test.name for test in study.tests], "splits": list(study.splits)}
    fields = {
        name: _several(name, values, items={"type": "string", "enum": values}, examples=values)
        for name, values in named.items()
    }
    if study.train is not None:
        seeds = [str(seed) for seed in study.train.seeds]  # the web UI's lists hold strings
        told = "A line each: every split is trained once with each."
        fields["seeds"] = _several("seeds", seeds, items={"type": "string", "pattern": "^[0-9]+$"}, description=told)
    return fields


def _several(name: str, values: list[str], **schema: Any) -> Param:
    return Param(values, type="array", title=name, minItems=1, uniqueItems=True, **schema)


def _broken(path: Path, message: str) -> None:
    with DAG(dag_id=dag_id(path), doc_md=f"## Not a study\n```\n{message}\n```", tags=["study", "broken"], **_COMMON):

        @task(retries=0)
        def not_a_study() -> None:
            raise AirflowFailException(message)

        not_a_study()


_COMMON: dict[str, Any] = {
    "schedule": None,
    "catchup": False,
    "max_active_runs": 1,
    "default_args": {"retries": 2, "retry_delay": timedelta(seconds=5)},
}
