"""The pictures of the most similar pairs, read from the shards they lie in."""

import io
from base64 import b64encode
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from PIL import Image

from simgap.errors import SimgapError
from simgap.shards import position_of, read_samples
from simgap.stages.images import as_ingested
from simgap.store import Store

THUMBNAIL_PX = 96


class Place(NamedTuple):
    """A shard, and how it is known to be the one that was ingested."""

    uri: str
    etag: str
    sha256: str


def thumbnails(wanted: Iterable[tuple[Place, int]], store: Store) -> dict[int, str]:
    """PNG data URIs by sample_id; each shard is streamed once, up to the last of its samples that are wanted.

    Raises SimgapError when a shard is not the one that was ingested, or has no such sample.
    """
    places: dict[Place, set[int]] = defaultdict(set)
    for place, sample_id in wanted:
        places[place].add(sample_id)
    return {i: _data_uri(image) for place, ids in places.items() for i, image in _images(store, place, ids)}


def _images(store: Store, place: Place, sample_ids: set[int]) -> Iterator[tuple[int, bytes]]:
    ids = {position_of(sample_id): sample_id for sample_id in sample_ids}
    with as_ingested(store, *place) as shard:
        for sample in read_samples(shard):
            if sample.position in ids and sample.image is not None:
                yield ids.pop(sample.position), sample.image
            if not ids:
                return
    raise SimgapError(f"{place.uri}: no image at positions {sorted(ids)}; start the study again")


def _data_uri(encoded: bytes) -> str:
    """At most THUMBNAIL_PX on the longer side, on white."""
    image = Image.open(io.BytesIO(encoded)).convert("RGBA")
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    page = Image.new("RGBA", image.size, "white")
    page.alpha_composite(image)
    file = io.BytesIO()
    page.convert("RGB").save(file, "PNG", optimize=True)
    return "data:image/png;base64," + b64encode(file.getvalue()).decode()
