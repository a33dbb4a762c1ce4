"""The sections on the data: gaps, hulls, the nearest pairs, certificates, and how each number was made."""

from simgap import runs
from simgap.stages.report import charts
from simgap.stages.report.material import Material, Row, panels
from simgap.stages.report.pictures import Place, thumbnails
from simgap.stages.report.view import Album, Figure, Pair, Section, Table, count, percent

PAIRS_A_TEST_SET = 12
LEVELS_IN_TABLE = (0.1, 0.5, 0.9)
SETTING_CHARACTERS = 300


def gaps(material: Material) -> Section:
    rows = panels(material.ask("gaps"), "encoder")
    anchor, title = "gaps", "The gap to each test set"
    if not rows:
        return Section(anchor, title, ["Nothing was searched, so no gap is known."])
    sentences = [
        "For each query, the cosine similarity of its nearest sample. A line further to the right: more similar."
        " A split that was pruned for a test set, with the reference in it, lies on the line of the reference data."
    ]
    figure = Figure(
        "gaps",
        charts.gaps(rows, material.splits),
        "Cumulative share of queries by the similarity of the nearest sample in pool, reference and each split.",
        "Dashes: the pool. Dots: the reference data. Solid: splits, as they are trained on.",
    )
    return Section(anchor, title, sentences, [figure], [_gap_table(rows)])


def hulls(material: Material) -> Section:
    rows = panels(material.ask("hulls"), "encoder", "reference")
    anchor, title = "hulls", "The hull, by source"
    if not rows:
        return Section(anchor, title, ["The pool was not searched, or is empty, so there is no hull."])
    totals = {row["panel"]: (hull_total(rows, row["panel"]), pool_total(rows, row["panel"])) for row in rows}
    for row in rows:
        hull, pool = totals[row["panel"]]
        row |= {"of_hull": row["hull"] / hull if hull else 0.0, "of_pool": row["samples"] / pool}
    sentences = [
        "The hull of a test set: the pool samples nearer to one of its queries than that query's nearest in the"
        " reference. Pruning removes it. A census of the whole pool, so its shares have no interval."
    ]
    figure = Figure(
        "hulls",
        charts.hulls(rows),
        "Each source's share of the hull and of the pool, for each test set.",
        "A bar longer than its line: the source is over-represented in the hull. Numbers: samples in the hull.",
    )
    return Section(anchor, title, sentences, [figure], [_hull_table(rows, totals)])


def hull_total(rows: list[Row], panel: str) -> int:
    return sum(row["hull"] for row in rows if row["panel"] == panel)


def pool_total(rows: list[Row], panel: str) -> int:
    return sum(row["samples"] for row in rows if row["panel"] == panel)


def pairs(material: Material) -> Section:
    rows = panels(material.ask("pairs", most=PAIRS_A_TEST_SET), "encoder")
    anchor, title = "pairs", "The most similar pairs"
    if not rows:
        return Section(anchor, title, ["The pool was not searched, or is empty, so there are no pairs."])
    pool, query = ([(row[f"{side}_shard"], row[f"{side}_id"]) for row in rows] for side in ("pool", "query"))
    images = thumbnails([(Place(**shard), sample_id) for shard, sample_id in [*pool, *query]], material.store)
    names = list(dict.fromkeys(row["panel"] for row in rows))
    albums = [Album(name, [_pair(row, images) for row in rows if row["panel"] == name]) for name in names]
    sentences = ["Left: the pool's image. Right: the test image that it is most similar to. No image is shown twice."]
    return Section(anchor, title, sentences, albums=albums)


def certificates(material: Material) -> Section:
    rows = material.ask("certificates")
    anchor, title = "certificates", "Certificates"
    if not rows:
        return Section(anchor, title, ["The study has no pruned split, so there is nothing to certify."])
    sentences = [
        "Each pruned split checked again, by other code than the search. Exceeding: queries whose nearest sample is"
        " nearer than the reference's. Needlessly removed: samples that were near to no query. Both must be 0. Mean"
        " difference: of the threshold and the similarity of the nearest sample; 0 when the reference is in the split."
    ]
    table = Table(
        "Certificates",
        ["split", "test set", "verdict", "queries", "exceeding", "largest excess", "needlessly removed", "mean diff."],
        [
            [r["split"], r["test_set"], "holds" if holds(r) else "FAILS", count(r["queries"]), count(r["exceeding"]),
             f"{r['largest_excess'] or 0:.3g}", count(r["needlessly_removed"]), f"{r['mean_difference'] or 0:.3g}"]
            for r in rows
        ],
        words=3,
        wide=True,
    )  # fmt: skip
    return Section(anchor, title, sentences, tables=[table])


def holds(certificate: Row) -> bool:
    return certificate["exceeding"] == 0 and certificate["needlessly_removed"] == 0


def provenance(material: Material) -> Section:
    made, failed = material.ask("runs"), material.ask("failures")
    seconds = sum(row["seconds_more"] for row in made)
    lost = sum(row["failed"] for row in failed)
    sentences = [
        f"{len(made)} runs, made in {seconds:,.0f} seconds; those that one process made share theirs. Each is a folder in"
        " the store, runs/<stage>/<name>-<key>, that says what was asked, by whom, and what came out.",
        f"{lost:,} samples or shards could not be used; they are in the table of failures."
        if lost
        else "Nothing failed.",
    ]
    tables = [_dataset_table(material), _failure_table(failed), _run_table(material, made)]
    return Section("provenance", "How each number was made", sentences, tables=[t for t in tables if t.rows])


def _gap_table(rows: list[Row]) -> Table:
    at = {(r["of"], r["panel"], r["level"]): r["similarity"] for r in rows if r["level"] in LEVELS_IN_TABLE}
    panels = {r["panel"]: r["queries"] for r in rows}
    cells = [
        [of, *(_gap_cell([at.get((of, panel, level)) for level in LEVELS_IN_TABLE]) for panel in panels)]
        for of in dict.fromkeys(row["of"] for row in rows)
    ]
    head = ["nearest in", *(f"{panel}\nn = {queries:,}" for panel, queries in panels.items())]
    return Table("Similarity of the nearest sample: the median, and the 10th to the 90th percentile", head, cells)


def _gap_cell(quantiles: list[float | None]) -> str:
    low, median, high = ("–" if q is None else f"{q:.3f}" for q in quantiles)
    return f"{median}\n{low}–{high}"


def _hull_table(rows: list[Row], totals: dict[str, tuple[int, int]]) -> Table:
    sources = sorted({row["source"] for row in rows})
    by = {(row["source"], row["panel"]): row for row in rows}
    cells = [[s, *(_hull_cell(by.get((s, panel))) for panel in totals)] for s in sources]
    everything = ["all", *(f"{percent(hull / pool)} ({hull:,} of {pool:,})" for hull, pool in totals.values())]
    return Table("Samples in the hull, per cent of each source", ["source", *totals], [*cells, everything])


def _hull_cell(row: Row | None) -> str:
    return f"{percent(row['hull'] / row['samples'])} ({row['hull']:,} of {row['samples']:,})" if row else "–"


def _pair(row: Row, images: dict[int, str]) -> Pair:
    label = "" if row["query_label"] is None else f"class {row['query_label']}"
    return Pair(
        pool_image=images[row["pool_id"]],
        pool_caption=f"{row['pool_caption'] or row['pool_key']} ({row['pool_source']})",
        query_image=images[row["query_id"]],
        query_caption=row["query_caption"] or label or row["query_key"],
        similarity=f"{row['similarity']:.4f}",
    )


def _dataset_table(material: Material) -> Table:
    rows = material.ask("datasets")
    return Table(
        "Data sets",
        ["role", "data set", "licences (samples)", "shards", "samples", "MB"],
        [
            [r["role"], r["dataset"], r["licences"] or "–", count(r["shards"]), count(r["samples"]),
             f"{r['bytes'] / 1e6:,.1f}"]
            for r in rows
        ],
        words=3,
    )  # fmt: skip


def _failure_table(rows: list[Row]) -> Table:
    cells = [[r["stage"], r["dataset"] or "–", r["reason"], count(r["failed"])] for r in rows]
    return Table("Failures", ["stage", "data set", "reason", "samples or shards"], cells, words=3)


def _run_table(material: Material, made: list[Row]) -> Table:
    return Table(
        "Runs",
        ["stage", "name", "settings", "code version", "device", "seconds"],
        [
            [r["stage"], r["name"], _settings(material, r["run"]), r["code_version"] or "–", r["device"] or "–",
             f"{r['seconds']:.1f}"]
            for r in made
        ],
        words=5,
        wide=True,
    )  # fmt: skip


def _settings(material: Material, run: str) -> str:
    """A run's parameters in a line: lists of shards by their length, the rest as it was asked; cut visibly."""
    parameters = runs.request_document(material.store, run)["parameters"]
    text = ", ".join(f"{key} {_setting(value)}" for key, value in parameters.items() if value not in (None, [], {}, ""))
    return text if len(text) <= SETTING_CHARACTERS else text[:SETTING_CHARACTERS] + " … (all of it in request.json)"


def _setting(value: object) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{k} {_setting(v)}" for k, v in value.items() if v not in (None, [], {}, "")) + ")"
    if isinstance(value, list):
        return ", ".join(map(str, value)) if all(isinstance(v, str) for v in value) else f"({len(value)})"
    return f"{value:,}" if isinstance(value, int) and value >= 10_000 else str(value)
