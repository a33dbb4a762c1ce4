"""The sections on trained models: what they reach, how they differ, and what similarity explains of it."""

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from simgap.kernels import statistics
from simgap.stages.report import charts
from simgap.stages.report.material import Material, Row, panels
from simgap.stages.report.view import METRICS, Figure, Section, Table, count, interval, p_value, percent, points
from simgap.study import Score

UNTRAINED = "This study trains no model (its file has no [train] section), so there is nothing to say here."
BIN_WIDTH = 0.05
LEAST_QUERIES = 10
"""A bin with fewer has an interval that fills the chart."""


def results(material: Material) -> Section:
    rows = panels(material.ask("results"), "protocol")
    anchor, title = "results", "Results"
    if not rows:
        return Section(anchor, title, [_nothing(material, "No model was scored.")])
    seeds = max(row["seeds"] for row in rows)
    below = (
        "Below each value: the 95 % Wilson interval of one model, over images."
        if seeds == 1
        else f"Values are means of {seeds} seeds; below, from the lowest to the highest 95 % Wilson bound of a seed."
    )
    sentences = [f"Accuracy in per cent. {below} n: test images."]
    return Section(anchor, title, sentences, tables=[_accuracy_table(rows, metric) for metric in METRICS])


def comparisons(material: Material) -> Section:
    rows = panels(material.ask("comparisons"), "protocol")
    anchor, title = "comparisons", "Comparisons"
    if not rows:
        return Section(anchor, title, [_nothing(material, "The study names no comparisons.")])
    rows = [row | {"label": f"{row['split']} − {row['other']}", "value": row["difference"]} for row in rows]
    seeds = max(row["seeds"] or 1 for row in rows)
    sentences = [
        f"Differences in percentage points, with 95 % intervals from a paired bootstrap {_over(seeds)}."
        " p: exact McNemar"
        + (" of the seeds' sum, which says nothing of other seeds, as the interval does" if seeds > 1 else "")
        + "; p (Holm): adjusted for all rows of one metric in this table."
    ]
    figure = Figure(
        "comparisons",
        charts.forest(rows, "difference, percentage points"),
        "Difference of each pair of splits on each test set, with its interval; the table below has the numbers.",
        "Left of the dashed line: the first split of the pair is less often right.",
    )
    return Section(anchor, title, sentences, [figure], [_comparison_table(rows)])


def explained_shares(material: Material) -> Section:
    rows = panels(material.ask("explained_shares"), "protocol")
    anchor, title = "explained", "What similarity explains"
    if not rows:
        nothing = (
            "The study compares no pruned split with a random control, or lacks a split on everything or on the"
            " reference alone."
        )
        return Section(anchor, title, [_nothing(material, nothing)])
    meaning = (
        "Explained share: of what the pool adds over the reference, the part that goes when the samples that go are the"
        " similar ones, and stays when as many others go: (control − pruned) / (everything − reference alone)."
        " It is left open where the interval of what the pool adds holds 0."
    )
    aimed = [row for row in rows if row["test_set"] in material.study.tests_of(row["pruned"])]
    return Section(anchor, title, [meaning, *(share_in_words(row) for row in aimed)], tables=[_share_table(rows)])


def share_in_words(row: Row) -> str:
    """An explained share as a sentence."""
    where = f"On {row['panel']} ({METRICS[row['metric']]})"
    adds = f"{points(row['denominator'])} points ({interval(row['denominator_low'], row['denominator_high'])})"
    names = f"{row['pruned']} against {row['control']}"
    if row["share"] is None:
        return (
            f"{where} no share can be stated for {names}: what everything has over the reference alone is {adds},"
            " an interval that holds 0."
        )
    if row["denominator"] < 0:
        return f"{where} no share has a meaning for {names}: everything less the reference alone is {adds}."
    share = f"{percent(row['share'], 0)} % ({percent(row['low'], 0)} to {percent(row['high'], 0)} %)".replace("-", "−")
    unsure = " The interval holds 0: it may be none." if row["low"] <= 0 <= row["high"] else ""
    what = f"{share} of that goes with the similar samples"
    return f"{where} the pool adds {adds}; {what} ({names}; {row['interval']}).{unsure}"


def lost_neighbours(material: Material) -> Section:
    patterns = panels(material.with_pruned_for().ask("lost_neighbours"), "protocol")
    anchor, title = "lost", "Queries that lost neighbours against those that lost none"
    if not patterns:
        return Section(anchor, title, [_nothing(material, "The study compares no pruned split with another.")])
    settings = material.study.score
    keys = ("panel", "metric", "split", "other", "lost")
    groups = groupby(sorted(patterns, key=lambda row: [row[k] for k in keys]), key=lambda row: [row[k] for k in keys])
    rows = [dict(zip(keys, key, strict=True)) | _change(list(group), settings) for key, group in groups]
    for row in rows:
        row["label"] = f"{row['split']} − {row['other']}, {'lost' if row['lost'] else 'lost none'}"
    rows.sort(key=lambda row: (material.splits.index(row["split"]), row["other"], not row["lost"]))
    seeds = len(patterns[0]["split_right"])
    sentences = [
        "A query lost neighbours when pruning for its test set took pool samples nearer to it than the reference's"
        " nearest. If similarity is what the pruned model misses, it falls behind its control on these queries and not"
        f" on the others. Differences in percentage points; bootstrap {_over(seeds)}."
    ]
    figure = Figure(
        "lost_neighbours",
        charts.forest(rows, "pruned − control, percentage points"),
        "Accuracy of pruned splits minus their controls, for queries that lost neighbours and for those that did not.",
        "Left of the dashed line: the pruned model is less often right than its control.",
    )
    table = Table(
        "Change of accuracy, percentage points",
        ["pruned split", "control", "test set", "queries that", "metric", "queries", "difference", "95 % interval"],
        [
            [r["split"], r["other"], r["panel"], "lost some" if r["lost"] else "lost none", METRICS[r["metric"]],
             count(r["queries"]), points(r["value"]), interval(r["low"], r["high"])]
            for r in rows
        ],
        words=5,
    )  # fmt: skip
    return Section(anchor, title, sentences, [figure], [table])


def accuracy_by_similarity(material: Material) -> Section:
    rows = panels(material.ask("accuracy_by_similarity"), "encoder", "protocol")
    anchor, title = "similarity", "Accuracy by similarity"
    if not rows:
        return Section(anchor, title, [_nothing(material, "No model was evaluated with its nearest neighbours known.")])
    drawn = [row for row in rows if row["queries"] >= LEAST_QUERIES]
    for row in drawn:
        # a mean over seeds need not be whole; the interval is that of the nearest whole count
        bounds = statistics.wilson(round(row["right_answers"]), row["queries"])
        row |= {"value": row["right_answers"] / row["queries"], "low": bounds.low, "high": bounds.high}
        row["similarity"] += BIN_WIDTH / 2
    sentences = [
        "Queries by the similarity of the nearest image that the model was trained on, in bins 0.05 wide, with 95 %"
        " Wilson intervals over images; splits are drawn a little apart."
        f" Bins of fewer than {LEAST_QUERIES} queries are not drawn: {len(rows) - len(drawn):,} of {len(rows):,}."
    ]
    figure = Figure(
        "accuracy_by_similarity",
        charts.accuracy_by_similarity(drawn, material.splits),
        "Share of queries answered rightly by the similarity of the nearest training image, split and test set.",
        "Above: top-1. Below: top-5, on a scale of its own.",
    )
    return Section(anchor, title, sentences, [figure])


def exposures(material: Material) -> Section:
    rows = material.ask("exposures")
    anchor, title = "exposures", "What training saw"
    if not rows:
        return Section(anchor, title, [_nothing(material, "No exposures were recorded.")])
    splits, sources = (list(dict.fromkeys(row[key] for row in rows)) for key in ("split", "source"))
    by = {(row["source"], row["split"]): row for row in rows}
    totals = {s: sum(r["yielded"] for r in rows if r["split"] == s) for s in splits}
    sentences = [
        "How often training saw each sample of a source, on average; in brackets its share of all that the model saw."
        " With equal samples seen, a smaller split sees what it keeps more often, the reference too."
    ]
    table = Table(
        "Times each sample was seen (share of all samples seen, per cent)",
        ["source", *splits],
        [[s, *(_seen(by.get((s, split)), totals[split]) for split in splits)] for s in sorted(sources)]
        + [["all, samples seen", *(count(totals[split]) for split in splits)]],
    )
    return Section(anchor, title, sentences, tables=[table])


def _nothing(material: Material, otherwise: str) -> str:
    return otherwise if material.study.train else UNTRAINED


def _over(seeds: int) -> str:
    return (
        "over images only: one seed says nothing of what another would do"
        if seeds == 1
        else f"over images and {seeds} seeds"
    )


def _accuracy_table(rows: Sequence[Row], metric: str) -> Table:
    rows = [row for row in rows if row["metric"] == metric]
    tests = {row["panel"]: row["n"] for row in rows}
    by = {(row["split"], row["panel"]): row for row in rows}
    samples = {row["split"]: row["samples"] for row in rows}
    return Table(
        METRICS[metric].capitalize(),
        ["trained on", "samples", *(f"{test}\nn = {n:,}" for test, n in tests.items())],
        [[split, count(samples[split]), *(_accuracy(by.get((split, test))) for test in tests)] for split in samples],
    )


def _accuracy(row: Row | None) -> str:
    return f"{percent(row['value'])}\n{percent(row['low'])}–{percent(row['high'])}" if row else "–"


def _comparison_table(rows: Sequence[Row]) -> Table:
    return Table(
        "Comparisons",
        ["split", "minus", "test set", "metric", "difference", "95 % interval", "only split right", "only other right",
         "p", "p (Holm)"],
        [
            [r["split"], r["other"], r["panel"], METRICS[r["metric"]], points(r["difference"]),
             interval(r["low"], r["high"]), count(r["only_split"]), count(r["only_other"]), p_value(r["p"]),
             p_value(r["p_holm"])]
            for r in rows
        ],
        words=4,
        wide=True,
    )  # fmt: skip


def _share_table(rows: Sequence[Row]) -> Table:
    return Table(
        "Explained shares of all test sets",
        ["pruned", "control", "test set", "metric", "share, %", "95 % interval", "control − pruned", "pool adds",
         "95 % interval"],
        [
            [r["pruned"], r["control"], r["panel"], METRICS[r["metric"]], *_share_cells(r), points(r["numerator"]),
             points(r["denominator"]), interval(r["denominator_low"], r["denominator_high"])]
            for r in rows
        ],
        words=4,
        wide=True,
    )  # fmt: skip


def _share_cells(row: Row) -> tuple[str, str]:
    if row["share"] is None:
        return "–", "–"
    share, low, high = (percent(row[k], 0).replace("-", "−") for k in ("share", "low", "high"))
    return share, f"{low} to {high}"


def _change(patterns: list[Row], settings: Score) -> Row:
    """The difference of two splits on a group of queries, from how often each pattern of right and wrong occurs."""
    times = [row["queries"] for row in patterns]
    split, other = (
        np.repeat(np.array([row[k] for row in patterns]), times, axis=0).T for k in ("split_right", "other_right")
    )
    found = statistics.difference(split, other, settings.resamples, np.random.default_rng(settings.seed))
    return vars(found) | {"queries": sum(times)}


def _seen(row: Row | None, total: float) -> str:
    if row is None:
        return "–"
    times = row["yielded"] / row["samples"] if row["samples"] else 0.0
    return f"{times:.1f} ({percent(row['yielded'] / total) if total else '0.0'})"
