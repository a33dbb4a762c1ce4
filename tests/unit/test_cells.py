"""Re-evaluation without Airflow: what is stale, what is asked for it, what came of it, and what is told."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from making import labelled, put_checkpoint, put_test_set, put_trained_study, tar

from simgap import catalog, cells, dag_runs, flow, reevaluation, requests, runs, worker
from simgap.errors import SimgapError
from simgap.register import register
from simgap.store import Store


@pytest.fixture(autouse=True)
def fresh(two_studies: Store) -> None:
    """Every test's store has its own files at its own place: the run.json files that were read are another's."""
    runs._load.cache_clear()


def reevaluate(store: Store, dag_run: str, checkpoints: tuple = (), tests: tuple = ()) -> tuple[dict[str, int], str]:
    """Goes through a re-evaluation in this process: how many requests of each stage were done, and the note."""
    found = reevaluation.find(store, dag_run, list(checkpoints), list(tests))
    if found.resolved is None:
        return {}, found.note
    roles, busy = {}, {}
    for stage, part in cells.STEPS:
        plan = flow.plan(store, found.resolved, stage, part, roles)
        for job in plan["jobs"]:
            try:
                worker.do_unit(store, job["runs"], job["unit"])
            except SimgapError:
                continue
        busy[stage] = sum(len(job["runs"]) for job in plan["jobs"])
        roles |= flow.commit(store, plan, {"dag_id": "reevaluate", "dag_run": dag_run}, partly=True)["runs"]
    outcome = reevaluation.publish(store, found.resolved, roles)
    return {stage: count for stage, count in busy.items() if count}, outcome.note


def leaderboard(store: Store, **at) -> set[tuple[str, str]]:
    rows = catalog.ask(store, "select checkpoint, test_set from scores where metric = 'top1'", "reevaluate", **at)
    return {(row["checkpoint"], row["test_set"]) for row in rows.to_pylist()}


ALL = {("whole-0", "t"), ("whole-0", "u"), ("cut-0", "t"), ("cut-0", "u")}


def test_only_what_no_study_has_answered_is_done(two_studies):
    busy, note = reevaluate(two_studies, "r1")
    assert busy == {"evaluate": 1, "score": 1}  # whole-0 on u
    assert note.startswith("one/whole-0 on two/u: top1 ") and "(new)" in note and "\n" not in note
    assert leaderboard(two_studies) == ALL


def test_a_second_time_nothing_is_stale_and_nothing_is_written(two_studies):
    reevaluate(two_studies, "r1")
    before = [entry.path for entry in two_studies.list("")]
    assert reevaluate(two_studies, "r2") == ({}, "nothing is stale; cells answered: 4")
    assert [entry.path for entry in two_studies.list("")] == before


def test_one_study_by_itself_is_a_table_without_a_stage(store, tiny_weights):
    put_test_set(store, "t", labelled(range(6)))
    put_trained_study(store, "one", {"whole": tiny_weights[0]}, ["t"])
    assert reevaluate(store, "r1") == ({}, "nothing is stale; cells answered: 1")
    assert leaderboard(store) == {("whole-0", "t")}


def test_a_changed_test_set_is_stale_and_nothing_else(two_studies):
    reevaluate(two_studies, "r1")
    put_test_set(two_studies, "u", labelled(range(900, 909)))
    busy, note = reevaluate(two_studies, "r2")
    assert busy["ingest"] == 1 and busy["evaluate"] == 2
    assert {line.split(":")[0] for line in note.splitlines()} == {"one/whole-0 on two/u", "two/cut-0 on two/u"}
    assert leaderboard(two_studies) == ALL
    asked = "select n, previous, value - previous = difference as told from score_history where test_set = 'u' and metric = 'top1'"
    rows = catalog.ask(two_studies, f"{asked} order by n").to_pylist()
    assert [(row["n"], row["previous"] is None, row["told"]) for row in rows] == [
        (6, True, None), (6, True, None), (9, False, True), (9, False, True),
    ]  # fmt: skip


def test_a_checkpoint_made_anew_or_more_is_stale_and_nothing_else(two_studies, tiny_weights):
    reevaluate(two_studies, "r1")
    put_trained_study(two_studies, "one", {"whole": tiny_weights[0], "more": tiny_weights[1]}, ["t"], "manual__2")
    busy, note = reevaluate(two_studies, "r2")
    assert busy == {"evaluate": 1, "score": 1}
    assert note.startswith("one/more-0 on two/u: ")


def test_a_later_revision_of_evaluate_makes_every_cell_stale(two_studies, monkeypatch):
    reevaluate(two_studies, "r1")
    monkeypatch.setattr(requests.Evaluate, "revision", 2)
    busy, note = reevaluate(two_studies, "r2")
    assert busy == {"evaluate": 4}  # what it makes is the same, and so is its score
    assert len(note.splitlines()) == note.count("top1 ") == note.count("(+0.0), top5") == 4


def test_the_form_chooses_a_part_and_the_table_keeps_the_rest(two_studies):
    put_test_set(two_studies, "t", labelled(range(900, 904)))
    busy, _ = reevaluate(two_studies, "r1", checkpoints=("one/*",), tests=("two/u",))
    assert busy == {"evaluate": 1, "score": 2}  # the study's own score of cut-0 read the old t, too
    assert leaderboard(two_studies) == {("whole-0", "u"), ("cut-0", "u")}


def test_a_choice_of_nothing_is_told(two_studies):
    with pytest.raises(SimgapError, match=r"^checkpoint 'three/\*': there is none; there are: one/whole-0, two/cut-0$"):
        reevaluate(two_studies, "r1", checkpoints=("three/*",))


def test_a_test_set_that_is_gone_does_not_hold_the_others_back(two_studies):
    for entry in two_studies.list("u"):
        two_studies.delete(entry.path)
    put_test_set(two_studies, "t", labelled(range(900, 909)))
    busy, note = reevaluate(two_studies, "r1")
    assert busy["evaluate"] == 2
    assert note.startswith("two/u: test u: no .tar under 'u'")
    assert leaderboard(two_studies) == {("whole-0", "t"), ("cut-0", "t")}
    assert reevaluate(two_studies, "r2", tests=("*/t",)) == ({}, "nothing is stale; cells answered: 2")
    assert reevaluate(two_studies, "r3", tests=("two/u",))[1].startswith("two/u: test u: no .tar under 'u'")


def test_shards_that_hold_nothing_and_weights_that_are_damaged_fail_by_themselves(two_studies, tmp_path):
    (tmp_path / "bad.pt").write_bytes(b"no weights")
    put_test_set(two_studies, "t", labelled(range(900, 909)))
    two_studies.put("u/test/0.tar", tar([]))
    latest = dag_runs.latest_of(two_studies, "one")
    assert latest
    bad = {"train/bad-0": put_checkpoint(two_studies, "one", "bad-0", tmp_path / "bad.pt")}
    dag_runs.end(two_studies, f"studies/one/{latest['dag_run']}/study.json", "success", latest["runs"] | bad)
    _, note = reevaluate(two_studies, "r1")
    failed = {line for line in note.splitlines() if line.endswith(": failed")}
    assert failed == {
        "one/bad-0 on one/t: failed", "one/bad-0 on two/u: failed", "one/whole-0 on two/u: failed", "two/cut-0 on two/u: failed",
    }  # fmt: skip
    assert leaderboard(two_studies) == {("whole-0", "t"), ("cut-0", "t")}


def test_the_past_can_be_asked(two_studies):
    reevaluate(two_studies, "r1")
    then = datetime.now(UTC)
    put_test_set(two_studies, "u", labelled(range(900, 909)))
    reevaluate(two_studies, "r2")
    asked = "select max(n) as n from scores where test_set = 'u'"
    assert catalog.ask(two_studies, asked, "reevaluate", then).to_pylist() == [{"n": 6}]
    assert catalog.ask(two_studies, asked, "reevaluate").to_pylist() == [{"n": 9}]
    with pytest.raises(SimgapError, match=r"^study 'one': none of its runs had finished by 2026-01-01T00:00:00\+0000$"):
        catalog.ask(two_studies, asked, "one", datetime(2026, 1, 1, tzinfo=UTC))
    with pytest.raises(SimgapError, match=r"^--as-of: goes with --study"):
        catalog.ask(two_studies, asked, None, then)


def test_a_registered_checkpoint_joins_the_table_and_its_successor_takes_its_place(two_studies, tiny_weights):
    first = register(two_studies, "ours", "tiny-test", str(tiny_weights[0]))
    assert register(two_studies, "ours", "tiny-test", str(tiny_weights[0])) == first
    assert reevaluate(two_studies, "r1")[0] == {"evaluate": 3, "score": 3}
    assert leaderboard(two_studies) == ALL | {("ours", "t"), ("ours", "u")}
    second = register(two_studies, "ours", "tiny-test", str(tiny_weights[1]))
    assert second.run != first.run
    assert reevaluate(two_studies, "r2")[0] == {"evaluate": 2, "score": 2}
    asked = "select count(*) as n, count(previous) as later from score_history where study = 'registered' and metric = 'top1'"
    assert catalog.ask(two_studies, asked).to_pylist() == [{"n": 4, "later": 2}]
    row = "select split, seed, uri from checkpoints where checkpoint = 'ours'"
    assert catalog.ask(two_studies, row, "reevaluate").to_pylist() == [
        {"split": None, "seed": None, "uri": second.files["final.pt"].path}
    ]


@pytest.mark.parametrize(
    ("name", "model", "told"),
    [
        ("a/b", "tiny-test", r"^name 'a/b': letters, digits and "),
        ("ours", "no-such", r"^model 'no-such': open_clip knows no such model"),
        ("ours", "RN50", r"^encoder RN50/.*: its weights cannot be loaded: "),
    ],
)
def test_what_cannot_be_registered_is_told_in_a_line(store, tiny_weights: list[Path], name, model, told):
    with pytest.raises(SimgapError, match=told) as error:
        register(store, name, model, str(tiny_weights[0]))
    assert "\n" not in str(error.value)
    assert not store.list("studies")


def test_a_note_has_as_many_lines_as_airflow_keeps():
    note = reevaluation._note([f"line {n} {'x' * 40}" for n in range(50)])
    assert len(note) <= reevaluation.NOTE_LENGTH
    assert note.splitlines()[-1] == f"... and {50 - note.count('line ')} more: simgap sql 'from score_history'"
