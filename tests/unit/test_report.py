"""The report on a made-up study: self-contained, complete, honest about seeds, and whole where tables are empty."""

import io
import json
import re
import tarfile
import xml.etree.ElementTree as ET
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from simgap import sql
from simgap.errors import SimgapError
from simgap.request import Input
from simgap.requests import Control, Report, Score
from simgap.shards import first_sample_id
from simgap.stages import report as stage
from simgap.stages import score as scoring
from simgap.stages.report import data, models, summary
from simgap.stages.report.charts import inline
from simgap.stages.report.material import Material
from simgap.stages.report.pictures import Place, thumbnails
from simgap.stages.report.view import METRICS
from simgap.store import Store
from simgap.study import Study, parse

TESTS, QUERIES = ("v2", "sketch"), 150
POOL = {"emoji": ["twemoji", "openmoji", "mono"], "interface": ["bi", "tabler"]}
SAMPLES_A_SOURCE = 24
ACCURACY = {"everything": 0.5, "reference": 0.2, "sketch-pruned": 0.3, "sketch-matched": 0.45}
PAIR = {"split": "sketch-pruned", "with": "sketch-matched"}
TRAIN = {
    "model": "tiny", "samples_seen": 60_000, "epochs": 6, "batch_size": 256, "learning_rate": 1e-3,
    "warmup_steps": 10, "seeds": [0],
}  # fmt: skip
SPLITS = {
    "everything": {"rule": "all"},
    "reference": {"rule": "none"},
    "sketch-pruned": {"rule": "prune", "tests": ["sketch"]},
    "sketch-matched": {"rule": "random", "like": "sketch-pruned", "match": ["source"], "seed": 0},
}
MODEL_SECTIONS = {"results", "comparisons", "explained", "lost", "similarity", "exposures"}
DATA_SECTIONS = {"says", "gaps", "hulls", "pairs", "certificates", "provenance"}

Rows = list[dict[str, Any]]


def study(seeds: int = 1, *, audit: bool = False) -> Study:
    document = {
        "name": "made-up",
        "pool": [{"name": name, "shards": name} for name in POOL],
        "reference": {"name": "noto", "shards": "noto"},
        "tests": [{"name": name, "shards": name} for name in TESTS],
        "encoder": {"model": "ViT", "pretrained": "weights"},
        "splits": {k: v for k, v in SPLITS.items() if not audit or k == "sketch-pruned"},
        "score": {"resamples": 200},
    }
    return parse(
        document if audit else document | {"train": TRAIN | {"seeds": [*range(seeds)]}, "compare": [PAIR]}, "test"
    )


def shard(sources: list[str], each: int, seed: int) -> bytes:
    """A tar of icons: a coloured disc a sample, named by its source."""
    rng, file = np.random.default_rng(seed), io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for position in range(len(sources) * each):
            pixels = np.zeros((32, 32, 4), np.uint8)
            y, x = np.mgrid[:32, :32] - 16
            pixels[y**2 + x**2 < 180] = [*rng.integers(0, 256, 3), 255]
            image = io.BytesIO()
            Image.fromarray(pixels).save(image, "PNG")
            info = tarfile.TarInfo(f"{position:05d}.png")
            info.size = image.tell()
            image.seek(0)
            tar.addfile(info, image)
    return file.getvalue()


def ingested(store: Store) -> dict[str, Rows]:
    """Data sets in the store, and the rows that ingest makes of them."""
    sizes = {**{d: (s, SAMPLES_A_SOURCE, "pool") for d, s in POOL.items()}, "noto": (["noto"], 20, "reference")}
    sizes |= {test: ([test], QUERIES, "test") for test in TESTS}
    tables: dict[str, Rows] = {"datasets": [], "shards": [], "samples": []}
    for number, (dataset, (sources, each, role)) in enumerate(sizes.items()):
        uri, data = f"data/{dataset}/00000.tar", shard(sources, each, number)
        store.put(uri, data)
        total = len(sources) * each
        place = {"dataset": dataset, "role": role, "bytes": len(data), "uri": uri}
        tables["datasets"].append(place | {"shards": 1, "samples": total})
        tables["shards"].append(place | {"shard": "00000.tar", "listed": total, "done": total, "failed": 0,
                                 "etag": store.head(uri).etag, "sha256": sha256(data).hexdigest()})  # fmt: skip
        first = first_sample_id(dataset, "00000.tar")
        for position in range(total):
            source = sources[position // each]
            tables["samples"].append(
                {"dataset": dataset, "sample_id": first + position, "shard": "00000.tar", "key": f"{position:05d}",
                 "caption": f"<{source}> & disc {position}", "label": position % 30 if role == "test" else None,
                 "source": None if role == "test" else source, "licence": ["MIT", "CC-BY-4.0", None][position % 3]}
            )  # fmt: skip
    return tables


def searched(samples: Rows, rng: np.random.Generator) -> dict[str, Rows]:
    """Made-up similarities with the structure of real ones: mono lies near sketch, and pruning takes it away."""
    ids = {d: [s["sample_id"] for s in samples if s["dataset"] == d] for d in {s["dataset"] for s in samples}}
    by = {"encoder": "tiny", "reference": "noto"}
    certificate = {"exceeding": 0, "largest_excess": 0.0, "needlessly_removed": 0, "mean_difference": 0.0}
    tables: dict[str, Rows] = {
        **{name: [] for name in ("proximity", "query_counts", "neighbours", "thresholds")},
        "certificates": [by | certificate | {"split": "sketch-pruned", "test_set": "sketch", "queries": QUERIES}],
        "splits": [by | {"split": s, "rule": rule["rule"], "samples": 130} for s, rule in SPLITS.items()],
    }
    for test in TESTS:
        for query in ids[test]:
            about = {"encoder": "tiny", "test_set": test, "query_id": query}
            tau = rng.beta(12, 4)
            lost = {dataset: test == "sketch" and rng.random() < 0.4 for dataset in POOL}
            near = min(1.0, tau + (0.1 if any(lost.values()) else -0.05))
            found = {dataset: near if lost[dataset] else tau - 0.05 for dataset in POOL}
            found |= {"everything": max(tau, near), "sketch-matched": max(tau, near - 0.03)}
            found |= {"reference": tau, "sketch-pruned": tau}
            tables["thresholds"].append(by | about | {"tau": tau})
            for dataset in POOL:
                tables["query_counts"].append(by | about | {"dataset": dataset, "hull_count": int(lost[dataset])})
            for of, similarity in found.items():
                dataset = of if of in POOL else "emoji"
                nearest = {"dataset": dataset, "sample_id": int(rng.choice(ids[dataset])), "similarity": similarity}
                tables["neighbours"].append(about | nearest | {"of": of, "rank": 1})
        for sample in samples:
            if sample["dataset"] in POOL:
                inside = rng.random() < (0.7 if (sample["source"], test) == ("mono", "sketch") else 0.1)
                about = {"dataset": sample["dataset"], "sample_id": sample["sample_id"], "test_set": test}
                tables["proximity"].append(by | about | {"hits": int(inside)})
    return tables


def trained(samples: Rows, seeds: int, rng: np.random.Generator) -> dict[str, Rows]:
    models = [
        {"checkpoint": f"{split}-{seed}", "split": split, "seed": seed} for split in ACCURACY for seed in range(seeds)
    ]
    tables: dict[str, Rows] = {"checkpoints": models, "predictions": [], "exposures": []}
    for model in models:
        for sample in samples:
            if sample["dataset"] in TESTS:
                right = rng.random() < ACCURACY[model["split"]] * (1 if sample["dataset"] == "v2" else 0.5)
                tables["predictions"].append(
                    {"checkpoint": model["checkpoint"], "test_set": sample["dataset"], "protocol": "zero_shot",
                     "query_id": sample["sample_id"], "label": sample["label"],
                     "label_rank": int(rng.integers(1, 6) if right else rng.integers(6, 31))}
                )  # fmt: skip
        for dataset, sources in {**POOL, "noto": ["noto"]}.items():
            for source in sources:
                row = {"checkpoint": model["checkpoint"], "dataset": dataset, "source": source}
                tables["exposures"].append(
                    row | {"samples": SAMPLES_A_SOURCE, "yielded": int(rng.integers(3000, 9000))}
                )
    return tables | scored(tables, seeds)


def scored(tables: dict[str, Rows], seeds: int) -> dict[str, Rows]:
    asked = Score.model_validate(
        {"name": "made-up", "predictions": [], "checkpoints": [], "compare": [PAIR], "everything": "everything",
         "reference": "reference", "resamples": 200, "seed": 0,
         "controls": [Control(pruned="sketch-pruned", control="sketch-matched")]}
    )  # fmt: skip
    tested = scoring.tested_models(*(pa.Table.from_pylist(tables[name]) for name in ("predictions", "checkpoints")))
    return {
        "scores": scoring.scores(tested),
        "comparisons": scoring.comparisons(tested, asked),
        "explained_shares": scoring.explained_shares(tested, asked),
    }


def recorded(store: Store, names: list[str]) -> Rows:
    runs = []
    for number, stage_name in enumerate(names):
        run = f"runs/{stage_name}/x-{number}"
        parameters = {"seed": 0, "training": {"model": "tiny", "samples_seen": 60_000}, "shards": [{"path": "a"}] * 3}
        store.put(f"{run}/request.json", json.dumps({"parameters": parameters}).encode())
        runs.append(
            {"run": run, "stage": stage_name, "name": "x", "revision": 1, "seconds": 3.5, "code_version": "abc1234",
             "device": "cpu", "started": f"2026-01-0{number + 1}T00:00:00Z"}
        )  # fmt: skip
    return runs


def catalog(tables: dict[str, Rows]) -> duckdb.DuckDBPyConnection:
    """The catalog's own schema, in memory, with these rows."""
    connection = duckdb.connect()
    connection.execute(sql.text("catalog/schema"))
    for name, rows in tables.items():
        if rows:
            columns = ", ".join(f'"{column}"' for column in rows[0])
            connection.register("given", pa.Table.from_pylist(rows))
            connection.execute(f"insert into {name} ({columns}) select {columns} from given")
    return connection


class Recorder:
    """Stands for a task: keeps what the stage attached."""

    def __init__(self, asked: Study, scratch: Path) -> None:
        source = Input(run="runs/score/x", content="0")
        self.request = Report(name=asked.name, study=asked.model_dump(mode="json", by_alias=True), sources=[source])
        self.scratch, self.files, self.counts = scratch, {}, {}

    def attach(self, name: str, path: Path) -> None:
        self.files[name] = path.read_bytes()

    def count(self, **counts: int) -> None:
        self.counts |= counts

    def progress(self, *_: Any, **__: Any) -> None:
        pass


def made(folder: Path, asked: Study, tables: dict[str, Rows], store: Store) -> Recorder:
    task: Any = Recorder(asked, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage.publishing, "connect", lambda *_: catalog(tables))
        stage.report([task], store)
    return task


def everything(store: Store, seeds: int) -> dict[str, Rows]:
    rng, read = np.random.default_rng(0), ingested(store)
    failures = [{"dataset": "emoji", "shard": "00000.tar", "key": "x", "stage": "ingest", "reason": "undecodable"}] * 2
    kept = {"failures": failures, "runs": recorded(store, ["ingest", "score"])}
    return read | searched(read["samples"], rng) | trained(read["samples"], seeds, rng) | kept


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store").as_uri())


@pytest.fixture(scope="module")
def tables(store: Store) -> dict[str, Rows]:
    return everything(store, seeds=1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, store: Store, tables: dict[str, Rows]) -> Recorder:
    return made(tmp_path_factory.mktemp("whole"), study(), tables, store)


class Page(HTMLParser):
    """Every tag with its attributes, and the text of each section by its anchor."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.sections: dict[str, str] = {}
        self._section = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "section":
            self._section = dict(attrs)["id"] or ""
            self.sections[self._section] = ""

    def handle_data(self, data: str) -> None:
        if self._section:
            self.sections[self._section] += data


def html(task: Recorder) -> str:
    return task.files["report.html"].decode()


def test_every_section_is_there_with_its_figures_tables_and_pictures(whole: Recorder):
    page = Page(html(whole))
    assert set(page.sections) == MODEL_SECTIONS | DATA_SECTIONS
    assert sum(tag == "svg" for tag, _ in page.tags) == 5
    assert sum(tag == "img" for tag, _ in page.tags) >= 2 * 2 * 6
    assert "sketch-matched" in page.sections["results"]
    assert "undecodable" in page.sections["provenance"]
    assert "samples_seen 60,000" in page.sections["provenance"]
    assert "MIT: 24" in page.sections["provenance"]


def test_it_loads_nothing(whole: Recorder):
    text = html(whole)
    loads = [
        v
        for _, attrs in Page(text).tags
        for k, v in attrs.items()
        if k in ("src", "href", "xlink:href", "srcset") and v
    ]
    assert loads
    assert all(value.startswith(("data:image/png;base64,", "#")) for value in loads)
    assert not re.search(r"@import|url\((?!['\"]?#)|<script|<link|<iframe", text)


def test_every_picture_and_figure_is_described(whole: Recorder):
    page = Page(html(whole))
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert all(attrs.get("alt") for tag, attrs in page.tags if tag == "img")
    assert all(attrs.get("aria-labelledby") in ids for tag, attrs in page.tags if tag == "svg")


def test_ids_are_unique_though_every_chart_counts_from_zero(whole: Recorder):
    ids = [attrs["id"] for _, attrs in Page(html(whole)).tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert inline("gaps", '<svg x="1"><clipPath id="c0"/><g clip-path="url(#c0)"/></svg>') == (
        '<svg role="img" aria-labelledby="gaps-alt" x="1"><clipPath id="gaps-c0"/><g clip-path="url(#gaps-c0)"/></svg>'
    )


def test_figures_are_files_too(whole: Recorder):
    names = {name for name in whole.files if name.startswith("figures/")}
    assert {Path(name).stem for name in names} == {
        "comparisons",
        "lost_neighbours",
        "accuracy_by_similarity",
        "gaps",
        "hulls",
    }
    assert whole.counts == {"listed": len(names) // 2, "done": len(names) // 2}
    for name in names:
        if name.endswith(".svg"):
            assert ET.fromstring(whole.files[name]).tag.endswith("svg")
        else:
            assert Image.open(io.BytesIO(whole.files[name])).width > 400


def test_captions_are_text_not_markup(whole: Recorder):
    assert "&lt;twemoji&gt; &amp; disc" in html(whole)
    assert "<twemoji>" not in html(whole)


def test_one_seed_is_said_and_three_are(whole: Recorder, store: Store):
    assert "one seed" in Page(html(whole)).sections["says"]
    material = Material(study(3), catalog(everything(store, seeds=3)), store)
    said = " ".join(summary.summary(material).sentences)
    assert "3 seeds" in said
    assert "one seed" not in said
    results, lost = models.results(material), models.lost_neighbours(material)
    assert [table.caption for table in results.tables] == ["Top-1", "Top-5"]
    assert "means of 3 seeds" in results.sentences[0]
    assert "over images and 3 seeds" in lost.sentences[0]


def test_an_audit_leaves_the_models_out_and_says_so(store: Store, tmp_path: Path, tables: dict[str, Rows]):
    untrained = ("checkpoints", "predictions", "exposures", "scores", "comparisons", "explained_shares")
    kept = {name: rows for name, rows in tables.items() if name not in untrained}
    kept["neighbours"] = [row for row in kept["neighbours"] if row["of"] in POOL]
    page = Page(html(made(tmp_path, study(audit=True), kept, store)))
    assert all("trains no model" in page.sections[anchor] for anchor in MODEL_SECTIONS)
    assert sum(tag == "svg" for tag, _ in page.tags) == 2
    assert "audit" in page.sections["says"]


@pytest.mark.parametrize("asked", [study(), study(audit=True)], ids=["study", "audit"])
def test_empty_tables_leave_a_sentence_each(asked: Study, store: Store):
    found = stage.sections(Material(asked, catalog({}), store))
    assert {section.anchor for section in found} == MODEL_SECTIONS | DATA_SECTIONS
    assert all(section.sentences and not section.figures for section in found)


def test_an_empty_hull_is_a_census_of_none(store: Store, tables: dict[str, Rows]):
    empty = tables | {"proximity": [row | {"hits": 0} for row in tables["proximity"]]}
    material = Material(study(), catalog(empty), store)
    assert "0.0 % (0 of 120) for v2" in summary.summary(material).sentences[0]
    assert data.hulls(material).tables[0].rows[-1] == ["all", "0.0 (0 of 120)", "0.0 (0 of 120)"]


def test_a_failed_certificate_is_loud(store: Store, tables: dict[str, Rows]):
    failed = tables | {"certificates": [row | {"exceeding": 3} for row in tables["certificates"]]}
    said = " ".join(summary.summary(Material(study(), catalog(failed), store)).sentences)
    assert "THE CERTIFICATE FAILS for sketch-pruned for sketch" in said


def test_only_differences_that_stand_after_holm_are_told(store: Store, tables: dict[str, Rows]):
    numbers = {"difference": -0.05, "low": -0.08, "high": -0.02}
    rows: Rows = [{**row, **numbers, "p_holm": 0.4} for row in tables["comparisons"]]
    first, *others = rows
    told = tables | {"comparisons": [first | {"p_holm": 0.0004}, *others]}
    said = summary.summary(Material(study(), catalog(told), store)).sentences
    what = f"{first['test_set']} {METRICS[first['metric']]} −5.0 (−8.0 to −2.0; Holm's p < 0.001)"
    assert f"sketch-pruned against sketch-matched, in points: {what}." in said
    assert any(sentence.startswith("For the other 3 of 4 differences") for sentence in said)


def test_a_share_that_cannot_be_stated_is_said_to_be_so(store: Store, tables: dict[str, Rows]):
    nothing = {
        "share": None,
        "low": None,
        "high": None,
        "denominator": 0.01,
        "denominator_low": -0.02,
        "denominator_high": 0.03,
    }
    tables["explained_shares"] = [row | nothing for row in tables["explained_shares"]]
    said = " ".join(summary.summary(Material(study(), catalog(tables), store)).sentences)
    assert "no share can be stated" in said
    assert "+1.0 points (−2.0 to +3.0)" in said


def test_a_picture_that_is_gone_is_named(store: Store):
    [shard] = [shard for shard in ingested(store)["shards"] if shard["dataset"] == "emoji"]
    place, missing = Place(shard["uri"], shard["etag"], shard["sha256"]), first_sample_id("emoji", "00000.tar") + 5_000
    with pytest.raises(SimgapError, match=r"data/emoji/00000.tar: no image at positions \[5000\]"):
        thumbnails([(place, missing)], store)
    with pytest.raises(
        SimgapError, match=r"data/emoji/00000.tar: changed since it was ingested; start the study again"
    ):
        thumbnails([(place._replace(etag="another", sha256="another"), missing)], store)


def test_nearest_of_the_pool_is_over_all_its_data_sets(store: Store, tables: dict[str, Rows]):
    rows = Material(study(), catalog(tables), store).ask("gaps")
    best = max(r["similarity"] for r in tables["neighbours"] if r["of"] in POOL and r["test_set"] == "v2")
    top = next(r for r in rows if (r["of"], r["test_set"], r["level"]) == ("the pool", "v2", 1.0))
    assert top["similarity"] == pytest.approx(best)
    assert top["queries"] == QUERIES


def test_pairs_show_no_sample_and_no_query_twice(store: Store, tables: dict[str, Rows]):
    rows = Material(study(), catalog(tables), store).ask("pairs", most=12)
    for test in TESTS:
        chosen = [row for row in rows if row["test_set"] == test]
        assert len({row["pool_id"] for row in chosen}) == len({row["query_id"] for row in chosen}) == len(chosen) == 12
        assert [r["similarity"] for r in chosen] == sorted((r["similarity"] for r in chosen), reverse=True)


def test_queries_that_lost_neighbours_are_those_of_the_test_sets_pruned_for(store: Store, tables: dict[str, Rows]):
    rows = Material(study(), catalog(tables), store).with_pruned_for().ask("lost_neighbours")
    assert {row["test_set"] for row in rows} == {"sketch"}
    lost = {r["query_id"] for r in tables["query_counts"] if r["test_set"] == "sketch" and r["hull_count"]}
    assert sum(row["queries"] for row in rows if row["metric"] == "top1" and row["lost"]) == len(lost)
    assert sum(row["queries"] for row in rows if row["metric"] == "top1") == QUERIES
