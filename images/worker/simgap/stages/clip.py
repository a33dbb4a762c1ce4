"""open_clip models: by name, with pretrained weights or those of a training run, and the image tower at one batch shape."""

import io
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image

from simgap import runs
from simgap.errors import SimgapError
from simgap.request import Input
from simgap.stages.device import device
from simgap.store import Store

IMAGES_A_BATCH = 256
CHECKPOINT = "final.pt"

open_clip.add_model_config(Path(__file__).parent.parent / "models")


class Clip:
    """A model ready to encode: `device`, `transform` (image to tensor) and `tokenizer` belong to its weights."""

    def __init__(self, model: str, weights: str) -> None:
        self.device = device()
        if model not in open_clip.list_models():
            raise SimgapError(
                f"model {model!r}: open_clip knows no such model; `python -c 'import open_clip; print(open_clip.list_models())'` lists them"
            )
        network, _, transform = open_clip.create_model_and_transforms(model, pretrained=weights, device=self.device)
        self.network: Any = network.eval()
        self.transform: Any = transform
        self.tokenizer = open_clip.get_tokenizer(model)

    @torch.inference_mode()
    def encode_images(self, images: Iterable[bytes]) -> Iterator[np.ndarray]:
        """Unit vectors, float32 [n, d], batch by batch.

        Every batch has one shape, the last one padded: a vector does not depend on how many others come with it.
        """
        pixels: Iterator[torch.Tensor] = (self.transform(decode(image)) for image in images)
        while batch := list(islice(pixels, IMAGES_A_BATCH)):
            padding = [torch.zeros_like(batch[0])] * (IMAGES_A_BATCH - len(batch))
            vectors = self.network.encode_image(torch.stack(batch + padding).to(self.device), normalize=True)
            yield vectors[: len(batch)].float().cpu().numpy()


def load_trained(store: Store, model: str, checkpoint: Input) -> Clip:
    """The model that a training run made, or that was registered. Raises SimgapError where its weights are damaged."""
    with tempfile.TemporaryDirectory(prefix="simgap-weights-") as folder:
        weights = Path(folder) / CHECKPOINT
        store.download(runs.files(store, checkpoint)[CHECKPOINT], weights)
        with _told(f"checkpoint {store.url(checkpoint.run)}"):
            return Clip(model, str(weights))


def load_pretrained(model: str, pretrained: str) -> Clip:
    """A tag of open_clip's or a weights file; raises SimgapError where the weights cannot be had."""
    with _told(f"encoder {model}/{pretrained}"), warnings.catch_warnings():
        warnings.filterwarnings("error", "QuickGELU mismatch")  # the activation belongs to the weights
        return Clip(model, pretrained)


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Raises SimgapError for whatever open_clip makes of weights that are not the model's."""
    try:
        yield
    except SimgapError:
        raise
    except Exception as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise SimgapError(f"{what}: its weights cannot be loaded: {first}") from error


def decode(image: bytes) -> Image.Image:
    """An image as open_clip's own reader decodes it: RGB, transparency dropped."""
    with Image.open(io.BytesIO(image)) as opened:
        return opened.convert("RGB")
