"""What tests are made of: drawings, tars, data sets, studies, and runs committed by hand."""

import io
import json
import random
import tarfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw

from simgap import dag_runs, flow, runs, schema, steps, worker
from simgap.request import Input, Request, Unit
from simgap.requests import Embed, Tower, Train
from simgap.store import Store
from simgap.study import Study, Training
from simgap.task import Task

SHAPES = ("circle", "square", "triangle")
COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220)}
CLASSES = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
NOTHING = Input(run="runs/none/at-all", content="nothing")
Members = list[tuple[str, bytes]]


def drawing(name: str, seed: int) -> bytes:
    """A PNG of one of CLASSES, 24 px wide."""
    rng, (colour, shape) = random.Random(f"{name} {seed}"), name.split()
    image = Image.new("RGB", (24, 24), "white")
    x, y, size = rng.randint(0, 8), rng.randint(0, 8), rng.randint(6, 14)
    draw, fill = ImageDraw.Draw(image), COLOURS[colour]
    if shape == "circle":
        draw.ellipse((x, y, x + size, y + size), fill)
    elif shape == "square":
        draw.rectangle((x, y, x + size, y + size), fill)
    else:
        draw.polygon([(x, y), (x + size, y), (x, y + size)], fill)
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=0)  # the same bytes with any zlib
    return out.getvalue()


def pair(key: str, seed: int = 0, *, source: str = "web") -> Members:
    """An image-caption sample as img2dataset writes it."""
    name = CLASSES[seed % len(CLASSES)]
    about = json.dumps({"source": source, "licence": "CC0-1.0"}).encode()
    return [(f"{key}.png", drawing(name, seed)), (f"{key}.txt", name.encode()), (f"{key}.json", about)]


def pairs(shard: int, count: int) -> Members:
    """The samples of a shard, of two sources."""
    return [m for n in range(count) for m in pair(f"{shard:05d}{n:04d}", 100 * shard + n, source="xy"[n % 2])]


def labelled(seeds: Iterable[int]) -> Members:
    """Test images, with their classes."""
    return [
        member
        for n, seed in enumerate(seeds)
        for member in (
            (f"s{n:07d}.png", drawing(CLASSES[seed % len(CLASSES)], seed)),
            (f"s{n:07d}.cls", b"%d" % (seed % len(CLASSES))),
        )
    ]


def tar(members: Members) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def put_pool(store: Store, folder: str, *shards: Members) -> None:
    """Shards 00000.tar, 00001.tar, ..."""
    for number, members in enumerate(shards):
        store.put(f"{folder}/{number:05d}.tar", tar(members))


def put_test_set(store: Store, folder: str, members: Members) -> None:
    """A folder in CLIP_benchmark's webdataset format."""
    store.put(f"{folder}/classnames.txt", "".join(f"{name}\n" for name in CLASSES).encode())
    store.put(f"{folder}/zeroshot_classification_templates.txt", b"a drawing of a {c}\n{c}\n")
    store.put(f"{folder}/test/nshards.txt", b"1")
    store.put(f"{folder}/test/0.tar", tar(members))


def put_data(store: Store) -> None:
    """Pool `a` (two shards) and `b`, reference `ref`, test sets `t1` and `t2`, which has a drawing of the pool."""
    put_pool(store, "a", pairs(0, 14), pairs(1, 10))
    put_pool(store, "b", pairs(2, 8))
    put_pool(store, "ref", pairs(5, 9))
    put_test_set(store, "t1", labelled(range(700, 712)))
    put_test_set(store, "t2", labelled([0, 1, 2, 801, 802, 803]))


AUDIT = """
name = "audit"
pool = [{ name = "a", shards = "a/*.tar" }, { name = "b", shards = "b" }]
reference = { name = "ref", shards = "ref" }
tests = [{ name = "t1", shards = "t1" }, { name = "t2", shards = "t2" }]
encoder = { model = "test-tower", pretrained = "WEIGHTS" }
search = { neighbours = 5 }
[splits]
everything = { rule = "all" }
alone = { rule = "none" }
t1-pruned = { rule = "prune", tests = ["t1"] }
pruned = { rule = "prune" }
pruned-bare = { rule = "prune", with_reference = false }
random = { rule = "random", like = "pruned", seed = 0 }
matched = { rule = "random", like = "pruned", match = ["source"], seed = 0 }
least = { rule = "keep_least_similar", count = 7, with_reference = false }
most = { rule = "keep_most_similar", count = 7, with_reference = false }
far = { rule = "threshold", above = 0.9 }
"""


@dataclass
class Made:
    """What going through a study did: its runs by role, and how many jobs each (stage, part) had."""

    resolved: str
    roles: dict[str, str] = field(default_factory=dict)
    jobs: dict[tuple[str, str | None], int] = field(default_factory=dict)

    @property
    def busy(self) -> dict[str, int]:
        """Jobs by stage, where there were any."""
        names = {f"{stage} {part}" if part else stage: jobs for (stage, part), jobs in self.jobs.items()}
        return {name: jobs for name, jobs in names.items() if jobs}


def run_study(store: Store, file: Path, dag_run: str = "manual__1", until: str | None = None, **form: list) -> Made:
    """Goes through a study's stages in this process and publishes it; or up to one of them."""
    made = Made(flow.resolve(store, file, dag_run, form))
    for stage, part in steps.STEPS:
        if stage == "report":  # an audit's report has its own tests
            break
        asked = {"dag_id": "study", "dag_run": dag_run, "task_id": stage}
        plan = flow.plan(store, made.resolved, stage, part, made.roles, asked)
        for job in plan["jobs"]:
            worker.do_unit(store, job["runs"], job["unit"])
        made.roles |= flow.commit(store, plan, asked)["runs"]
        made.jobs[stage, part] = len(plan["jobs"])
        if (stage, part) == (until, None):
            return made
    flow.publish(store, made.resolved, made.roles)
    return made


def committed(
    store: Store, request: Request, *units: Mapping[str, list[pa.Table]], dag_run: str = "", **files: Path
) -> Input:
    """A run made by hand: each of its units wrote these tables, a list of parts each; the files go by logical name."""
    numbered = [Unit(number=n) for n in range(len(units))]
    store.put(f"{request.path}/request.json", runs.pretty(request.document()))
    store.put(f"{request.path}/units.json", runs.pretty([unit.model_dump() for unit in numbered]))
    for unit, tables in zip(numbered, units, strict=True):
        task = Task(request, unit, store)
        for name, parts in tables.items():
            for part in parts:
                task.write(name, part)
        for name, path in files.items() if unit.number == 0 else ():
            task.attach(name.replace("__", "."), path)
        task.count(listed=1, done=1)
        task.finish()
        task.close()
    return runs.commit(store, request, {"dag_run": dag_run} if dag_run else {}).as_input()


def embedded(store: Store, name: str, *units: list[tuple[np.ndarray, np.ndarray]]) -> Input:
    """Embeddings made by hand: (sample ids int64 [n], vectors float16 [n, d]) of each shard of each unit."""
    request = Embed(name=name, samples=NOTHING, encoder=Tower(name="e", model="m", pretrained="p"))
    return committed(store, request, *({"embeddings": [vector_rows(name, *shard) for shard in unit]} for unit in units))


def vector_rows(dataset: str, ids: np.ndarray, vectors: np.ndarray) -> pa.Table:
    """Rows of table embeddings."""
    return pa.table(
        {
            "dataset": [dataset] * len(ids),
            "encoder": ["e"] * len(ids),
            "modality": ["image"] * len(ids),
            "sample_id": pa.array(ids, pa.int64()),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1]),
        }
    )


def unit_vectors(count: int, seed: int | str) -> np.ndarray:
    """Vectors float16 [count, 8], the same on every machine, with ties between them."""
    rng = random.Random(seed)
    rows = [[rng.choice((-1, 0, 1, 2)) for _ in range(7)] + [1] for _ in range(count)]
    return (np.array(rows, np.float64) / 4).astype(np.float16)


def wait_for(condition: Callable[[], object], seconds: float) -> None:
    """Returns when the condition holds; fails when that takes too long."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it took too long"
        time.sleep(0.1)


def put_trained_study(
    store: Store, name: str, weights: Mapping[str, Path], tests: Iterable[str], dag_run: str = "manual__1"
) -> None:
    """A finished study: checkpoints `<split>-0` of the model `tiny-test`, evaluated on test sets, folders of the store."""
    study = Study.model_validate(
        {
            "name": name, "pool": [{"name": "p", "shards": "p"}], "reference": {"name": "r", "shards": "r"},
            "tests": [{"name": test, "shards": test} for test in tests],
            "encoder": {"model": "tiny-test", "pretrained": "none"},
            "splits": {split: {"rule": "all"} for split in weights}, "train": {**TRAINING, "seeds": [0]},
        }
    )  # fmt: skip
    roles = {f"train/{split}-0": put_checkpoint(store, name, f"{split}-0", file) for split, file in weights.items()}
    for step in (_ingest_tests, steps.evaluate, steps.score):
        roles |= _do_step(store, step(study, steps.Known(store, roles)))
    resolved = f"studies/{name}/{dag_run}/study.json"
    dag_runs.begin(store, resolved, study)
    flow.publish(store, resolved, roles)


TRAINING = {
    "model": "tiny-test", "samples_seen": 1, "epochs": 1, "batch_size": 1, "learning_rate": 1, "warmup_steps": 0,
}  # fmt: skip


def put_checkpoint(store: Store, study: str, name: str, weights: Path) -> str:
    """A training's run made by hand; what it was trained on is the study's own."""
    split, _, seed = name.rpartition("-")
    made_by = Input(run="runs/none/at-all", content=study)
    training = Training.model_validate(TRAINING)
    request = Train(name=name, split=made_by, split_name=split, samples=[], training=training, seed=int(seed))
    row = {"checkpoint": name, "split": split, "seed": int(seed), "model": "tiny-test", "uri": "final.pt"}
    return committed(store, request, {"checkpoints": [schema.rows("checkpoints", [row])]}, final__pt=weights).run


def _ingest_tests(study: Study, known: steps.Known) -> steps.Requests:
    return {f"ingest/{test.name}": steps.ingest_of(test, "test", known) for test in study.tests}


def _do_step(store: Store, requests: steps.Requests) -> dict[str, str]:
    for request in requests.values():
        runs.begin(store, request)
        worker.do_run(store, request.path)
    return {role: request.path for role, request in requests.items()}
