"""The samples of a split as they stream into open_clip's training: original shards, filtered by membership.

An epoch is cut into parts, one for each data worker. `python -m simgap.stages.stream FOLDER EPOCH PART` writes one as
a tar: a process of its own, since a store's connections do not survive the fork that makes a data worker.
"""

import io
import json
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np

from simgap.errors import SimgapError
from simgap.kernels.order import Piece, pieces
from simgap.shards import IMAGE_SUFFIXES, BrokenShard, Sample, position_of, read_samples
from simgap.stages.images import as_ingested
from simgap.store import Store

ERROR = "error.txt"


@dataclass(frozen=True)
class Shard:
    """A shard that holds members of the split: `members` is their number; `etag` and `sha256` are as ingested."""

    uri: str
    etag: str
    sha256: str
    members: int


@dataclass(frozen=True)
class Plan:
    """A split cut into epochs and parts. `sample_ids`: int64 [members], shard after shard, ascending within each."""

    store: str
    shards: list[Shard]
    seed: int
    parts: int
    samples_a_part: int
    sample_ids: np.ndarray = field(repr=False)

    def save(self, folder: Path) -> None:
        np.save(folder / "sample_ids.npy", self.sample_ids)
        plan = {name: value for name, value in vars(self).items() if name not in ("sample_ids", "offsets")}
        (folder / "plan.json").write_text(json.dumps(plan | {"shards": [asdict(shard) for shard in self.shards]}))

    @classmethod
    def load(cls, folder: Path) -> "Plan":
        plan = json.loads((folder / "plan.json").read_text())
        shards = [Shard(**shard) for shard in plan.pop("shards")]
        return cls(shards=shards, sample_ids=np.load(folder / "sample_ids.npy", mmap_mode="r"), **plan)

    @cached_property
    def offsets(self) -> np.ndarray:
        """Where each shard's members begin in sample_ids."""
        return np.cumsum([0, *(shard.members for shard in self.shards)])

    @property
    def samples_an_epoch(self) -> int:
        return self.parts * self.samples_a_part

    def part(self, epoch: int, part: int) -> list[Piece]:
        start = (epoch * self.parts + part) * self.samples_a_part
        return pieces([shard.members for shard in self.shards], self.seed, start, start + self.samples_a_part)


def record_path(folder: Path, epoch: int, part: int) -> Path:
    """Where a part's yielded samples are written down: int64 indices into sample_ids, in their order."""
    return folder / f"yielded-{epoch}-{part}.npy"


def write_part(plan: Plan, folder: Path, epoch: int, part: int, out: BinaryIO) -> None:
    """Writes a part as a tar: for each sample `<index>.<image suffix>` and `<index>.txt`.

    What was yielded is on record before the archive's end goes out, so no reader sees its last sample earlier.
    Raises SimgapError when a shard changed, ends early, or lacks a member's image or caption.
    """
    store, yielded = Store(plan.store), []
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.USTAR_FORMAT) as tar:
        for piece in plan.part(epoch, part):
            for index, sample in read_piece(plan, store, piece):
                for name, data in _members(plan.shards[piece.shard].uri, sample):
                    info = tarfile.TarInfo(f"{index:012d}.{name}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
                yielded.append(index)
        np.save(record_path(folder, epoch, part), np.array(yielded, np.int64))


def read_piece(plan: Plan, store: Store, piece: Piece) -> Iterator[tuple[int, Sample]]:
    """The piece's samples, each with its index into sample_ids, in the shard's order."""
    shard, first = plan.shards[piece.shard], int(plan.offsets[piece.shard])
    wanted = {position_of(int(plan.sample_ids[first + n])): first + n for n in range(piece.start, piece.stop)}
    try:
        with as_ingested(store, shard.uri, shard.etag, shard.sha256) as file:
            for sample in read_samples(file):
                if sample.position in wanted:
                    yield wanted.pop(sample.position), sample
                if not wanted:
                    return
    except BrokenShard as error:
        raise SimgapError(f"{store.url(shard.uri)}: {len(wanted):,} samples of the split are lost: {error}") from error
    raise SimgapError(f"{store.url(shard.uri)}: ends before {len(wanted):,} samples of the split; ingest it again")


def _members(uri: str, sample: Sample) -> Iterator[tuple[str, bytes]]:
    suffix = next((suffix for suffix in IMAGE_SUFFIXES if suffix in sample.parts), None)
    if suffix is None or "txt" not in sample.parts:
        raise SimgapError(
            f"{uri}: sample {sample.key} has no {'caption' if suffix else 'image'}; leave it out of the split"
        )
    yield suffix, sample.parts[suffix]
    yield "txt", sample.parts["txt"]


def main(folder: Path, epoch: int, part: int) -> None:
    try:
        write_part(Plan.load(folder), folder, epoch, part, sys.stdout.buffer)
    except SimgapError as error:
        (folder / ERROR).write_text(str(error))
        sys.exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
