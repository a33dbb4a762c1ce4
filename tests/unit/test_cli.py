"""The commands as people call them. (`simgap run` is with the run protocol's tests.)"""

import csv
import io
import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from simgap import catalog, cli, show


@pytest.fixture
def simgap(read_audit, capfdbinary, monkeypatch):
    """Calls a command on the finished audit: exit code, output, errors."""
    monkeypatch.setenv("SIMGAP_STORE", read_audit[0].root)

    def call(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["simgap", *args])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfdbinary.readouterr()
        return int(ended.value.code or 0), out.decode(), err.decode()

    return call


def test_rows_are_printed_as_a_table_for_the_eye(simgap):
    code, out, _ = simgap(
        "sql", "select split, samples, encoder from splits where split in ('least', 'alone') order by split"
    )
    assert code == 0
    assert [line.split() for line in out.splitlines()] == [
        ["split", "samples", "encoder"], ["alone", "9", "-"], ["least", "7", "test-tower/weights"],
    ]  # fmt: skip


def test_rows_are_printed_as_csv(simgap):
    _, out, _ = simgap(
        "sql", "--format", "csv", "select split, [1, 2] as list, null as nothing from splits order by split limit 1"
    )
    assert list(csv.reader(io.StringIO(out))) == [["split", "list", "nothing"], ["alone", "[1, 2]", ""]]


def test_rows_are_printed_as_json(simgap):
    _, out, _ = simgap(
        "sql", "--format", "json", "select split, samples, 0.5::double as half from splits where split = 'least'"
    )
    assert json.loads(out) == [{"split": "least", "samples": 7, "half": 0.5}]


def test_a_long_table_says_what_it_leaves_out(simgap):
    _, out, _ = simgap("sql", "from range(250)")
    assert out.splitlines()[-1] == "the first 100 of 250 rows; --format csv prints all"
    assert len(simgap("sql", "--format", "csv", "from range(250)")[1].splitlines()) == 251


def test_brackets_in_text_are_printed(simgap):
    _, out, _ = simgap("sql", "select '[red]a[/red] [/b]' as caption")
    assert "[red]a[/red] [/b]" in out


def test_questions_are_asked_by_name_or_from_a_file(simgap, tmp_path):
    code, out, _ = simgap("sql", "-f", "gaps", "--study", "audit")
    assert code == 0 and "median" in out
    (tmp_path / "q.sql").write_text("select 41 + 1 as answer")
    assert json.loads(simgap("sql", "-f", str(tmp_path / "q.sql"), "--format", "json")[1]) == [{"answer": 42}]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["sql"], "give a query, or -f FILE; the canned questions are: accuracy_by_similarity, "),
        (["sql", "-f", "gasp"], "sql/questions/gasp.sql: no such statement; there are: accuracy_by_similarity, "),
        (["sql", "delete from splits"], "the query was refused: "),
        (["run", "runs/no/such"], "no request.json there"),
        (["export", "nothing"], "split 'nothing': not in the latest finished run"),
        (["export", "pruned", "-o", "/no/such/folder/x.csv"], "/no/such/folder/x.csv: "),
    ],
)
def test_a_mistake_is_one_line_without_a_traceback(simgap, args, told):
    code, out, err = simgap(*args)
    assert code == 2 and out == ""
    assert err.startswith("error: ") and told in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(("flags", "keys"), [([], 18), (["--removed"], 23)])
def test_keys_are_exported_as_csv_parquet_and_txt(simgap, read_audit, tmp_path, flags, keys):
    expected = catalog.keys_of(read_audit[0], "pruned", "audit", removed=bool(flags)).to_pylist()
    assert len(expected) == keys
    target = tmp_path / "keys"
    for format in ("csv", "parquet", "txt"):
        code, out, _ = simgap("export", "pruned", "--study", "audit", *flags, "--format", format, "-o", str(target))
        assert code == 0 and out == f"{target}: {keys} keys\n"
        if format == "csv":
            assert [row["key"] for row in csv.DictReader(target.open())] == [row["key"] for row in expected]
        elif format == "parquet":
            assert pq.read_table(target).to_pylist() == expected
        else:
            assert target.read_text().split() == [row["key"] for row in expected]


def test_an_export_is_named_for_its_split(simgap, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    simgap("export", "pruned", "--removed", "--format", "txt")
    assert [path.name for path in Path().iterdir()] == ["pruned-removed.txt"]


def test_the_catalog_says_where_it_is_and_what_it_left_out(audit, capsys, monkeypatch):
    store, made = audit
    path = made.roles["split/least"]
    store.put(f"{path}/run.json", store.get(f"{path}/run.json").replace(b'"revision": 2', b'"revision": 1'))
    monkeypatch.setenv("SIMGAP_STORE", store.root)
    monkeypatch.setattr(sys, "argv", ["simgap", "catalog"])
    with pytest.raises(SystemExit):
        cli.main()
    out, err = capsys.readouterr()
    assert out == f"{store.root}/catalog/simgap.duckdb\n"
    assert "left out, made by a revision that means something else:" in err and path in err.replace("\n", "")


def test_an_audits_results_are_its_gaps_and_where_things_are(read_audit):
    store, _ = read_audit
    console = Console(file=io.StringIO(), width=160)
    show.results(store, "audit", console)
    out = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert "median" in out and f"catalog  {store.root.removeprefix('file://')}/catalog/simgap.duckdb" in out


def test_a_bucket_that_is_no_url_is_told(simgap, monkeypatch):
    monkeypatch.setenv("SIMGAP_STORE", "/plain/folder")
    code, _, err = simgap("catalog")
    assert code == 2 and err.startswith("error: /plain/folder: a store is a folder, file:///path, or a bucket")


def test_the_past_is_asked_in_utc(simgap):
    code, out, _ = simgap(
        "sql", "--study", "audit", "--as-of", "2999-01-01T12:00", "--format", "csv", "select count(*) as n from splits"
    )
    assert (code, out.split()) == (0, ['"n"', "10"])
    code, _, err = simgap("sql", "--study", "audit", "--as-of", "2000-01-01", "from splits")
    assert (code, err) == (2, "error: study 'audit': none of its runs had finished by 2000-01-01T00:00:00+0000\n")


def test_a_checkpoint_that_cannot_be_registered_is_told_in_a_line(simgap, store, weights, monkeypatch):
    monkeypatch.setenv("SIMGAP_STORE", store.root)
    code, _, err = simgap("register", "ours", str(weights), "--model", "no-such")
    assert (code, err.count("\n")) == (2, 1) and err.startswith("error: model 'no-such': open_clip knows no such model")
