"""The score stage: from predictions in a store to scores, comparisons and explained shares."""

from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest

from simgap.errors import SimgapError
from simgap.kernels.statistics import holm, mcnemar, wilson
from simgap.request import Input
from simgap.requests import Control, Score
from simgap.stages import score as stage
from simgap.study import Compare

QUERIES = 300
ACCURACY = {"everything": 0.6, "reference": 0.2, "pruned": 0.35, "random": 0.55}


def predictions(
    checkpoint: str, accuracy: float, test_set: str = "sketch", seed: int = 0, queries: int = QUERIES
) -> pa.Table:
    rng = np.random.default_rng([seed, queries, *checkpoint.encode()])
    ranks = np.where(rng.random(queries) < accuracy, rng.integers(1, 6, queries), rng.integers(6, 90, queries))
    ids = rng.permutation(queries)  # runs need not store queries in one order
    return pa.table(
        {
            "checkpoint": [checkpoint] * queries,
            "test_set": [test_set] * queries,
            "protocol": ["zero_shot"] * queries,
            "query_id": ids,
            "label": ids % 7,
            "label_rank": ranks,
        }
    )


def checkpoints(seeds: int = 1) -> pa.Table:
    rows = [
        {"checkpoint": f"{split}-{seed}", "split": split, "seed": seed} for split in ACCURACY for seed in range(seeds)
    ]
    return pa.Table.from_pylist(rows)


def request(**changes) -> Score:
    source = Input(run="runs/x", content="0")
    fields = {
        "compare": [Compare.model_validate({"split": "pruned", "with": "random"})],
        "controls": [Control(pruned="pruned", control="random")],
        "everything": "everything",
        "reference": "reference",
        "resamples": 300,
        "seed": 0,
    }
    return Score(name="study", predictions=[source], checkpoints=[source], **(fields | changes))


def all_predictions(seeds: int = 1, test_sets: tuple[str, ...] = ("sketch", "v2")) -> pa.Table:
    return pa.concat_tables(
        predictions(f"{split}-{seed}", accuracy, test_set, seed)
        for split, accuracy in ACCURACY.items()
        for seed in range(seeds)
        for test_set in test_sets
    )


class Recorder:
    """Stands for a task: remembers what the stage wrote."""

    def __init__(self, asked: Score) -> None:
        self.request, self.tables, self.counts = asked, {}, {}

    def write(self, table, rows):
        self.tables[table] = rows

    def count(self, **counts):
        self.counts |= counts


def scored(monkeypatch, tables: dict[str, pa.Table], asked: Score) -> Recorder:
    monkeypatch.setattr(stage.runs, "read", lambda store, source, table, columns: tables[table].select(columns))
    task: Any = Recorder(asked)
    stage.score([task], cast(Any, None))
    return task


def test_writes_every_model_metric_and_test_set_with_its_wilson_interval(monkeypatch):
    predicted = all_predictions()
    task = scored(monkeypatch, {"predictions": predicted, "checkpoints": checkpoints()}, request())
    rows = task.tables["scores"].to_pylist()
    assert len(rows) == 4 * 2 * 2
    assert task.counts == {"listed": len(predicted), "done": len(predicted)}
    row = next(r for r in rows if (r["split"], r["test_set"], r["metric"]) == ("pruned", "v2", "top5"))
    ranks = predictions("pruned-0", ACCURACY["pruned"], "v2")["label_rank"].to_numpy()
    expected = wilson(int((ranks <= 5).sum()), QUERIES)
    assert (row["value"], row["low"], row["high"], row["n"]) == (expected.value, expected.low, expected.high, QUERIES)
    assert (row["checkpoint"], row["seed"], row["interval"]) == ("pruned-0", 0, "wilson 95 %")


def test_a_comparison_pairs_the_same_queries_whatever_their_order():
    tested = stage.tested_models(all_predictions(), checkpoints())
    row = next(r for r in stage.comparisons(tested, request()) if (r["test_set"], r["metric"]) == ("sketch", "top5"))
    right = {}
    for split in ("pruned", "random"):
        table = predictions(f"{split}-0", ACCURACY[split]).sort_by("query_id")
        right[split] = table["label_rank"].to_numpy() <= 5
    assert row["only_split"] == (right["pruned"] & ~right["random"]).sum()
    assert row["only_other"] == (right["random"] & ~right["pruned"]).sum()
    assert row["difference"] == pytest.approx(right["pruned"].mean() - right["random"].mean())
    assert row["low"] < row["difference"] < row["high"] < 0
    assert row["p"] == mcnemar(right["pruned"][None], right["random"][None])


def test_holm_is_over_all_rows_of_a_metric():
    pairs = [Compare.model_validate({"split": s, "with": "random"}) for s in ("pruned", "everything")]
    rows = stage.comparisons(stage.tested_models(all_predictions(), checkpoints()), request(compare=pairs))
    for metric in stage.METRICS:
        family = [r for r in rows if r["metric"] == metric]
        assert len(family) == 4
        assert [r["p_holm"] for r in family] == pytest.approx(list(holm(np.array([r["p"] for r in family]))))


def test_an_explained_share_says_over_what_its_interval_is():
    one = stage.explained_shares(stage.tested_models(all_predictions(), checkpoints()), request())
    three = stage.explained_shares(stage.tested_models(all_predictions(3), checkpoints(3)), request())
    assert {r["interval"] for r in one} == {"bootstrap 95 %, over images only"}
    assert {r["interval"] for r in three} == {"bootstrap 95 %, over images and 3 seeds"}
    row = next(r for r in three if (r["test_set"], r["metric"]) == ("sketch", "top5"))
    assert row["share"] == pytest.approx(row["numerator"] / row["denominator"])
    assert row["low"] < 0.5 < row["high"]


def test_a_share_of_nothing_is_null_and_a_study_without_both_ends_has_none():
    tested = stage.tested_models(all_predictions(), checkpoints())
    rows = stage.explained_shares(tested, request(everything="reference"))
    assert all(r["share"] is None and r["low"] is None and r["high"] is None for r in rows)
    assert stage.explained_shares(tested, request(reference=None)) == []


def test_another_comparison_changes_no_number_of_the_first():
    tested = stage.tested_models(all_predictions(), checkpoints())
    pairs = [Compare.model_validate({"split": s, "with": "random"}) for s in ("pruned", "reference")]
    alone, together = (stage.comparisons(tested, request(compare=p)) for p in (pairs[:1], pairs))
    same = [r for r in together if r["split"] == "pruned"]
    assert [{**r, "p_holm": 0} for r in same] == [{**r, "p_holm": 0} for r in alone]


def test_the_order_of_the_rows_does_not_matter():
    predicted = all_predictions()
    shuffled = predicted.take(np.random.default_rng(1).permutation(len(predicted)))
    for rows in (stage.scores, lambda tested: stage.comparisons(tested, request())):
        assert rows(stage.tested_models(predicted, checkpoints())) == rows(stage.tested_models(shuffled, checkpoints()))


@pytest.mark.parametrize(
    ("predicted", "message"),
    [
        (
            pa.concat_tables([predictions("pruned-0", 0.5), predictions("random-0", 0.5, queries=299)]),
            "not tested on the same queries",
        ),
        (pa.concat_tables([predictions("pruned-0", 0.5), predictions("random-0", 0.5, "v2")]), "was not evaluated on"),
        (pa.concat_tables([predictions("pruned-0", 0.5)] * 2), "has a query of sketch twice"),
        (predictions("forgotten-0", 0.5), "no training run has: forgotten-0"),
    ],
)
def test_refuses_an_evaluation_that_is_silently_short(predicted, message):
    with pytest.raises(SimgapError, match=message):
        stage.tested_models(predicted, checkpoints())


def test_refuses_labels_that_differ_ranks_that_are_missing_and_seeds_that_do_not_pair():
    good, other = predictions("pruned-0", 0.5), predictions("random-0", 0.5)
    wrong = other.set_column(4, "label", pa.array([9] * QUERIES, pa.int64()))
    with pytest.raises(SimgapError, match="queries and labels"):
        stage.tested_models(pa.concat_tables([good, wrong]), checkpoints())
    none = good.set_column(5, "label_rank", pa.array([None] * QUERIES, pa.int64()))
    with pytest.raises(SimgapError, match="label_rank"):
        stage.tested_models(none, checkpoints())
    two_seeds = pa.concat_tables([all_predictions(1, ("sketch",)), predictions("pruned-1", 0.3)])
    with pytest.raises(SimgapError, match="train both with the same seeds"):
        stage.comparisons(stage.tested_models(two_seeds, checkpoints(2)), request())


def test_refuses_two_checkpoints_of_one_model_and_a_split_without_one():
    twice = pa.table({"checkpoint": ["pruned-0", "random-0"], "split": ["pruned"] * 2, "seed": [0, 0]})
    with pytest.raises(SimgapError, match="2 checkpoints of split 'pruned'"):
        stage.tested_models(pa.concat_tables([predictions("pruned-0", 0.5), predictions("random-0", 0.5)]), twice)
    tested = stage.tested_models(predictions("pruned-0", 0.5), checkpoints())
    with pytest.raises(SimgapError, match="no model of split 'random'"):
        stage.comparisons(tested, request())


def test_refuses_a_run_without_rows(monkeypatch):
    empty = {"predictions": all_predictions().slice(0, 0), "checkpoints": checkpoints()}
    with pytest.raises(SimgapError, match="runs/x has no predictions"):
        scored(monkeypatch, empty, request())
