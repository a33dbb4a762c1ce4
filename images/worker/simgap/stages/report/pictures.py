"""The pictures of the most similar pairs, read from the shards they lie in."""

import io
from base64 import b64encode
from collections.abc import Iterable

from PIL import Image

from simgap.errors import SimgapError
from simgap.shards import position_of, read_samples
from simgap.store import Store

THUMBNAIL_PX = 96


def thumbnails(wanted: Iterable[tuple[str, int]], store: Store) -> dict[tuple[str, int], str]:
    """PNG data URIs of samples, by (uri of the shard, sample_id); each shard is streamed once, up to its last one.

    Raises SimgapError when a shard no longer holds a sample that was ingested from it.
    """
    wanted = set(wanted)
    found = {}
    for uri in sorted({uri for uri, _ in wanted}):
        ids = {position_of(sample_id): sample_id for at, sample_id in wanted if at == uri}
        with store.reader(uri) as shard:
            for sample in read_samples(shard):
                if sample.position in ids and sample.image is not None:
                    found[uri, ids.pop(sample.position)] = _data_uri(sample.image)
                if not ids:
                    break
        if ids:
            raise SimgapError(
                f"{uri}: no image any more at positions {sorted(ids)}; the shard changed, so ingest it again"
            )
    return found


def _data_uri(encoded: bytes) -> str:
    """At most THUMBNAIL_PX on the longer side, on white."""
    image = Image.open(io.BytesIO(encoded)).convert("RGBA")
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    page = Image.new("RGBA", image.size, "white")
    page.alpha_composite(image)
    file = io.BytesIO()
    page.convert("RGB").save(file, "PNG", optimize=True)
    return "data:image/png;base64," + b64encode(file.getvalue()).decode()
