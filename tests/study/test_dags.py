"""The DAGs: which there are, how they read, what their form offers, and that a broken study file spares the others."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from operators.embedded import Home
from simgap.errors import SimgapError, StoreFailed

DAGS = Path(__file__).parents[2] / "dags"
STUDIES = {"study_icons", "study_icons-seeds", "study_laion"}
SCHEDULED = {"reevaluate", "verify"}
STAGES = [
    "fetch", "ingest", "split_encoder", "train_encoder", "embed", "search_reference", "search_pool",
    "split", "verify", "train", "evaluate", "score", "report",
]  # fmt: skip
SMALL = """# make study STUDY=small
# a small one
name = "small"
pool = [{ name = "p", shards = "p/*.tar" }]
reference = { name = "r", shards = "r/*.tar" }
tests = [{ name = "t", shards = "t" }, { name = "u", shards = "u" }]
encoder = { model = "tiny", pretrained = "tag" }
[splits]
everything = { rule = "all" }
pruned = { rule = "prune", tests = ["t"] }
"""
TRAIN = """
[train]
model = "tiny"
samples_seen = 10
epochs = 1
batch_size = 2
learning_rate = 0.001
warmup_steps = 1
seeds = [0, 3]
"""


@pytest.fixture(autouse=True, scope="module")
def airflow_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in Home(tmp_path_factory.mktemp("home")).environment().items():
            patch.setenv(name, value)
        yield


def bag(folder: Path) -> Any:
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(str(folder))


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The DAGs with a folder of studies of one's own."""
    shutil.copy(DAGS / "study.py", tmp_path)
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "small.toml").write_text(SMALL + TRAIN)
    return tmp_path


def test_each_study_file_is_a_dag_and_two_run_on_a_schedule() -> None:
    found = bag(DAGS)
    assert found.import_errors == {}
    assert set(found.dags) == STUDIES | SCHEDULED
    assert not [dag_id for dag_id, dag in found.dags.items() if "broken" in dag.tags]


def test_a_dag_is_started_by_hand_and_says_what_it_is(copied: Path) -> None:
    dag = bag(copied).dags["study_small"]
    assert dag.doc_md.startswith("make study STUDY=small\na small one\n")
    assert (dag.schedule, dag.catchup, dag.max_active_runs) == (None, False, 1)


def test_the_stages_are_groups_of_three_in_their_order(copied: Path) -> None:
    dag = bag(copied).dags["study_small"]
    groups = [key for key in dag.task_group.get_task_group_dict() if key]
    assert groups == STAGES
    parts = [f"{stage}.{part}" for stage in STAGES for part in ("plan", "units", "commit")]
    assert sorted(dag.task_ids) == sorted(["resolve", *parts, "publish", "note_failure"])
    order = [task.task_id for task in dag.topological_sort()]
    assert [task for task in order if task.endswith(".commit")] == [f"{stage}.commit" for stage in STAGES]
    assert (order[0], *order[-2:]) == ("resolve", "publish", "note_failure")


def test_units_are_mapped_and_tried_again_and_commit_takes_none(copied: Path) -> None:
    dag = bag(copied).dags["study_small"]
    for stage in STAGES:
        units = dag.get_task(f"{stage}.units")
        assert units.is_mapped
        assert units.retries == 2
        assert dag.get_task(f"{stage}.commit").trigger_rule == "none_failed"


def test_the_form_offers_the_studys_own(copied: Path) -> None:
    params = bag(copied).dags["study_small"].params
    chosen = {"tests": ["t", "u"], "splits": ["everything", "pruned"], "seeds": ["0", "3"]}
    assert params.dump() == chosen
    assert {name: params.get_param(name).schema["items"].get("enum") for name in chosen} == chosen | {"seeds": None}


def test_the_form_takes_any_seeds_that_are_numbers(copied: Path) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    seeds = bag(copied).dags["study_small"].params.get_param("seeds")
    assert seeds.resolve(["7", "12"]) == ["7", "12"]
    for wrong in (["-1"], ["x"], [], ["1", "1"]):
        with pytest.raises(ParamValidationError):
            seeds.resolve(wrong)


def test_an_audit_has_no_seeds_to_choose(copied: Path) -> None:
    (copied / "studies" / "small.toml").write_text(SMALL)
    assert set(bag(copied).dags["study_small"].params) == {"tests", "splits"}


def test_a_re_evaluation_is_started_by_new_checkpoints_and_test_sets_and_at_night() -> None:
    dag = bag(DAGS).dags["reevaluate"]
    assert {asset.name for asset in dag.timetable.asset_condition.objects} == {"simgap_checkpoints", "simgap_test_sets"}
    assert (dag.timetable.timetable.expression, dag.catchup, dag.max_active_runs) == ("0 3 * * *", False, 1)
    assert dag.params.dump() == {"checkpoints": [], "tests": []}
    assert {dag.get_task(f"{stage}.commit").trigger_rule for stage in ("ingest", "evaluate", "score")} == {"all_done"}


def test_verify_checks_the_store_and_does_certificates_again() -> None:
    from operators.process import arguments

    dag = bag(DAGS).dags["verify"]
    assert set(dag.task_ids) == {"check_store", "find_certificates", "certify_again"}
    assert dag.get_task("certify_again").is_mapped
    assert arguments({"runs": ["a", "b"], "again": True}) == ["run", "a", "b", "--again"]
    assert arguments({"runs": ["a", "b"], "unit": 3}) == ["run", "a", "b", "--unit", "3"]


@pytest.mark.parametrize("text", ["name = 3", "name = [", SMALL.replace("rule", "role")])
def test_a_broken_study_file_spares_the_others(copied: Path, text: str) -> None:
    (copied / "studies" / "odd.toml").write_text(text)
    found = bag(copied)
    assert found.import_errors == {}
    assert set(found.dags) == {"study_small", "study_odd"}
    assert "broken" in found.dags["study_odd"].tags
    assert str(copied / "studies" / "odd.toml") in found.dags["study_odd"].doc_md


def test_an_unknown_launcher_is_an_import_error(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMGAP_LAUNCHER", "rocket")
    (message,) = bag(copied).import_errors.values()
    assert "SIMGAP_LAUNCHER=rocket: no such launcher; there is: process" in message


def test_a_dag_file_is_the_same_each_time_it_is_read(copied: Path) -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    once, again = (DagSerialization.to_dict(bag(copied).dags["study_small"]) for _ in range(2))
    assert once == again


@pytest.mark.parametrize(
    ("error", "try_number", "raised", "final"),
    [
        (SimgapError("none"), 1, AirflowFailException, True),
        (StoreFailed("busy"), 1, StoreFailed, False),
        (StoreFailed("busy"), 3, StoreFailed, True),
        (ValueError("odd"), 1, ValueError, False),
    ],
)
def test_a_failure_that_may_pass_is_tried_again(
    error: Exception, try_number: int, raised: type[Exception], final: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from operators import feed, telling

    told: list[dict[str, Any]] = []
    monkeypatch.setattr(feed, "tell", lambda dag_id, run_id, kind, **facts: told.append(facts))
    ti = SimpleNamespace(dag_id="d", run_id="r", try_number=try_number, max_tries=2)
    with pytest.raises(raised), telling.Teller({"ti": ti}, "plan").failures():
        raise error
    assert [(facts["message"], facts["final"]) for facts in told] == [(str(error), final)]


def test_output_is_sorted_into_log_and_progress() -> None:
    from operators.process import sort_output, what_went_wrong

    log, told = [], []
    output = ["start\n", 'progress {"done": 1}\n', 'progress {"done": 2}\n', "\n", "error: x.tar: cut\n", "  short\n"]
    last_lines = sort_output(output, log.append, told.append)
    assert told == [{"done": 1}, {"done": 2}]
    assert log == ["start", 'progress {"done": 1}', "error: x.tar: cut", "  short"]
    assert last_lines == ["start", "error: x.tar: cut", "  short"]
    assert what_went_wrong(last_lines) == "x.tar: cut\n  short"
    assert what_went_wrong(["Traceback", "ValueError: no"]) == "ValueError: no"
