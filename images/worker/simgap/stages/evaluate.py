"""evaluate: open_clip's zero-shot protocol, with each image's prediction stored."""

import numpy as np
import open_clip
import pyarrow as pa
import torch

from simgap import requests, runs
from simgap.stages.clip import Clip, load_trained
from simgap.stages.device import environment
from simgap.stages.images import read_images, shards_of
from simgap.store import Store
from simgap.task import Task

CLASSES_A_BATCH = 10


def evaluate(tasks: list[Task[requests.Evaluate]], store: Store) -> None:
    """Writes table predictions, a row a test image. All tasks have one checkpoint, which is loaded once."""
    first = tasks[0].request
    clip = load_trained(store, first.model, first.checkpoint)
    for task in tasks:
        weights = class_weights(clip, *_labels(task, store))
        shards = shards_of(store, task.request.samples)
        total = sum(len(shard.sample_ids) for shard in shards)
        labels = _label_by_id(store, task.request)
        for shard in shards:
            vectors = np.concatenate(list(clip.encode_images(image for _, image in read_images(store, shard))))
            truth = np.array([labels[i] for i in shard.sample_ids])
            similarities = (
                vectors.astype(np.float64) @ weights
            )  # in float64, where only exact ties are closer than its error
            task.write("predictions", _predictions(task.request, shard.sample_ids, truth, similarities))
            task.count(done=len(shard.sample_ids))
        task.count(listed=total)
        task.note(**environment())
        task.progress(total, total)


@torch.inference_mode()
def class_weights(clip: Clip, classes: list[str], templates: list[str]) -> np.ndarray:
    """Zero-shot weights, float32 [d, classes]: the mean of the templates' normalised embeddings, normalised again."""
    fillers = [lambda name, template=template: template.replace("{c}", name) for template in templates]
    weights = open_clip.build_zero_shot_classifier(
        clip.network, clip.tokenizer, classes, fillers, num_classes_per_batch=CLASSES_A_BATCH, device=clip.device
    )
    return weights.float().cpu().numpy()


def rank(similarities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Classes by similarity, int64 [n, classes], ties to the smaller class, and the label's rank from 1, int64 [n]."""
    order = np.argsort(-similarities, axis=1, kind="stable")
    return order, np.argmax(order == labels[:, None], axis=1) + 1


def _predictions(request: requests.Evaluate, ids: list[int], labels: np.ndarray, similarities: np.ndarray) -> pa.Table:
    order, label_rank = rank(similarities, labels)
    return pa.table(
        {
            "checkpoint": pa.array([request.checkpoint_name] * len(ids)),
            "test_set": pa.array([request.test_set] * len(ids)),
            "protocol": pa.array([request.protocol] * len(ids)),
            "query_id": pa.array(ids, pa.int64()),
            "label": pa.array(labels, pa.int64()),
            "predicted": pa.array(order[:, 0], pa.int64()),
            "label_rank": pa.array(label_rank, pa.int64()),
            "top5": pa.array(order[:, :5].tolist(), pa.list_(pa.int64())),
            "correct": pa.array(label_rank == 1),
        }
    )


def _labels(task: Task[requests.Evaluate], store: Store) -> tuple[list[str], list[str]]:
    """Class names and templates, a line each."""
    paths = runs.files(store, task.request.samples)
    names = ("classnames.txt", "zeroshot_classification_templates.txt")
    classes, templates = (store.get(paths[name]).decode().splitlines() for name in names)
    return classes, templates


def _label_by_id(store: Store, request: requests.Evaluate) -> dict[int, int]:
    table = runs.read(store, request.samples, "samples", ["sample_id", "label"])
    return dict(zip(table["sample_id"].to_pylist(), table["label"].to_pylist(), strict=True))
