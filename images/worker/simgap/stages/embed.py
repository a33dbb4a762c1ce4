"""embed: a unit vector for each sample that ingest found usable."""

import numpy as np
import pyarrow as pa

from simgap import requests
from simgap.errors import SimgapError
from simgap.stages.clip import Clip, load_pretrained, load_trained
from simgap.stages.device import environment
from simgap.stages.images import ShardSamples, read_images, shards_of
from simgap.store import Store
from simgap.task import Task


def embed(tasks: list[Task[requests.Embed]], store: Store) -> None:
    """Writes table embeddings, a row group a shard. All tasks have one encoder, which is loaded once."""
    clip = load_tower(store, tasks[0].request.encoder)
    for task in tasks:
        shards = shards_of(store, task.request.samples, task.unit.parts)
        done, total = 0, sum(len(shard.sample_ids) for shard in shards)
        task.note(**environment())
        for shard in shards:
            task.write("embeddings", _embed_shard(task, store, clip, shard, done, total))
            done += len(shard.sample_ids)
        task.count(listed=total, done=done)


def load_tower(store: Store, tower: requests.Tower) -> Clip:
    if tower.checkpoint:
        return load_trained(store, tower.model, tower.checkpoint)
    assert tower.pretrained
    return load_pretrained(tower.model, tower.pretrained)


def _embed_shard(
    task: Task[requests.Embed], store: Store, clip: Clip, shard: ShardSamples, before: int, total: int
) -> pa.Table:
    """The vectors of one shard; batches never cross shards, so a vector does not depend on the cut."""
    batches = []
    for vectors in clip.encode_images(image for _, image in read_images(store, shard)):
        batches.append(vectors)
        task.progress(before + sum(map(len, batches)), total)
    vectors = np.concatenate(batches).astype(np.float16)
    if not np.isfinite(vectors).all() or not vectors.any(axis=1).all():
        raise SimgapError(
            f"encoder {task.request.encoder.name}: made a vector of zeros or of no numbers for {shard.dataset}/{shard.shard}"
        )
    return pa.table(
        {
            "dataset": pa.array([shard.dataset] * len(vectors)),
            "encoder": pa.array([task.request.encoder.name] * len(vectors)),
            "modality": pa.array(["image"] * len(vectors)),
            "sample_id": pa.array(shard.sample_ids, pa.int64()),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1]),
        }
    )
