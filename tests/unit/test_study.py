"""A study file says what is wrong with it in one line a mistake: the file, the key, and what is allowed."""

import copy
from pathlib import Path

import pytest

from simgap.errors import SimgapError
from simgap.study import head, load, parse

STUDY = {
    "name": "small",
    "pool": [{"name": "a", "shards": "a/*.tar"}],
    "reference": {"name": "ref", "shards": "ref"},
    "tests": [{"name": "t1", "shards": "t1"}, {"name": "t2", "shards": "t2"}],
    "encoder": {"trained_on": "everything"},
    "splits": {
        "everything": {"rule": "all"},
        "alone": {"rule": "none"},
        "t1-pruned": {"rule": "prune", "tests": ["t1"]},
        "all-pruned": {"rule": "prune"},
        "control": {"rule": "random", "like": "t1-pruned", "seed": 0},
    },
    "train": {
        "model": "tiny", "samples_seen": 100, "epochs": 1, "batch_size": 4, "learning_rate": 1e-3, "warmup_steps": 1,
        "seeds": [0, 1],
    },
    "compare": [{"split": "t1-pruned", "with": "control"}],
}  # fmt: skip
RULES = "all, none, prune, threshold, keep_least_similar, keep_most_similar, random"


def changed(place: str, value: object = None) -> dict:
    """STUDY with one key set, or removed."""
    document = copy.deepcopy(STUDY)
    *path, key = (int(part) if part.isdigit() else part for part in place.split("."))
    section = document
    for part in path:
        section = section[part]
    if value is None:
        del section[key]
    else:
        section[key] = value
    return document


def refusal(document: dict) -> list[str]:
    with pytest.raises(SimgapError) as refused:
        parse(document, "studies/small.toml")
    return str(refused.value).splitlines()


def test_a_study_that_is_right_is_taken():
    study = parse(STUDY, "small")
    assert study.tests_of("t1-pruned") == study.tests_of("control") == ["t1"]
    assert study.tests_of("all-pruned") == ["t1", "t2"]
    assert study.tests_of("everything") == []


@pytest.mark.parametrize("path", sorted(Path("dags/studies").glob("*.toml")), ids=lambda path: path.stem)
def test_the_studies_here_are_right_and_say_how_they_are_started(path):
    assert load(path).name == path.stem
    assert f"make study STUDY={path.stem}" in head(path)


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        ("pool.0.shard", "x", "pool.0.shard: no such key; allowed: name, shards"),
        ("train.lr", 1, "train.lr: no such key; allowed: model, samples_seen, "),
        ("compare.0.wth", "x", "compare.0.wth: no such key; allowed: split, with"),
        ("splits.t1-pruned.test", ["t1"], "splits.t1-pruned.test: no such key; allowed: with_reference, rule, tests"),
        ("splits.none", {"rule": "all", "x": 1}, "splits.none.x: no such key; allowed: with_reference, rule"),
        ("colour", "red", "colour: no such key; allowed: name, fetch, pool, "),
        ("reference", None, "reference: missing"),
        ("train.epochs", None, "train.epochs: missing"),
        ("splits.x", {"rule": "prun"}, f"splits.x.rule: 'prun' is no rule; one of: {RULES}"),
        ("splits.x", {"tests": ["t1"]}, f"splits.x.rule: missing; one of: {RULES}"),
        ("splits.x", {"rule": "threshold", "above": 3}, "splits.x.above: Input should be less than or equal to 1 (given: 3)"),
        ("splits.t1-pruned.tests", ["t9"], "splits.t1-pruned.tests: 't9' is not one of: t1, t2"),
        ("splits.t1-pruned.tests", [], "splits.t1-pruned.tests: List should have at least 1 item"),
        ("splits.control.like", "x", "splits.control.like: 'x' is not one of: everything, alone, t1-pruned, all-pruned"),
        ("splits.control.match", ["sauce"], "splits.control.match.0: Input should be 'source', 'caption', "),
        ("splits.a b", {"rule": "all"}, "splits.a b: String should match pattern"),
        ("compare.0.split", "x", "compare.split: 'x' is not one of: everything, alone, t1-pruned, all-pruned, control"),
        ("encoder.trained_on", "t1-pruned", "encoder.trained_on: 't1-pruned' is not one of: everything, alone"),
        ("encoder.model", "x", "encoder: give either trained_on, or model and pretrained"),
        ("encoder", {"model": "m", "pretrained": "p", "seed": 1}, "encoder: seed: goes with trained_on; pretrained weights"),
        ("train.seeds", [2, 0, 2], "train: seeds: one is named twice: [2, 0, 2]"),
        ("train.seeds", [-1], "train.seeds.0: Input should be greater than or equal to 0 (given: -1)"),
        ("train", None, "encoder.trained_on: needs a [train] section"),
        ("train.passes", 3, "train: give either samples_seen, the same for every split, or passes"),
        ("pool.0.name", "ref", "data sets and splits need names of their own; used twice: ref"),
        ("pool.0.name", "everything", "data sets and splits need names of their own; used twice: everything"),
        ("pool.0.shards", "fetch://icons/a", "shards of a, after fetch://: 'icons' is not one of: (none)"),
        ("name", "Small", "name: String should match pattern '^[a-z0-9]"),
        ("name", "main", "name: 'main' is taken in the catalog; any but these: main, "),
    ],
)  # fmt: skip
def test_a_mistake_is_told_in_one_line(place, value, told):
    [line] = refusal(changed(place, value))
    assert line.startswith(f"studies/small.toml: {told}")


def test_several_mistakes_have_a_line_each():
    document = changed("train.epochs", "two")
    del document["reference"]
    assert len(refusal(document)) == 2


def test_a_file_that_is_not_there_names_those_that_are(tmp_path):
    (tmp_path / "icons.toml").touch()
    with pytest.raises(SimgapError, match=r"icns\.toml: no such study file; .* are: icons$"):
        load(tmp_path / "icns.toml")


def test_a_study_is_named_as_its_file_is(tmp_path):
    (tmp_path / "mine.toml").write_text(Path("dags/studies/icons.toml").read_text())
    with pytest.raises(SimgapError, match=r"mine\.toml: name: 'icons' has to be 'mine', as the file is called$"):
        load(tmp_path / "mine.toml")


@pytest.mark.parametrize("content", [b"a = = 3", b"name = '\xff'"])
def test_a_file_that_is_not_toml_is_named(tmp_path, content):
    (tmp_path / "x.toml").write_bytes(content)
    with pytest.raises(SimgapError, match=r"x\.toml: not TOML: "):
        load(tmp_path / "x.toml")


def test_chosen_splits_bring_what_they_cannot_do_without():
    chosen = parse(STUDY, "small").chosen(splits=["control"], seeds=[3, 1])
    assert list(chosen.splits) == ["everything", "t1-pruned", "control"]
    assert chosen.train and chosen.train.seeds == [3, 1]
    assert chosen.compare


def test_chosen_seeds_leave_the_encoder_as_it_is():
    study = parse(STUDY, "small")
    assert study.chosen(seeds=[3, 1]).encoder_seed == study.encoder_seed == 0
    assert study.chosen(seeds=[0, 1]) == study


def test_comparisons_go_with_their_splits():
    assert parse(STUDY, "small").chosen(splits=["all-pruned"]).compare == []


def test_chosen_tests_are_all_that_a_rule_for_all_tests_looks_at():
    assert parse(STUDY, "small").chosen(tests=["t1"]).tests_of("all-pruned") == ["t1"]


def test_nothing_chosen_is_all():
    assert parse(STUDY, "small").chosen() == parse(STUDY, "small")


@pytest.mark.parametrize(
    ("form", "told"),
    [
        ({"tests": ["t9"]}, "study small: tests: 't9' is not one of: t1, t2"),
        ({"splits": ["x"]}, "study small: splits: 'x' is not one of: everything, alone, "),
        ({"tests": ["t2"]}, "study small as chosen: splits.t1-pruned.tests: 't1' is not one of: t2"),
        ({"seeds": ["x"]}, "study small as chosen: train.seeds.0: Input should be a valid integer"),
    ],
)
def test_a_choice_that_cannot_be_is_told(form, told):
    with pytest.raises(SimgapError) as refused:
        parse(STUDY, "small").chosen(**form)
    assert str(refused.value).startswith(told)
