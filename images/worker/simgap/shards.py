"""Webdataset tars: samples in order, with the position that makes their id; and nothing lost without a word."""

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import BinaryIO

IMAGE_SUFFIXES = ("jpg", "png", "jpeg", "webp")
"""The first of these that a sample has is its image, as in open_clip's reader."""
POSITION_BITS = 20
NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")
"""webdataset's own: key and suffix."""
REMARK = re.compile(r"__[^/]*__(/|$)")
"""What webdataset's writers say about the tar itself, in no sample."""
END_OF_ARCHIVE = bytes(1024)
LARGEST_MEMBER_BYTES = 1 << 30
"""No image or caption is larger; a header that says so is damaged, or a bomb of holes."""
BLOCK_BYTES = 1 << 20


class BrokenShard(Exception):
    """The tar ends early or is no tar; the samples before that point were whole."""


@dataclass
class Sample:
    """Consecutive members of one key: `parts` maps suffixes (lower case) to contents; `position` counts from 0."""

    position: int
    key: str
    parts: dict[str, bytes] = field(default_factory=dict)

    @property
    def image(self) -> bytes | None:
        return next((self.parts[suffix] for suffix in IMAGE_SUFFIXES if suffix in self.parts), None)


def first_sample_id(dataset: str, shard: str) -> int:
    """The id of position 0 in a shard: 43 bits of the hash of `dataset/shard`, then 20 zero bits."""
    digest = sha256(f"{dataset}/{shard}".encode()).digest()
    return int.from_bytes(digest[:8]) >> 21 << POSITION_BITS


def position_of(sample_id: int) -> int:
    return sample_id & ((1 << POSITION_BITS) - 1)


def read_samples(shard: BinaryIO) -> Iterator[Sample]:
    """The samples of a tar, streamed.

    Members are grouped as webdataset and open_clip group them: by the name up to the first dot of its last part, as
    long as they follow each other; a suffix that comes again begins a new sample. Raises BrokenShard, after the last
    whole sample, when the tar is damaged, lacks its end, or has more behind it, such as a second tar.
    """
    sample: Sample | None = None
    for name, data in _members(shard):
        if not (match := NAME.fullmatch(name)):
            continue  # as webdataset does with what has no suffix or is hidden
        key, suffix = match[1], match[2].lower()
        if sample is None or key != sample.key or suffix in sample.parts:
            if sample is not None:
                yield sample
            sample = Sample(sample.position + 1 if sample else 0, key)
        sample.parts[suffix] = data
    if sample is not None:
        yield sample
    _refuse_more(shard)


def _members(shard: BinaryIO) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(fileobj=shard, mode="r:") as tar:
            for member in tar:
                if not 0 <= member.size <= LARGEST_MEMBER_BYTES:  # tarfile goes back for a negative size, for ever
                    raise BrokenShard(f"{member.name} would have {member.size:,} bytes")
                if member.isfile() and not REMARK.match(member.name):
                    data = tar.extractfile(member).read()  # pyright: ignore[reportOptionalMemberAccess]
                    if len(data) != member.size:
                        raise BrokenShard(f"the shard ends within {member.name}")
                    yield member.name, data
                tar.members = []  # pyright: ignore[reportAttributeAccessIssue]  # tarfile remembers every member; a shard may have a million
            shard.seek(tar.offset)
    except (tarfile.TarError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        raise BrokenShard(f"not a whole tar: {error}") from error
    if shard.read(len(END_OF_ARCHIVE)) != END_OF_ARCHIVE:
        raise BrokenShard("the shard's end is missing")


def _refuse_more(shard: BinaryIO) -> None:
    """After a tar's end there is nothing but padding."""
    while block := shard.read(BLOCK_BYTES):
        if block.count(0) != len(block):
            raise BrokenShard("more lies behind the tar's end, where no reader looks: another tar, or garbage")
