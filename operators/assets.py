"""The assets of every study: a DAG run tells of what it made itself, with the runs in the event's `extra`.

Events coalesce, and a store outlives Airflow's database: they say when to look, never what there is.
"""

from collections.abc import Mapping
from typing import Any

from airflow.sdk import Asset, AssetAlias

DATASETS = Asset(name="simgap_datasets", uri="simgap://datasets")
TEST_SETS = Asset(name="simgap_test_sets", uri="simgap://test_sets")
SPLITS = Asset(name="simgap_splits", uri="simgap://splits")
CHECKPOINTS = Asset(name="simgap_checkpoints", uri="simgap://checkpoints")
RESULTS = Asset(name="simgap_results", uri="simgap://results")

MADE = AssetAlias(name="simgap_made")
"""The outlet of a task that finds out as it runs which of the assets have something new."""

OF_KIND = {
    "dataset": DATASETS, "test_set": TEST_SETS, "split": SPLITS, "train": CHECKPOINTS, "score": RESULTS, "report": RESULTS,
}  # fmt: skip


def tell(outlet_events: Any, dag_run: str, made: Mapping[str, dict[str, str]]) -> None:
    """One event for each asset that has something new; `made` is the runs by role, by kind."""
    told: dict[Asset, dict[str, str]] = {}
    for kind, runs in made.items():
        if kind in OF_KIND and runs:
            told.setdefault(OF_KIND[kind], {}).update(runs)
    for asset, runs in told.items():
        outlet_events[MADE].add(asset, extra={"dag_run": dag_run, "runs": runs})
