"""The catalog: made from what is committed alone, asked read-only."""

import json
from pathlib import Path

import duckdb
import pytest
from making import put_data, run_study

from simgap import catalog, publishing, runs, schema, sql
from simgap.errors import SimgapError
from simgap.store import Store

FILLED = {
    "datasets": 5, "shards": 6, "samples": 59, "failures": 0, "embeddings": 59, "splits": 10, "certificates": 5,
    "proximity": 64, "query_counts": 36, "thresholds": 18, "studies": 1, "runs": 31, "study_runs": 31,
    "checkpoints": 0, "scores": 0, "comparisons": 0, "predictions": 0, "duplicates": 0,
}  # fmt: skip


def ask(store: Store, statement: str, study: str | None = None) -> list[dict]:
    return catalog.ask(store, statement, study).to_pylist()


@pytest.mark.parametrize("study", [None, "audit"])
@pytest.mark.parametrize("table", schema.tables(), ids=lambda table: table.name)
def test_every_table_has_its_columns_and_can_be_read(read_audit, table, study):
    found = catalog.ask(read_audit[0], f"select * from {table.name}", study)
    assert found.column_names == list(table.columns)
    if study and table.name in FILLED:
        assert found.num_rows == FILLED[table.name]


def test_a_row_leads_to_its_run_and_that_to_its_inputs(read_audit):
    store, made = read_audit
    [row] = ask(store, "select distinct run from certificates where split = 'pruned' and test_set = 't1'")
    assert row["run"] == made.roles["verify/pruned/t1"]
    inputs = {r["input"] for r in ask(store, f"select input from run_inputs where run = '{row['run']}'")}
    assert {made.roles["split/pruned"], made.roles["embed/a"], made.roles["search/ref/t1"]} <= inputs
    [run] = ask(store, f"from runs where run = '{row['run']}'")
    assert (run["dag_id"], run["dag_run"], run["task_id"], run["revision"]) == ("study", "manual__1", "verify", 1)
    assert run["host"] and run["code_version"] and run["seconds"] >= 0


def test_a_data_sets_row_adds_up_its_shards(read_audit):
    [row] = ask(read_audit[0], "from datasets where dataset = 'a'")
    assert (row["role"], row["uri"], row["shards"], row["samples"]) == ("pool", "a/", 2, 24)


def dumped(store: Store) -> dict[str, list]:
    return {t.name: sorted(map(repr, ask(store, f"select * from {t.name}"))) for t in schema.tables()}


def test_the_catalog_made_anew_has_the_same_rows(audit):
    store, _ = audit
    publishing.publish(store)
    before = dumped(store)
    store.delete(catalog.PATH)
    with pytest.raises(
        SimgapError, match=r"catalog/simgap.duckdb: no catalog yet; `make study` or `simgap catalog` makes it"
    ):
        ask(store, "from runs")
    publishing.publish(Store(store.root))
    assert dumped(store) == before


def test_an_empty_stores_catalog_has_every_table_and_no_row(store):
    publishing.publish(store)
    assert all(not rows for rows in dumped(store).values())


def test_any_duckdb_can_open_it(audit):
    store, _ = audit
    place = store.url(publishing.publish(store)).removeprefix("file://")
    with duckdb.connect(place, read_only=True) as connection:
        assert connection.sql("select count(*) from audit.proximity").fetchall() == [(64,)]


def test_a_studys_schema_is_of_its_latest_finished_dag_run(audit, audit_file):
    store, _ = audit
    run_study(store, audit_file, "manual__2", splits=["least"], tests=["t1"])
    store.put("studies/audit/manual__3/study.json", b"{}")  # begun, not finished
    publishing.publish(store)
    assert {row["split"] for row in ask(store, "select split from splits", "audit")} == {"least"}
    assert {row["split"] for row in ask(store, "select split from main.splits", "audit")} > {"least", "pruned"}
    assert {row["test_set"] for row in ask(store, "select test_set from thresholds", "audit")} == {"t1"}
    assert ask(store, "select dag_run, state from studies") == [
        {"dag_run": "manual__3", "state": "unfinished"},
        {"dag_run": "manual__1", "state": "success"},
        {"dag_run": "manual__2", "state": "success"},
    ]
    assert ask(store, "select dag_run from studies", "audit") == [{"dag_run": "manual__2"}]


def test_a_dag_run_that_was_killed_before_it_published_is_not_finished(store, audit_file):
    put_data(store)
    made = run_study(store, audit_file)
    assert catalog.holds(store, "audit", "manual__1")
    store.put("studies/audit/manual__2/study.json", store.get(made.resolved))
    store.put("studies/audit/manual__2/runs.json", store.get("studies/audit/manual__1/runs.json"))
    assert not catalog.holds(store, "audit", "manual__2")
    publishing.publish(store)
    assert catalog.holds(store, "audit", "manual__2")


def test_a_run_committed_while_the_catalog_is_made_is_in_it(audit, monkeypatch):
    store, made = audit
    late = f"{made.roles['split/least']}/run.json"
    document = store.get(late)
    store.delete(late)
    fill = publishing.fill

    def slow(*args):
        fill(*args)
        store.create(late, document)

    monkeypatch.setattr(publishing, "fill", slow)
    publishing.publish(Store(store.root))
    assert ask(store, "select count(*) as n from main.splits where split = 'least'") == [{"n": 1}]


def test_a_run_of_an_older_revision_is_left_out_and_said_so(audit):
    store, made = audit
    path = made.roles["split/least"]
    document = json.loads(store.get(f"{path}/run.json"))
    store.put(f"{path}/run.json", json.dumps({**document, "revision": 0}).encode())
    store = Store(store.root)
    publishing.publish(store)
    assert publishing.left_out(store) == [path]
    assert ask(store, "from splits where split = 'least'") == []
    assert ask(store, f"select revision from runs where run = '{path}'") == [{"revision": 0}]


@pytest.mark.parametrize(
    "statement",
    [
        "select * from read_text('/etc/hostname')",
        "select * from read_csv('SECRET')",
        "from 'SECRET'",
        "from glob('/etc/*')",
        "copy (select 1) to 'HERE/x.csv'",
        "explain analyze copy (select 1) to 'HERE/x.csv'",
        "copy (select 1) to '/tmp/simgap-must-not-be.csv'",
        "attach 'HERE/x.duckdb'",
        "attach '/tmp/simgap-must-not-be.duckdb'",
        "export database 'HERE/x'",
        "create table x as select 1",
        "delete from splits",
        "drop table main.splits",
        "set enable_external_access = true",
        "set lock_configuration = false",
        "set allowed_directories = ['/']",
        "select 1; copy (select 1) to 'HERE/x.csv'",
        "copy (select 1) to 'HERE/x.csv'; select 1",
        "install httpfs",
        "",
    ],
)
def test_a_query_cannot_read_elsewhere_or_change_anything(audit, tmp_path, statement):
    store, _ = audit
    publishing.publish(store)
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    before = [(entry.path, entry.etag) for entry in store.list("")]
    with pytest.raises(SimgapError, match=r"^the query was refused: "):
        ask(store, statement.replace("HERE", store.root.removeprefix("file://")).replace("SECRET", str(secret)))
    assert [(entry.path, entry.etag) for entry in store.list("")] == before
    assert not list(Path("/tmp").glob("simgap-must-not-be*"))


@pytest.mark.parametrize(
    "statement",
    ["from splits", "describe splits", "summarize splits", "show tables", "pivot splits on rule using count(*)"],
)
def test_every_kind_of_question_is_answered(read_audit, statement):
    assert ask(read_audit[0], statement)


def test_the_stores_own_files_can_be_asked(read_audit):
    store, made = read_audit
    [file] = runs.load(store, made.roles["split/least"]).tables["splits"]
    assert ask(store, f"select split from '{store.url(file.path).removeprefix('file://')}'") == [{"split": "least"}]


def test_a_study_that_is_not_there_is_told(read_audit):
    with pytest.raises(SimgapError, match=r"^study 'icns': none of the catalog's: audit$"):
        ask(read_audit[0], "from splits", "icns")


def test_a_wrong_query_is_told_in_duckdbs_words(read_audit):
    with pytest.raises(SimgapError, match=r"the query was refused: .*splitz"):
        ask(read_audit[0], "from splitz")


@pytest.mark.parametrize("question", sql.names("questions"))
def test_every_question_runs_on_an_audit_and_on_nothing(read_audit, store, question):
    statement = sql.text(f"questions/{question}")
    found = ask(read_audit[0], statement, "audit")
    if question in ("gaps", "hull_by_source", "certificates", "nearest_pairs"):
        assert found
    publishing.publish(store)
    assert ask(store, statement) == []


def test_keys_kept_and_removed_are_the_pools(read_audit):
    store, _ = read_audit
    kept = catalog.keys_of(store, "pruned", None, removed=False).to_pylist()
    removed = catalog.keys_of(store, "pruned", "audit", removed=True).to_pylist()
    assert {row["dataset"] for row in removed} <= {"a", "b"}
    pool = {row["sample_id"] for row in kept if row["dataset"] != "ref"} | {row["sample_id"] for row in removed}
    assert len(pool) == 32 == len(kept) - 9 + len(removed)
    assert len(kept) == 18 and set(kept[0]) == {"dataset", "shard", "key", "sample_id"}


def test_a_split_or_study_that_is_not_there_is_told(read_audit):
    store, _ = read_audit
    told = r"^split 'prund': not in the latest finished run of any study; splits: alone, everything, far, "
    with pytest.raises(SimgapError, match=told):
        catalog.keys_of(store, "prund", None, removed=False)
    with pytest.raises(SimgapError, match=r"^split 'pruned': not in the latest finished run of icons; splits: "):
        catalog.keys_of(store, "pruned", "icons", removed=False)


def test_a_split_of_several_studies_needs_the_studys_name(audit, audit_file, tmp_path):
    store, _ = audit
    other = tmp_path / "other.toml"
    other.write_text(audit_file.read_text().replace('name = "audit"', 'name = "other"'))
    run_study(store, other)
    with pytest.raises(SimgapError, match=r"^split 'pruned': it is in audit, other; name the study with --study$"):
        catalog.keys_of(store, "pruned", None, removed=False)
    assert catalog.keys_of(store, "pruned", "other", removed=False).num_rows == 18


def test_keys_are_of_the_latest_dag_run_that_the_schema_shows(audit, audit_file):
    store, _ = audit
    run_study(store, audit_file, "manual__2", splits=["least"])
    with pytest.raises(SimgapError, match=r"^split 'pruned': not in the latest finished run"):
        catalog.keys_of(store, "pruned", "audit", removed=False)
