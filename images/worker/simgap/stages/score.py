"""Scores, comparisons and explained shares from each image's prediction."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa

from simgap import runs, schema
from simgap.errors import SimgapError
from simgap.kernels import statistics
from simgap.request import Input
from simgap.requests import Control, Score
from simgap.store import Store
from simgap.study import Compare
from simgap.task import Task

PREDICTIONS = ["checkpoint", "test_set", "protocol", "query_id", "label", "label_rank"]
METRICS = {"top1": 1, "top5": 5}  # the label's rank that still counts as right

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Model:
    """A checkpoint of one split and seed that was evaluated."""

    checkpoint: str
    split: str
    seed: int


@dataclass(frozen=True)
class Tested:
    """One test set under one protocol: the rank of the label, int64 (models, queries); models by split, then seed."""

    test_set: str
    protocol: str
    models: list[Model]
    ranks: np.ndarray

    def right(self, split: str, metric: str) -> np.ndarray:
        """Which queries each seed's model of a split has right, bool (seeds, queries)."""
        rows = [i for i, model in enumerate(self.models) if model.split == split]
        if not rows:
            raise SimgapError(
                f"score: no model of split {split!r} was evaluated on {self.test_set}; train it or leave it out"
            )
        return self.ranks[rows] <= METRICS[metric]

    def names(self, metric: str) -> dict[str, str]:
        return {"test_set": self.test_set, "protocol": self.protocol, "metric": metric}


def score(tasks: list[Task[Score]], store: Store) -> None:
    """Write `scores`, `comparisons` and `explained_shares` for each task.

    Every interval is drawn from the request's own seed afresh, so a comparison more changes no other number. Refuses
    (SimgapError) models that were not tested on the same queries: an evaluation that is short would pass as a better
    or worse model.
    """
    for task in tasks:
        request = task.request
        predictions = _read(store, request.predictions, "predictions", PREDICTIONS)
        checkpoints = _read(store, request.checkpoints, "checkpoints", ["checkpoint", "split", "seed"])
        tested = tested_models(predictions, checkpoints)
        task.write("scores", schema.rows("scores", scores(tested)))
        task.write("comparisons", schema.rows("comparisons", comparisons(tested, request)))
        task.write("explained_shares", schema.rows("explained_shares", explained_shares(tested, request)))
        task.count(listed=len(predictions), done=len(predictions))


def tested_models(predictions: pa.Table, checkpoints: pa.Table) -> list[Tested]:
    """Predictions as one array for each test set and protocol, in order of their names.

    Raises SimgapError where a model is unknown, two models are of one split and seed, a model's ranks are not above 0,
    or the models of a test set did not answer the same queries with the same labels.
    """
    models = _models(checkpoints, set(predictions["checkpoint"].unique().to_pylist()))
    tested = []
    for (test_set, protocol), rows in _groups(predictions, ["test_set", "protocol"]):
        answers = {checkpoint: answered for (checkpoint,), answered in _groups(rows, ["checkpoint"])}
        _refuse_different_queries(test_set, models, answers)
        ranks = np.stack([answers[m.checkpoint]["label_rank"].to_numpy() for m in models])
        if not (ranks >= 1).all():
            raise SimgapError(
                f"score: predictions on {test_set} have a label_rank below 1 or none; evaluate them again"
            )
        tested.append(Tested(test_set, protocol, models, ranks))
    return tested


def scores(tested: Iterable[Tested]) -> Rows:
    """Each model's accuracy with its Wilson interval."""
    return [
        vars(model) | t.names(metric) | _score(ranks <= k)
        for t in tested
        for model, ranks in zip(t.models, t.ranks, strict=True)
        for metric, k in METRICS.items()
    ]


def comparisons(tested: Iterable[Tested], request: Score) -> Rows:
    """The difference split - other on each test set, with a paired bootstrap interval and McNemar's exact p.

    With several seeds the interval is over images and seeds; only_split and only_other are summed over the seeds, and p
    is of those sums, an image's seeds taken together (`statistics.mcnemar`). Holm's family is all rows of one metric
    in one study: every comparison on every test set under every protocol.
    """
    rows = [_compare(t, c, metric, request) for t in tested for c in request.compare for metric in METRICS]
    for metric in METRICS:
        family = [row for row in rows if row["metric"] == metric]
        adjusted = statistics.holm(np.array([row["p"] for row in family], dtype=np.float64))
        for row, p_holm in zip(family, adjusted, strict=True):
            row["p_holm"] = float(p_holm)
    return rows


def explained_shares(tested: Iterable[Tested], request: Score) -> Rows:
    """What part of what the pool adds over the reference goes with the similar samples; null if it adds nothing sure.

    No rows for a study that trains no split on everything, or none on the reference alone.
    """
    if request.everything is None or request.reference is None:
        return []
    ends = [request.everything, request.reference]
    return [_explain(t, c, ends, metric, request) for t in tested for c in request.controls for metric in METRICS]


def _score(right: np.ndarray) -> dict[str, Any]:
    accuracy = statistics.wilson(int(right.sum()), len(right))
    return vars(accuracy) | {"n": len(right), "interval": "wilson 95 %"}


def _compare(tested: Tested, pair: Compare, metric: str, request: Score) -> dict[str, Any]:
    first, second = _paired(tested, pair.split, pair.with_, metric)
    found = statistics.difference(first, second, request.resamples, np.random.default_rng(request.seed))
    return tested.names(metric) | {
        "split": pair.split,
        "other": pair.with_,
        "difference": found.value,
        "low": found.low,
        "high": found.high,
        "only_split": int((first & ~second).sum()),
        "only_other": int((second & ~first).sum()),
        "p": statistics.mcnemar(first, second),
    }


def _explain(tested: Tested, pair: Control, ends: list[str], metric: str, request: Score) -> dict[str, Any]:
    models = [tested.right(split, metric) for split in [pair.control, pair.pruned, *ends]]
    found = statistics.explained_share(models, request.resamples, np.random.default_rng(request.seed))
    share, denominator = found.share, found.denominator
    return tested.names(metric) | {
        "pruned": pair.pruned,
        "control": pair.control,
        "share": share and share.value,
        "low": share and share.low,
        "high": share and share.high,
        "numerator": found.numerator.value,
        "denominator": denominator.value,
        "denominator_low": denominator.low,
        "denominator_high": denominator.high,
        "interval": _interval(models),
    }


def _interval(models: list[np.ndarray]) -> str:
    seeds = sorted({len(m) for m in models})
    if seeds == [1]:
        return "bootstrap 95 %, over images only"
    return f"bootstrap 95 %, over images and {' to '.join(str(s) for s in dict.fromkeys((seeds[0], seeds[-1])))} seeds"


def _paired(tested: Tested, split: str, other: str, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """The answers of two splits, bool (seeds, queries), row by row of the same seed."""
    seeds = [[m.seed for m in tested.models if m.split == s] for s in (split, other)]
    first, second = tested.right(split, metric), tested.right(other, metric)
    if seeds[0] != seeds[1]:
        raise SimgapError(
            f"score: {split} has seeds {seeds[0]} and {other} has {seeds[1]}; train both with the same seeds"
        )
    return first, second


def _models(checkpoints: pa.Table, evaluated: set[str]) -> list[Model]:
    """The models that were evaluated, by split and seed; SimgapError if one is unknown or a split's seed has two."""
    models = [Model(**row) for row in checkpoints.to_pylist() if row["checkpoint"] in evaluated]
    if unknown := evaluated - {m.checkpoint for m in models}:
        raise SimgapError(f"score: predictions of checkpoints that no training run has: {', '.join(sorted(unknown))}")
    for (split, seed), times in Counter((m.split, m.seed) for m in models).items():
        if times > 1:
            raise SimgapError(
                f"score: {times} checkpoints of split {split!r}, seed {seed} were evaluated; evaluate one of them"
            )
    return sorted(models, key=lambda m: (m.split, m.seed))


def _refuse_different_queries(test_set: str, models: list[Model], answers: dict[str, pa.Table]) -> None:
    first = None
    for model in models:
        answered = answers.get(model.checkpoint)
        if answered is None:
            raise SimgapError(
                f"score: checkpoint {model.checkpoint} was not evaluated on {test_set}, others were; evaluate it there"
            )
        queries = answered.select(["query_id", "label"])
        if len(queries["query_id"].unique()) != len(queries):
            raise SimgapError(
                f"score: checkpoint {model.checkpoint} has a query of {test_set} twice; evaluate it again"
            )
        first = first or (model, queries)
        if not queries.equals(first[1]):
            raise SimgapError(
                f"score: checkpoints {first[0].checkpoint} ({len(first[1])} queries) and {model.checkpoint}"
                f" ({len(queries)} queries) were not tested on the same queries and labels of {test_set};"
                " evaluate both again"
            )


def _groups(table: pa.Table, by: list[str]) -> Iterator[tuple[tuple[str, ...], pa.Table]]:
    """The rows for each value of some columns, the groups in order and the rows of each by query."""
    table = table.sort_by([(name, "ascending") for name in [*by, "query_id"]]).combine_chunks()
    keys = zip(*(table[name].to_pylist() for name in by), strict=True)
    start = 0
    for key, group in groupby(keys):
        rows = sum(1 for _ in group)
        yield key, table.slice(start, rows)
        start += rows


def _read(store: Store, sources: Iterable[Input], table: str, columns: list[str]) -> pa.Table:
    """The rows of all sources; SimgapError when one has none, since nothing could be said of it."""
    parts = []
    for source in sources:
        parts.append(runs.read(store, source, table, columns))
        if not len(parts[-1]):
            raise SimgapError(f"score: {source.run} has no {table}; do that run again")
    if not parts:
        raise SimgapError(f"score: no runs with {table} were given")
    return pa.concat_tables(parts).combine_chunks()
