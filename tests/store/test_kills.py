"""A hundred kills at random: nothing is lost, nothing is there twice, and nothing that was committed is done again."""

import time
from pathlib import Path

import pytest
from buckets import Bucket, Minio
from compare import assert_complete, assert_nothing_was_done_again, assert_same, left_behind
from disturbed import KILLS, SEED, Disturbed, Reference, walk
from rich.console import Console
from through_airflow import StudyThroughAirflow
from tries import Tries

from simgap import flow
from simgap.store import Store

pytestmark = pytest.mark.timeout(900)


def test_a_study_whose_processes_and_store_are_killed_ends_as_an_undisturbed_one(
    bucket: Bucket, minio: Minio, undisturbed: Reference, tiny: Path, tmp_path: Path, capsys
) -> None:
    started = time.monotonic()
    tries = Tries(bucket.environment("killed"), tmp_path / "tries.log")
    disturbed = Disturbed(tries, minio, KILLS - KILLS // 10, SEED, undisturbed.typical)
    roles = walk(disturbed, tiny, "killed")
    while disturbed.kills_left:
        walk(disturbed, tiny, "killed")
    seconds = time.monotonic() - started
    store = Store(bucket.store("killed"))
    assert flow.finished(store, tiny, {}) == roles
    _check(bucket, "killed", store, roles, undisturbed)
    with capsys.disabled():
        print()
        tally = disturbed.tally
        Console().print(tally.table(f"{sum(tally.kills.values())} kills, seed {SEED}"))
        print(f"{tally.summary()}, {left_behind(store, roles)} objects of cut tries left, {seconds:.0f} s")


def test_a_study_killed_again_and_again_in_airflow_ends_as_an_undisturbed_one(
    bucket: Bucket, through_airflow: StudyThroughAirflow, undisturbed: Reference, capsys
) -> None:
    store = Store(bucket.store(through_airflow.prefix))
    roles = flow.finished(store, through_airflow.home.dags / "studies" / "tiny.toml", {})
    assert roles
    _check(bucket, through_airflow.prefix, store, roles, undisturbed)
    with capsys.disabled():
        kills = ", ".join(f"{count} {victim}" for victim, count in sorted(through_airflow.kills.items()))
        print(f"\nthrough Airflow: kills: {kills}; {through_airflow.starts} starts, {through_airflow.seconds:.0f} s")


def _check(bucket: Bucket, prefix: str, store: Store, roles: dict[str, str], undisturbed: Reference) -> None:
    assert_complete(store, roles)
    assert_nothing_was_done_again(bucket, prefix)
    assert_same(store, undisturbed.store, roles, undisturbed.roles)
