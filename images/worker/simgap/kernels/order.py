"""The order in which training goes through a split: pass after pass, without end, its shards shuffled anew for each."""

import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Piece:
    """A shard's members [start, stop), counted in the shard's own order."""

    shard: int
    start: int
    stop: int


def pieces(members: Sequence[int], seed: int, start: int, stop: int) -> list[Piece]:
    """What the stretch [start, stop) of the endless order holds; `members` are the shards' numbers of members.

    It follows from the seed alone, so any process can take any stretch. Stretches that follow each other hold each
    member as often as every other, give or take one.
    """
    size = sum(members)
    found = []
    for number in range(start // size, -(-stop // size)):
        begin = number * size
        for shard in _shuffled(len(members), f"{seed}/{number}"):
            first, last = max(start - begin, 0), min(stop - begin, members[shard])
            if first < last:
                found.append(Piece(shard, first, last))
            begin += members[shard]
    return found


def _shuffled(count: int, seed: str) -> list[int]:
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return order
