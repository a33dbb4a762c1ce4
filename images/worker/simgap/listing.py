"""Where a data set's shards lie: a folder, a pattern, or numbered names, in any store or in what a fetch run made."""

import fnmatch

from braceexpand import braceexpand

from simgap import runs
from simgap.errors import SimgapError
from simgap.requests import Shard
from simgap.store import Store
from simgap.study import Data

FETCHED = "fetch://"
RECORD = "_stats.json"
"""How img2dataset's record of a shard ends."""


def files(store: Store, data: Data, roles: dict[str, str]) -> dict[str, Shard]:
    """All files in a data set's folder, by their path in it."""
    folder = _folder(data)
    if data.shards.startswith(FETCHED):
        name, _, folder = folder.removeprefix(FETCHED).partition("/")
        made = runs.load(store, roles[f"fetch/{name}"]).files
        found = [Shard(path=n, uri=f.path, size=f.bytes, sha256=f.sha256) for n, f in sorted(made.items())]
    else:
        found = [Shard(path=e.path, uri=e.path, size=e.size, etag=e.etag) for e in store.list(folder)]
    inside = f"{folder}/" if folder else ""
    return {
        path: file.model_copy(update={"path": path})
        for file in found
        if file.path.startswith(inside) and (path := file.path.removeprefix(inside))
    }


def shards(store: Store, data: Data, there: dict[str, Shard]) -> list[Shard]:
    """The tars that `shards` names. One that is not there, though its number or img2dataset's record of it says that it
    should be, is listed without a size: a missing shard."""
    pattern = data.shards.removeprefix(_folder(data)).lstrip("/") or _all_of(store, there)
    recorded = {path.removesuffix(RECORD) + ".tar" for path in there if path.endswith(RECORD)}
    chosen: dict[str, Shard] = {}
    for name in braceexpand(pattern):
        for path in fnmatch.filter({*there, *recorded}, name) if "*" in name else [name]:
            chosen[path] = there.get(path) or Shard(path=path, uri=f"{_folder(data)}/{path}", size=None)
    return [file for path, file in sorted(chosen.items()) if path.endswith(".tar")]


def _all_of(store: Store, there: dict[str, Shard]) -> str:
    """A folder's shards: all its tars, or in CLIP_benchmark's format its test split's, as many as nshards.txt says."""
    if (counted := there.get("test/nshards.txt")) is None:
        return "*.tar"
    told = store.get(counted.uri).decode(errors="replace").strip()
    if not told.isdecimal() or int(told) < 1:
        raise SimgapError(f"{store.url(counted.uri)}: has to hold the number of shards, not {told!r}")
    return f"test/{{0..{int(told) - 1}}}.tar"


def _folder(data: Data) -> str:
    """The part of `shards` before its first wildcard, up to the last slash; all of it where it has none."""
    marks = [data.shards.index(mark) for mark in "*{" if mark in data.shards]
    return data.shards[: min(marks)].rpartition("/")[0] if marks else data.shards.removesuffix("/")
