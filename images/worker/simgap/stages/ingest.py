"""ingest: lists, checks and counts a data set's samples. After it, a sample is known to decode and to have its caption."""

import io
import json
import warnings
from dataclasses import asdict, dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from simgap import requests, schema
from simgap.errors import SimgapError
from simgap.shards import POSITION_BITS, BrokenShard, Sample, first_sample_id, read_samples
from simgap.store import Store
from simgap.task import Task

LARGEST_INPUT_PX = 512
"""The widest input of open_clip's models."""


class Unusable(Exception):
    """Why a sample cannot be used; counted, never skipped."""


@dataclass
class Row:
    """A row of table samples."""

    dataset: str
    sample_id: int
    shard: str
    key: str
    caption: str
    label: int | None
    width_px: int
    height_px: int
    sha256: str
    source: str
    licence: str | None


def ingest(tasks: list[Task[requests.Ingest]], store: Store) -> None:
    """Writes tables samples, failures and shards; attaches a test set's class names and templates."""
    for task in tasks:
        _refuse_clashes(task.request)
        classes = _attach_labels(task, store)
        shards = {shard.path: shard for shard in task.request.shards}
        for number, part in enumerate(task.unit.parts):
            _ingest_shard(task, store, shards[part], classes)
            task.progress(number + 1, len(task.unit.parts), of="shards")


def _ingest_shard(task: Task[requests.Ingest], store: Store, shard: requests.Shard, classes: list[str] | None) -> None:
    request = task.request
    samples: list[Row] = []
    failures: list[dict[str, Any]] = []
    digest, size, etag, seen = None, 0, "", 0

    def fail(key: str | None, reason: str) -> None:
        what = {"key": _text(key), "stage": "ingest", "reason": _text(reason)}
        failures.append({"dataset": request.name, "shard": shard.path, **what})

    if shard.size is None:
        fail(None, f"no such shard: {shard.uri}")
    else:
        local = task.scratch / "shard.tar"
        etag = store.head(shard.uri).etag  # not that of the listing: it has to be of the bytes that are read
        store.download(shard.uri, local, etag)
        digest, size = _sha256(local), local.stat().st_size
        seen = _read(local, request.name, shard.path, classes, samples, fail)
        local.unlink()
    of_shard = sum(failure["key"] is None for failure in failures)
    lost = max(0, _recorded(store, request, shard) - seen)
    for _ in range(lost):
        fail(None, "img2dataset recorded more samples than there are in the shard")
    listed = seen + lost + of_shard
    if listed != len(samples) + len(failures):
        raise SimgapError(
            f"{request.name}/{shard.path}: {listed:,} listed, but {len(samples):,} done and {len(failures):,} failed"
        )
    row = {
        "dataset": request.name, "role": request.role, "shard": shard.path, "uri": shard.uri, "bytes": size, "sha256": digest,
        "etag": etag, "listed": listed, "done": len(samples), "failed": len(failures),
    }  # fmt: skip
    task.write("samples", schema.rows("samples", map(asdict, samples)))
    task.write("failures", schema.rows("failures", failures))
    task.write("shards", schema.rows("shards", [row]))
    task.count(listed=listed, done=len(samples), failed=len(failures))


def _read(local: Path, dataset: str, shard: str, classes: list[str] | None, samples: list[Row], fail) -> int:  # noqa: ANN001
    """Adds what can be used to `samples`, calls `fail` for the rest, and returns how many samples there were."""
    first, keys, seen = first_sample_id(dataset, shard), set(), 0
    try:
        with local.open("rb") as file:
            for sample in read_samples(file):
                seen = sample.position + 1
                if sample.position >> POSITION_BITS:
                    raise SimgapError(f"{dataset}/{shard}: more than {1 << POSITION_BITS:,} samples; split the shard")
                try:
                    if sample.key in keys:
                        raise Unusable(
                            "duplicate key: another sample of this shard has it, or its members do not follow each other"
                        )
                    samples.append(_row(sample, dataset, first, shard, classes))
                except Unusable as why:
                    fail(sample.key, str(why))
                keys.add(sample.key)
    except BrokenShard as why:
        fail(None, f"truncated or damaged shard, read up to its last whole sample: {why}")
    return seen


def _row(sample: Sample, dataset: str, first: int, shard: str, classes: list[str] | None) -> Row:
    if sample.key != _text(sample.key):
        raise Unusable("its name is not UTF-8")
    image, about = sample.image, _about(sample)
    if image is None:
        raise Unusable("no image")
    width_px, height_px = _decoded_size(image)
    label = _label(sample, classes)
    return Row(
        dataset=dataset, sample_id=first + sample.position, shard=shard, key=sample.key,
        caption=classes[label] if classes is not None and label is not None else _caption(sample), label=label,
        width_px=width_px, height_px=height_px, sha256=sha256(image).hexdigest(),
        source=_text(about.get("source")) or dataset, licence=_text(about.get("licence") or about.get("license")),
    )  # fmt: skip


def _decoded_size(image: bytes) -> tuple[int, int]:
    """Width and height, px, of an image that decodes to its last row, and that is no danger to later stages' memory."""
    try:
        with (
            warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning),
            Image.open(io.BytesIO(image)) as opened,
        ):
            _refuse_narrow(*opened.size)
            opened.load()
            if opened.mode[0] in "IF":
                raise Unusable("grey of more than 8 bits, which open_clip's own reader turns white")
            opened.convert("RGB")
            return opened.size
    except (Unusable, MemoryError):
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise Unusable(f"too large: {error}") from error
    except Exception as error:  # a damaged image makes a decoder raise anything
        what = type(error).__name__ if isinstance(error, UnidentifiedImageError) else str(error)[:120]
        raise Unusable(f"the image does not decode: {what}") from error


def _refuse_narrow(width_px: int, height_px: int) -> None:
    """Models' transforms scale an image's shorter side to their input, and the longer one with it."""
    short, long = sorted((width_px, height_px))
    if long * LARGEST_INPUT_PX**2 > short * (Image.MAX_IMAGE_PIXELS or 0):
        raise Unusable(
            f"too narrow: {width_px:,} x {height_px:,} px, which a model of {LARGEST_INPUT_PX} px would scale to more than"
            f" {Image.MAX_IMAGE_PIXELS:,} px in all"
        )


def _caption(sample: Sample) -> str:
    if "txt" not in sample.parts:
        raise Unusable("no caption")
    try:
        return sample.parts["txt"].decode()
    except UnicodeDecodeError as error:
        raise Unusable("the caption is not UTF-8") from error


def _label(sample: Sample, classes: list[str] | None) -> int | None:
    """A test sample's class, which has to be one of classnames.txt; other samples may have none."""
    given = sample.parts.get("cls", b"").strip()
    if classes is None:
        return int(given) if given.isdigit() and len(given) < 19 else None
    if not given.isdigit() or len(given) >= 19 or int(given) >= len(classes):
        raise Unusable(
            f"unknown label {given[:40].decode(errors='replace')!r}: classnames.txt has {len(classes)} classes"
        )
    return int(given)


def _about(sample: Sample) -> dict[str, Any]:
    try:
        about = json.loads(sample.parts.get("json", b"{}"), parse_constant=lambda _: None)  # NaN is nothing
    except (ValueError, RecursionError) as error:
        raise Unusable("its .json is not JSON") from error
    return about if isinstance(about, dict) else {}


def _text(value: object) -> str | None:
    """A value as text that can be stored: half a character, of a name or from JSON, becomes a question mark."""
    return None if value is None else str(value).encode(errors="replace").decode()


def _recorded(store: Store, request: requests.Ingest, shard: requests.Shard) -> int:
    """The samples that img2dataset says it put into a shard; 0 where it left no record."""
    record = shard.path.removesuffix(".tar") + "_stats.json"
    found = next((r for r in request.records if r.path == record), None)
    if found is None:
        return 0
    try:
        return int(json.loads(store.get(found.uri))["successes"])
    except (ValueError, TypeError, KeyError) as error:
        raise SimgapError(f"{store.url(found.uri)}: not img2dataset's record of a shard: {error!r}") from error


def _attach_labels(task: Task[requests.Ingest], store: Store) -> list[str] | None:
    """A test set's class names, one a line; its files become the run's own. None for other data sets."""
    if task.request.role != "test":
        return None
    texts: dict[str, str] = {}
    for file in task.request.labels:
        local = task.scratch / file.path
        store.download(file.uri, local)
        try:
            texts[file.path] = local.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise SimgapError(f"{store.url(file.uri)}: not UTF-8: {error}") from error
        task.attach(file.path, local)
    return texts["classnames.txt"].splitlines()


def _refuse_clashes(request: requests.Ingest) -> None:
    seen: dict[int, str] = {}
    for shard in request.shards:
        first = first_sample_id(request.name, shard.path)
        if first in seen:
            raise SimgapError(f"{request.name}: {seen[first]} and {shard.path} would share sample ids; rename one")
        seen[first] = shard.path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
