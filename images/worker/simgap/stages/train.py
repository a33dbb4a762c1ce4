"""train: a CLIP model on a split, by open_clip's own training program, from the shards where they lie.

A try that was killed is gone on with from its last whole epoch, with the same result.
"""

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import open_clip
import pyarrow as pa
import torch

from simgap import requests, runs, schema
from simgap.errors import SimgapError
from simgap.stages import open_clip_training
from simgap.stages.clip import CHECKPOINT
from simgap.stages.device import device, environment
from simgap.stages.stream import Plan, Shard, record_path
from simgap.store import Store
from simgap.study import Training
from simgap.task import Task

KEPT = "latest.pt"
LOGS_AN_EPOCH = 10
STEPS_BETWEEN_LOGS = 100  # at most
MEMBERS = """
select dataset, shard, sample_id, source, uri, etag, shards.sha256 as sha256
from members join samples using (dataset, sample_id) join shards using (dataset, shard)
order by dataset, shard, sample_id
"""


@dataclass
class History:
    """What a training went through: `yielded` int64 [members], how often each was trained on; `log`, its rows."""

    yielded: np.ndarray
    log: list[dict[str, Any]] = field(default_factory=list)


def train(tasks: list[Task[requests.Train]], store: Store) -> None:
    """Attaches final.pt (the weights, a state dict); writes tables checkpoints, training_log, exposures and failures."""
    for task in tasks:
        members = read_members(store, task.request)
        plan = make_plan(store, task.request, members)
        plan.save(task.scratch)
        _write(task, plan, members, _Training(task, plan).run())


def read_members(store: Store, request: requests.Train) -> pa.Table:
    """The split's members with what ingest knows of them, shard by shard. Raises SimgapError when it knows not all."""
    tables = {
        "members": runs.read(store, request.split, "members", ["dataset", "sample_id"]),
        "samples": _read_all(store, request, "samples", ["dataset", "sample_id", "shard", "source"]),
        "shards": _read_all(store, request, "shards", ["dataset", "shard", "uri", "etag", "sha256"]),
    }
    if not tables["members"].num_rows:
        raise SimgapError(f"split {request.split_name}: has no members, so there is nothing to train on")
    with duckdb.connect() as connection:
        for name, table in tables.items():
            connection.register(name, table)
        found = connection.sql(MEMBERS).to_arrow_table()
    if unknown := tables["members"].num_rows - found.num_rows:
        raise SimgapError(f"split {request.split_name}: {unknown:,} of its members were never ingested")
    return found


def make_plan(store: Store, request: requests.Train, members: pa.Table) -> Plan:
    training, parts = request.training, max(request.training.data_workers, 1)
    batches = math.ceil(training.samples_for(members.num_rows) / training.epochs / (training.batch_size * parts))
    shards = (
        members.group_by(["dataset", "shard", "uri", "etag", "sha256"], use_threads=False)
        .aggregate([("sample_id", "count")])
        .sort_by([("dataset", "ascending"), ("shard", "ascending")])  # as in MEMBERS: groups come in any order
        .to_pylist()
    )
    return Plan(
        store=store.root,
        shards=[Shard(shard["uri"], shard["etag"], shard["sha256"], shard["sample_id_count"]) for shard in shards],
        seed=request.seed,
        parts=parts,
        samples_a_part=batches * training.batch_size,
        sample_ids=members["sample_id"].to_numpy(),
    )


def arguments(training: Training, plan: Plan, seed: int, folder: Path, resume: Path | None) -> list[str]:
    """The command line of open_clip_train.main."""
    samples = plan.samples_an_epoch
    steps = samples // training.batch_size
    given = {
        "model": training.model, "train-data": f"simgap:{{0..{plan.parts - 1}}}", "train-num-samples": samples,
        "dataset-type": "webdataset", "epochs": training.epochs, "batch-size": training.batch_size,
        "lr": training.learning_rate, "wd": training.weight_decay, "warmup": training.warmup_steps,
        "precision": training.precision, "workers": training.data_workers, "seed": seed,
        "device": device(), "logs": folder, "name": "open_clip",
        "log-every-n-steps": max(1, min(STEPS_BETWEEN_LOGS, steps // LOGS_AN_EPOCH)),
    }  # fmt: skip
    resumed = [f"--resume={resume}"] if resume else []
    return [*(f"--{name}={value}" for name, value in given.items()), "--delete-previous-checkpoint", *resumed]


class _Training:
    """One call of open_clip's program, followed as it goes."""

    def __init__(self, task: Task[requests.Train], plan: Plan) -> None:
        self._task, self._plan, self._training, self._folder = task, plan, task.request.training, task.scratch
        self._history = History(np.zeros(len(plan.sample_ids), np.int64))
        self._first_epoch = 0

    def run(self) -> History:
        _check_model(self._training.model)
        _leave_processors(self._training.data_workers)
        argv = arguments(self._training, self._plan, self._task.request.seed, self._folder, self._resume())
        open_clip_training.train(
            argv, self._folder, self._task.request.seed, self._before_epoch, self._after_epoch, self._on_step
        )
        last = torch.load(self._checkpoint(self._training.epochs), map_location="cpu")
        torch.save(last["state_dict"], self._folder / CHECKPOINT)
        self._task.attach(CHECKPOINT, self._folder / CHECKPOINT)
        return self._history

    def _before_epoch(self, epoch: int) -> None:
        if epoch > self._first_epoch:
            self._keep(epoch)

    def _after_epoch(self, epoch: int) -> None:
        self._history.yielded += count_yielded(self._plan, self._folder, epoch)
        self._history.log[-1]["distinct_samples"] = int(np.count_nonzero(self._history.yielded))

    def _on_step(self, step: int, scalars: open_clip_training.Scalars) -> None:
        training, samples_an_epoch = self._training, self._plan.samples_an_epoch
        seen = (step + 1) * training.batch_size
        epoch = (seen - 1) // samples_an_epoch
        row = {
            "checkpoint": self._task.request.name,
            "epoch": epoch,
            "step": step,
            "samples_seen": seen,
            "distinct_samples": None,
        }
        self._history.log.append(row | {"loss": scalars["loss"], "images_per_second": scalars["samples_per_second"]})
        self._task.progress(seen, samples_an_epoch * training.epochs, "images", f"epoch {epoch + 1}/{training.epochs}")

    def _checkpoint(self, epoch: int) -> Path:
        return self._folder / "open_clip" / "checkpoints" / f"epoch_{epoch}.pt"

    def _keep(self, epoch: int) -> None:
        """Keeps the last checkpoint and the history up to it, as one file, so that both are there or none."""
        history = {"yielded": torch.from_numpy(self._history.yielded), "log": self._history.log}
        torch.save(torch.load(self._checkpoint(epoch), map_location="cpu") | {"history": history}, self._folder / KEPT)
        self._task.keep(KEPT, self._folder / KEPT)

    def _resume(self) -> Path | None:
        """The checkpoint that an earlier try left, after taking its history on."""
        if KEPT not in self._task.kept():
            return None
        self._task.fetch_kept(KEPT, self._folder / KEPT)
        kept = torch.load(self._folder / KEPT, map_location="cpu")
        self._history, self._first_epoch = (
            History(kept["history"]["yielded"].numpy(), kept["history"]["log"]),
            kept["epoch"],
        )
        self._task.note(resumed_after_epoch=self._first_epoch)
        return self._folder / KEPT


def count_yielded(plan: Plan, folder: Path, epoch: int) -> np.ndarray:
    """How often each member was yielded in an epoch, int64 [members]; raises SimgapError when a part's record falls short."""
    parts = [np.load(record_path(folder, epoch, part)) for part in range(plan.parts)]
    if short := [part for part, yielded in enumerate(parts) if len(yielded) != plan.samples_a_part]:
        raise SimgapError(
            f"epoch {epoch}: part {short[0]} yielded {len(parts[short[0]]):,} samples instead of {plan.samples_a_part:,}"
        )
    return np.bincount(np.concatenate(parts), minlength=len(plan.sample_ids))


def _leave_processors(data_workers: int) -> None:
    """Threads that wait for a data worker's processor cost more than they bring."""
    torch.set_num_threads(max(1, min(torch.get_num_threads(), len(os.sched_getaffinity(0)) - data_workers)))


def _check_model(model: str) -> None:
    if model not in open_clip.list_models():
        raise SimgapError(f"train.model {model!r}: open_clip knows no such model; open_clip.list_models() lists them")


def _write(task: Task[requests.Train], plan: Plan, members: pa.Table, history: History) -> None:
    request, never = task.request, int(np.count_nonzero(history.yielded == 0))
    seen = plan.samples_an_epoch * request.training.epochs
    if never and seen >= len(members):
        raise SimgapError(f"{request.name}: {never:,} members were never trained on, though {seen:,} samples were seen")
    checkpoint = {
        "checkpoint": request.name, "split": request.split_name, "seed": request.seed, "model": request.training.model,
        "epochs": request.training.epochs, "samples_seen": seen, "uri": CHECKPOINT,
    }  # fmt: skip
    task.write("checkpoints", schema.rows("checkpoints", [checkpoint]))
    task.write("training_log", schema.rows("training_log", history.log))
    task.write("exposures", exposures(request.name, members, history.yielded))
    task.count(listed=len(members), done=len(members) - never, failed=never)
    reason = f"{never:,} of {len(members):,} members not reached: {seen:,} samples were seen"
    failures = [{"stage": "train", "reason": reason}] if never else []
    task.write("failures", schema.rows("failures", failures))
    task.note(**environment(request.training.precision))


def exposures(checkpoint: str, members: pa.Table, yielded: np.ndarray) -> pa.Table:
    """How often training saw each source: its number of members, and of samples yielded from it."""
    counted = members.append_column("yielded", pa.array(yielded)).group_by(["dataset", "source"])
    sums = counted.aggregate([("sample_id", "count"), ("yielded", "sum")]).sort_by(
        [("dataset", "ascending"), ("source", "ascending")]
    )
    names = {"sample_id_count": "samples", "yielded_sum": "yielded"}
    table = sums.rename_columns([names.get(name, name) for name in sums.column_names])
    return table.add_column(0, "checkpoint", pa.array([checkpoint] * len(table), pa.string()))


def _read_all(store: Store, request: requests.Train, table: str, columns: list[str]) -> pa.Table:
    return pa.concat_tables(runs.read(store, samples, table, columns) for samples in request.samples)
