"""What the report says, on top and in words: only what the numbers allow."""

from simgap.stages.report.data import holds, hull_total, pool_total
from simgap.stages.report.material import Material, Row, panels
from simgap.stages.report.models import share_in_words
from simgap.stages.report.view import METRICS, Section, interval, named, p_value, percent, points

SIGNIFICANT = 0.05


def summary(material: Material) -> Section:
    sentences = [*_hulls(material), *_certificates(material)]
    if material.study.train:
        sentences += [_seeds(material), *_comparisons(material), *_shares(material)]
    else:
        sentences.append(
            "Nothing was trained: this is an audit of the data, and says nothing about any model's accuracy."
        )
    return Section("says", "What this says", sentences)


def _hulls(material: Material) -> list[str]:
    rows = panels(material.ask("hulls"), "encoder", "reference")
    if not rows:
        return ["The pool was not searched, or is empty."]
    shares = []
    for panel in dict.fromkeys(row["panel"] for row in rows):
        hull, pool = hull_total(rows, panel), pool_total(rows, panel)
        shares.append(f"{percent(hull / pool)} % ({hull:,} of {pool:,}) for {panel}")
    return [f"Nearer to a test image than the reference's nearest are these shares of the pool: {named(shares)}."]


def _certificates(material: Material) -> list[str]:
    rows = material.ask("certificates")
    broken = [f"{row['split']} for {row['test_set']}" for row in rows if not holds(row)]
    if broken:
        return [f"THE CERTIFICATE FAILS for {named(broken)}: do not use what is said of these splits."]
    if not rows:
        return []
    return ["Every pruned split passed its certificate: no query has a nearer neighbour left than in the reference."]


def _seeds(material: Material) -> str:
    assert material.study.train
    seeds = len(material.study.train.seeds)
    if seeds == 1:
        return (
            "Each split was trained once (one seed), so all intervals are over images only: they say how sure these"
            " models' accuracies are, not what another seed would give."
        )
    return f"Each split was trained with {seeds} seeds; intervals of differences and shares are over images and seeds."


def _comparisons(material: Material) -> list[str]:
    rows = panels(material.ask("comparisons"), "protocol")
    if not rows:
        return ["The study names no comparisons."]
    shown = [row for row in rows if row["p_holm"] < SIGNIFICANT]
    pairs = dict.fromkeys((row["split"], row["other"]) for row in shown)
    told = [
        _pair(split, other, [r for r in shown if (r["split"], r["other"]) == (split, other)]) for split, other in pairs
    ]
    if rest := len(rows) - len(shown):
        others = f"the other {rest} of {len(rows)}" if told else f"all {len(rows)}"
        told.append(
            f"For {others} differences that were tested, Holm's p is {SIGNIFICANT} or more: no difference is shown,"
            " which is not to say that there is none."
        )
    return told


def _pair(split: str, other: str, rows: list[Row]) -> str:
    return f"{split} against {other}, in points: {named([_difference(row) for row in rows])}."


def _difference(row: Row) -> str:
    unsure = ", yet that holds 0" if row["low"] <= 0 <= row["high"] else ""
    within = f"{interval(row['low'], row['high'])}{unsure}; Holm's p {p_value(row['p_holm'])}"
    return f"{row['panel']} {METRICS[row['metric']]} {points(row['difference'])} ({within})"


def _shares(material: Material) -> list[str]:
    rows = panels(material.ask("explained_shares"), "protocol")
    aimed = [row for row in rows if row["test_set"] in material.study.tests_of(row["pruned"])]
    return [share_in_words(row) for row in aimed]
