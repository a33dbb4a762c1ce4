"""A hundred kills at random: nothing is lost, nothing is there twice, and nothing that was committed is done again."""

import os
import time
from pathlib import Path

import pytest
from buckets import Bucket, Minio
from compare import assert_complete, assert_nothing_was_done_again, assert_same, left_behind
from disturbed import Disturbed, Undisturbed, walk
from rich.console import Console
from rich.table import Table
from tries import Tries

from simgap.store import Store

KILLS = int(os.environ.get("SIMGAP_TEST_KILLS", "100"))
THROUGH_AIRFLOW = KILLS // 10
SEED = 1


def test_a_study_whose_processes_and_store_are_killed_ends_as_an_undisturbed_one(
    bucket: Bucket, minio: Minio, undisturbed, tiny: Path, tmp_path: Path, capsys
) -> None:
    started = time.monotonic()
    disturbed = Disturbed(
        Tries(bucket.environment("killed"), tmp_path / "tries.log"), minio, KILLS - THROUGH_AIRFLOW, SEED, undisturbed.typical
    )
    roles = walk(disturbed, tiny, "killed")
    while disturbed.kills_left:
        walk(disturbed, tiny, "killed")
    store = Store(bucket.store("killed"))
    assert_complete(store, roles)
    assert_nothing_was_done_again(bucket, "killed")
    assert_same(store, undisturbed.store, roles, undisturbed.roles)
    with capsys.disabled():
        print(disturbed.tally, left_behind(bucket, store, roles), time.monotonic() - started)
