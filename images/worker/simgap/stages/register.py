"""register: weights from elsewhere become a checkpoint, once they have been seen to load."""

import torch

from simgap import requests, schema
from simgap.errors import SimgapError
from simgap.stages.clip import CHECKPOINT, Clip, load_pretrained
from simgap.stages.device import environment
from simgap.store import Store
from simgap.task import Task


def register(tasks: list[Task[requests.Register]], store: Store) -> None:
    """Attaches final.pt (a state dict) and writes the row of table checkpoints, of no split and no seed.

    Raises SimgapError for an unknown model, and for weights that do not fit it.
    """
    for task in tasks:
        request, path = task.request, task.scratch / CHECKPOINT
        clip = load_pretrained(request.weights.model, str(request.weights.pretrained))
        torch.save({name: tensor.cpu() for name, tensor in clip.network.state_dict().items()}, path)
        _refuse_other_images(request, clip, Clip(request.weights.model, str(path)))
        task.attach(CHECKPOINT, path)
        row = {"checkpoint": request.name, "model": request.weights.model, "uri": CHECKPOINT}
        task.write("checkpoints", schema.rows("checkpoints", [row]))
        task.count(listed=1, done=1)
        task.note(**environment())


def _refuse_other_images(request: requests.Register, given: Clip, kept: Clip) -> None:
    """How images are prepared may belong to open_clip's tag, and a state dict does not say it."""
    if repr(given.transform) != repr(kept.transform):
        weights = f"{request.weights.model}/{request.weights.pretrained}"
        raise SimgapError(f"{weights}: wants images prepared unlike its model's own, which a checkpoint cannot say")
