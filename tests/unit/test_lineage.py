"""Lineage: from a number back to every shard, from a shard to all that was made of it, and what a name means."""

import json
import sys

import pytest
from making import committed, run_study

from simgap import catalog, cli, lineage, publishing, requests, runs, schema
from simgap.errors import SimgapError
from simgap.request import Input
from simgap.store import Store
from simgap.study import Fetch as Icons
from simgap.study import Training


def as_input(store: Store, path: str) -> Input:
    return runs.load(store, path).as_input()


def scored(store: Store, roles: dict[str, str]) -> str:
    """A training on the audit's split `pruned`, its evaluation and its score, made by hand."""
    training = Training(model="m", passes=1, epochs=1, batch_size=1, learning_rate=1, warmup_steps=0)
    samples = [as_input(store, roles[f"ingest/{name}"]) for name in ("a", "b", "ref")]
    split = as_input(store, roles["split/pruned"])
    asked = requests.Train(
        name="pruned-0", split=split, split_name="pruned", samples=samples, training=training, seed=0
    )
    trained = committed(store, asked, {})
    evaluated = committed(
        store,
        requests.Evaluate(
            name="pruned-0-t1", checkpoint=trained, checkpoint_name="pruned-0", model="m", test_set="t1",
            samples=as_input(store, roles["ingest/t1"]), protocol="zero-shot",
        ),
        {},
    )  # fmt: skip
    asked = requests.Score(
        name="audit", predictions=[evaluated], checkpoints=[trained], compare=[], controls=[], everything=None,
        reference=None, resamples=1, seed=0,
    )  # fmt: skip
    return committed(store, asked, {}).run


def fetched(store: Store, tmp_path) -> tuple[str, str, str]:
    """A fetch run, an ingest run of the shard in it, and where that shard lies."""
    (tmp_path / "0.tar").write_bytes(b"a shard")
    icons = Icons(package="p", images={}, concepts=[], tests={})
    fetch = committed(store, requests.Fetch(name="icons", icons=icons), {}, pool=tmp_path / "0.tar")
    uri = runs.files(store, fetch)["pool"]
    shard = {
        "dataset": "drawn",
        "role": "pool",
        "shard": "0.tar",
        "uri": uri,
        "bytes": 7,
        "sha256": "5" * 64,
        "done": 1,
    }
    listed = requests.Shard(path="0.tar", uri=uri, size=7, sha256="5" * 64)
    request = requests.Ingest(name="drawn", role="pool", shards=[listed])
    ingest = committed(store, request, {"shards": [schema.rows("shards", [shard])]})
    return fetch.run, ingest.run, uri


@pytest.fixture
def simgap(capsys, monkeypatch):
    """Calls `simgap lineage` on a store: exit code, output, errors."""

    def call(store: Store, *args: str) -> tuple[int, str, str]:
        monkeypatch.setenv("SIMGAP_STORE", store.root)
        monkeypatch.setattr(sys, "argv", ["simgap", "lineage", *args])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return call


def test_a_score_leads_to_every_shard_of_every_data_set(audit, simgap):
    store, made = audit
    score = scored(store, made.roles)
    publishing.publish(store)
    code, out, _ = simgap(store, score, "--shards")
    assert code == 0
    shards = catalog.ask(store, "select dataset, shard, sha256 from shards").to_pylist()
    assert {shard["dataset"] for shard in shards} == {"a", "b", "ref", "t1", "t2"} and len(shards) == 6
    for shard in shards:
        [_] = [line for line in out.splitlines() if f"{shard['shard']}  sha256 {shard['sha256']}  " in line]
    for row in catalog.ask(store, "from datasets").to_pylist():
        [line] = [line for line in out.splitlines() if f"sha256 {row['sha256']}" in line]
        assert f"{row['role']} {row['dataset']} · {row['dataset']}/ · shards {row['shards']} · " in line
        assert f" · samples {row['samples']} · " in line


def test_without_shards_only_their_number_is_told(audit, simgap):
    store, made = audit
    out = simgap(store, made.roles["split/everything"])[1]
    assert "pool a · a/ · shards 2 · samples 24 · sha256 " in out and "00000.tar" not in out


def test_a_run_is_told_once_with_who_made_it_and_then_referred_to(audit, simgap):
    store, made = audit
    out = simgap(store, made.roles["verify/pruned/t1"])[1]
    embed = runs.load(store, made.roles["embed/a"])
    lines = [number for number, line in enumerate(out.splitlines()) if embed.run in line]
    first, *others = [out.splitlines()[number] for number in lines]
    assert others and "(see above)" not in first and all(line.endswith("(see above)") for line in others)
    about = out.splitlines()[lines[0] + 1]
    who = embed.who[0]
    assert all(str(part) in about for part in (who["code_version"], who["host"], "cpu", "study manual__1 embed"))
    assert f"{embed.started:%Y-%m-%d %H:%M:%S} UTC, {embed.seconds:.1f} s" in about


def test_an_image_is_told_where_there_is_one(audit, simgap):
    store, made = audit
    path = f"{made.roles['split/everything']}/run.json"
    told = json.loads(store.get(path))
    told["who"][0]["image"] = "registry/simgap@sha256:abc"
    store.put(path, json.dumps(told).encode())
    assert " · registry/simgap@sha256:abc · " in simgap(store, made.roles["split/everything"])[1]


def test_a_tree_holds_each_run_once(read_audit):
    store, made = read_audit
    top = made.roles["verify/pruned/t1"]
    grown: list[str] = []

    def walk(node: lineage.Node) -> None:
        if node.next is not None:
            grown.append(node.path)
            for other in node.next:
                walk(other)

    walk(lineage.tree(top, lineage.up(store, top)))
    used = catalog.ask(store, f"""with recursive up as (
        select '{top}' as run union select input from up join run_inputs using (run)) from up""")  # fmt: skip
    assert sorted(grown) == sorted(used["run"].to_pylist())


def test_down_is_up_read_backwards_and_says_which_studies_name_a_run(audit, simgap):
    store, made = audit
    score = scored(store, made.roles)
    for run in (run.run for run in publishing.committed(store)):
        assert (score in lineage.down(store, run)) == (run in lineage.up(store, score)), run
    out = simgap(store, "a/00001.tar", "--down")[1].splitlines()
    assert out[0] == f"ingest  {made.roles['ingest/a']}"
    assert "named by study audit: manual__1" in out
    [at] = [number for number, line in enumerate(out) if score in line and "(see above)" not in line]
    assert "by simgap run" in out[at + 1] and not any("named by" in line for line in out[at + 2 : at + 3])
    assert not any(made.roles["split/alone"] in line for line in out)


def test_fetched_data_leads_to_its_fetch_and_back(store, tmp_path, simgap):
    fetch, ingest, uri = fetched(store, tmp_path)
    assert lineage.up(store, ingest) == {ingest: [fetch], fetch: []}
    assert lineage.down(store, fetch) == {fetch: [ingest], ingest: []}
    assert lineage.resolve(store, uri) == fetch
    assert f"sha256 {'5' * 64}  {uri}" in simgap(store, ingest, "--shards")[1]


def test_an_input_that_is_gone_is_told(audit, simgap):
    store, made = audit
    store.delete(f"{made.roles['ingest/b']}/run.json")
    code, out, _ = simgap(store, made.roles["embed/b"])
    assert code == 0
    [at] = [number for number, line in enumerate(out.splitlines()) if made.roles["ingest/b"] in line]
    assert out.splitlines()[at + 1].endswith("not in the store any more")


def test_a_run_is_meant_by_its_folder_a_file_in_it_a_shard_or_a_name(read_audit, monkeypatch):
    store, made = read_audit
    run = made.roles["split/pruned"]
    [file] = [part.path for part in runs.load(store, run).tables["members"]]
    folder = store.root.removeprefix("file://")
    for what in (run, f"{run}/", f"{run}/request.json", file, store.url(file), f"{folder}/{file}", "pruned"):
        assert lineage.resolve(store, what) == run
    monkeypatch.chdir(folder)
    assert lineage.resolve(store, f"./{file}") == run
    for what in ("a/00001.tar", store.url("a/00001.tar"), "00001.tar"):
        assert lineage.resolve(store, what) == made.roles["ingest/a"]


def test_a_checkpoint_is_meant_by_its_name(audit):
    store, made = audit
    trained = runs.load(store, scored(store, made.roles)).inputs[1]
    listed = json.loads(store.get("studies/audit/manual__1/runs.json"))
    listed["runs"]["train/pruned-0"] = trained
    store.put("studies/audit/manual__1/runs.json", json.dumps(listed).encode())
    assert lineage.resolve(store, "pruned-0") == trained


@pytest.mark.parametrize(
    ("what", "told"),
    [
        (
            "prund",
            "prund: no run's folder, no shard, and no split or checkpoint of any study; there are: alone, everything, ",
        ),
        ("runs/split/prund-1", "runs/split/prund-1: no committed run; there are: runs/split/alone-"),
        ("runs/spilt/pruned-1", "runs/spilt/pruned-1: no committed run; there are: runs/embed/"),
        ("00000.tar", "00000.tar: could be runs/ingest/a-"),
    ],
)
def test_what_is_unknown_or_could_be_several_is_told(read_audit, simgap, what, told):
    code, out, err = simgap(read_audit[0], what)
    assert (code, out) == (2, "") and err.startswith(f"error: {told}") and len(err.splitlines()) == 1


def test_a_name_of_several_studies_asks_for_one(audit, audit_file, tmp_path):
    store, made = audit
    text = audit_file.read_text().replace('name = "audit"', 'name = "other"').replace("count = 7", "count = 6")
    (tmp_path / "other.toml").write_text(text)
    other = run_study(store, tmp_path / "other.toml")
    told = r"^least: could be .* \(other\); give a run's folder, or the study with --study$"
    with pytest.raises(SimgapError, match=told.replace("other", "(other|audit)")):
        lineage.resolve(store, "least")
    assert lineage.resolve(store, "least", "other") == other.roles["split/least"]
    assert lineage.resolve(store, "least", "audit") == made.roles["split/least"]
    assert lineage.resolve(store, "random") == other.roles["split/random"], "the same run in both"
    with pytest.raises(SimgapError, match=r"^study 'third': none of the store's: audit, other$"):
        lineage.resolve(store, "least", "third")
