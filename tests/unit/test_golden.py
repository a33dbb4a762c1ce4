"""What each stage makes of a small input, held against golden.json: it changes only together with the stage's revision.

report is not here: what it makes is for people. fetch, embed, train, register and evaluate are held by what does not depend on the
machine.
"""

import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from making import AUDIT, NOTHING, committed, put_data, run_study, unit_vectors, vector_rows

from simgap import runs, study, worker
from simgap.request import Input, canonical_json
from simgap.requests import BY_STAGE, Control, Evaluate, Fetch, Register, Score, Tower, Train
from simgap.shards import read_samples
from simgap.stages.images import shards_of
from simgap.store import Store
from simgap.study import Compare, Training
from simgap.task import Task

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text())
ON_MACHINES = ("vector", "predicted", "label_rank", "top5", "correct", "loss", "images_per_second")
ICONS = Path(__file__).parent.parent / "data" / "icons"


def test_every_stage_is_held_or_said_not_to_be():
    assert {*GOLDEN, "report"} == set(BY_STAGE)


@pytest.mark.parametrize("stage", GOLDEN)
def test_what_a_stage_makes_changes_only_with_its_revision(made, stage):
    then, now = GOLDEN[stage], {"revision": BY_STAGE[stage].revision, "content": made[stage]}
    changed = {name for name in now if then[name] != now[name]}
    said = f"{stage} makes {'something else' if 'content' in changed else 'what it made'}"
    assert changed != {"content"}, f"{said}: raise its `revision` in simgap/requests.py, then run this again"
    assert changed != {"revision"}, f"{said}: its `revision` need not be raised"
    assert not changed, f'{said}: put into tests/unit/golden.json: "{stage}": {json.dumps(now)}'


@pytest.fixture(scope="module")
def made(tmp_path_factory, weights) -> dict[str, str]:
    """A checksum by stage."""
    folder = tmp_path_factory.mktemp("golden")
    store, file = Store(f"file://{folder}/store"), folder / "audit.toml"
    put_data(store)
    file.write_text(AUDIT.replace("WEIGHTS", str(weights)))
    with pytest.MonkeyPatch.context() as patch:
        known = worker.stage_function
        patch.setattr(worker, "stage_function", lambda stage: embed_by_hand if stage == "embed" else known(stage))
        roles = run_study(store, file).roles
    contents = {
        stage: checksum({r: content(store, run) for r, run in roles.items() if r.split("/")[0] == stage})
        for stage in GOLDEN
    }
    embed = worker.load_request(store, roles["embed/a"]).model_copy(update={"name": "by-machine"})
    evaluate = evaluation(store, runs.load(store, roles["ingest/t1"]).as_input(), weights)
    trained = done(store, training(runs.load(store, roles["split/pruned"]), store, roles))
    return contents | {
        "fetch": checksum(drawn(store, done(store, icons()))),
        "train": checksum({table: rows(store, trained, table) for table in trained.tables}),
        "register": checksum(rows(store, done(store, registration(weights)), "checkpoints")),
        "embed": checksum(rows(store, done(store, embed), "embeddings")),
        "evaluate": checksum(rows(store, done(store, evaluate), "predictions")),
        "score": checksum({t: rows(store, run, t) for run in [done(store, scoring(store))] for t in run.tables}),
    }


def embed_by_hand(tasks: list[Task], store: Store) -> None:
    """Vectors that are the same on every machine."""
    for task in tasks:
        for shard in shards_of(store, task.request.samples, task.unit.parts):
            count = len(shard.sample_ids)
            values = unit_vectors(count, f"{shard.dataset}/{shard.shard}")
            task.write("embeddings", vector_rows(shard.dataset, np.array(shard.sample_ids), values))
            task.count(listed=count, done=count)


def icons() -> Fetch:
    sets = study.Fetch(
        package=str(ICONS),
        size_px=16,
        images={"emoji": ["twemoji"]},
        tests={"v2": "noto-v1"},
        concepts=["noto", "noto-v1"],
    )
    return Fetch(name="icons", icons=sets)


def drawn(store: Store, run: runs.Run) -> dict[str, object]:
    """A tar by its samples' texts, since pixels may depend on the machine; other files as they are."""
    return {name: texts(store, file.path) if name.endswith(".tar") else file.sha256 for name, file in run.files.items()}


def texts(store: Store, path: str) -> list:
    with store.reader(path) as tar:
        return [[s.key, {n: d.decode() for n, d in s.parts.items() if n != "png"}] for s in read_samples(tar)]


def training(split: runs.Run, store: Store, roles: dict[str, str]) -> Train:
    settings = Training(model="test-tower", samples_seen=64, epochs=2, batch_size=8, learning_rate=1e-3, warmup_steps=1)
    samples = [runs.load(store, roles[f"ingest/{name}"]).as_input() for name in ("a", "b", "ref")]
    return Train(name="t-0", split=split.as_input(), split_name="pruned", samples=samples, training=settings, seed=0)


def registration(weights: Path) -> Register:
    return Register(
        name="ours", weights=Tower(name="ours", model="test-tower", pretrained=str(weights), sha256="known")
    )


def evaluation(store: Store, samples: Input, weights: Path) -> Evaluate:
    settings = Training(model="test-tower", samples_seen=1, epochs=1, batch_size=1, learning_rate=1, warmup_steps=0)
    trained = Train(name="x", split=NOTHING, split_name="x", samples=[], training=settings, seed=0)
    return Evaluate(
        name="x-t1", checkpoint=committed(store, trained, {}, final__pt=weights), checkpoint_name="x-0", model="test-tower",
        test_set="t1", samples=samples, protocol="zero_shot",
    )  # fmt: skip


def scoring(store: Store) -> Score:
    """Scores of four splits, each right on other queries."""
    splits = ["everything", "alone", "pruned", "random"]
    ranks = {split: (np.arange(60) * (n + 3)) % 11 + 1 for n, split in enumerate(splits)}
    predictions = [
        {
            "checkpoint": f"{split}-0", "test_set": "t1", "protocol": "zero_shot", "query_id": query, "label": query % 6,
            "predicted": 0, "label_rank": int(rank), "top5": [0], "correct": rank == 1,
        }
        for split in splits for query, rank in enumerate(ranks[split])
    ]  # fmt: skip
    checkpoints = [
        {"checkpoint": f"{s}-0", "split": s, "seed": 0, "model": "m", "epochs": 1, "samples_seen": 1, "uri": "x"}
        for s in splits
    ]
    trained = Train(
        name="scored", split=NOTHING, split_name="x", samples=[], seed=1,
        training=Training(model="m", samples_seen=1, epochs=1, batch_size=1, learning_rate=1, warmup_steps=0),
    )  # fmt: skip
    source = committed(
        store,
        trained,
        {"predictions": [pa.Table.from_pylist(predictions)], "checkpoints": [pa.Table.from_pylist(checkpoints)]},
    )
    return Score(
        name="s", predictions=[source], checkpoints=[source], compare=[Compare(split="pruned", **{"with": "random"})],
        controls=[Control(pruned="pruned", control="random")], everything="everything", reference="alone", resamples=100, seed=0,
    )  # fmt: skip


def done(store: Store, request) -> runs.Run:
    runs.begin(store, request)
    return worker.do_run(store, request.path)


def content(store: Store, run: str) -> str:
    return runs.load(store, run).content


def rows(store: Store, run: runs.Run, table: str) -> list[dict]:
    """A run's rows, without what depends on the machine, numbers to nine digits."""
    return [
        {
            name: float(f"{value:.9g}") if isinstance(value, float) else value
            for name, value in row.items()
            if name not in ON_MACHINES
        }
        for row in runs.read(store, run.run, table).to_pylist()
    ]


def checksum(value: object) -> str:
    return sha256(canonical_json(value)).hexdigest()[:16]
