"""The run protocol: what is done counts once, what is half done counts never."""

import os
import random
import signal
import string
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from making import pair, tar

from simgap import cli, requests, runs, worker
from simgap.errors import SimgapError
from simgap.request import Input, Request, Unit, cut
from simgap.requests import Ingest, Shard
from simgap.store import Store
from simgap.task import Task


class Toy(Request):
    """Squares of numbers, a part each; the last unit adds them up."""

    stage, revision = "toy", 1
    numbers: list[int]
    reduces: bool = True

    def units(self, store: Store, coarser: int = 1) -> list[Unit]:
        units = cut({str(n): 1 for n in self.numbers}, PARTS_A_UNIT * coarser)
        return [*units, Unit(number=len(units), reduce=True)] if self.reduces else units


PARTS_A_UNIT = 2


def square(tasks: list[Task], store: Store) -> None:
    for task in tasks:
        if task.unit.reduce:
            total = sum(sum(part["square"].to_pylist()) for part in task.partials("_squares"))
            task.write("sums", pa.table({"sum": [total]}))
            continue
        for part in task.unit.parts:
            rows = pa.table({"number": [int(part)], "square": [int(part) ** 2], "images_per_second": [random.random()]})
            task.write("squares", rows)
            task.write("_squares", rows)
            task.count(listed=1, done=1)


@pytest.fixture
def does(monkeypatch) -> Callable:
    """Says what stage `toy` does: at first `square`."""

    def become(stage: Callable[[list[Task], Store], None]) -> None:
        monkeypatch.setattr(worker, "stage_function", lambda name: stage)

    monkeypatch.setitem(requests.BY_STAGE, "toy", Toy)
    become(square)
    return become


@pytest.fixture
def toy(store, does) -> Toy:
    request = Toy(name="t", numbers=[3, 1, 4, 1 + 4, 9])
    runs.begin(store, request)
    return request


def done(store: Store, path: str) -> list[int]:
    return [unit.number for unit in runs.units(store, path) if runs.manifest(store, path, unit)]


def test_a_run_is_done_unit_by_unit_then_reduced_then_committed(store, toy):
    assert [unit.parts for unit in runs.units(store, toy.path)] == [("3", "1"), ("4", "5"), ("9",), ()]
    worker.do_unit(store, [toy.path], 1)
    assert done(store, toy.path) == [1]
    run = worker.do_run(store, toy.path)
    assert runs.read(store, run.run, "sums").to_pylist() == [{"sum": 9 + 1 + 16 + 25 + 81}]
    assert runs.read(store, run.run, "squares", ["number"])["number"].to_pylist() == [3, 1, 4, 5, 9]
    assert (run.counts.listed, run.counts.done, run.counts.failed) == (5, 5, 0)
    assert "_squares" not in run.tables


def test_a_unit_done_again_does_nothing(store, toy, does):
    worker.do_unit(store, [toy.path], 0)
    does(lambda tasks, store: pytest.fail("done again"))
    worker.do_unit(store, [toy.path], 0)


def test_of_two_tries_the_first_to_write_its_manifest_counts_and_the_second_ends_well(store, toy):
    tries = [Task(toy, runs.units(store, toy.path)[0], store) for _ in range(2)]
    for number, task in enumerate(tries):
        task.write("squares", pa.table({"try": [number]}))
    assert tries[1].finish() is True
    assert tries[0].finish() is False
    [unit] = [m for u in runs.units(store, toy.path) if (m := runs.manifest(store, toy.path, u))]
    assert runs.read_file(store, unit.tables["squares"].path).to_pylist() == [{"try": 1}]


def test_a_run_lacking_a_unit_is_not_committed(store, toy):
    worker.do_unit(store, [toy.path], 0)
    with pytest.raises(SimgapError, match=rf"unit 1 is not done; `simgap run {toy.path} --unit 1` does it"):
        runs.commit(store, toy, {})
    assert runs.find(store, toy.path) is None


def test_a_run_that_lost_samples_is_not_committed(store, toy, does):
    def lossy(tasks, store):
        square(tasks, store)
        tasks[0].count(listed=1)

    does(lossy)
    with pytest.raises(
        SimgapError, match=r"9 listed, but 5 done and 0 failed: samples are lost; nothing was committed"
    ):
        worker.do_run(store, toy.path)
    assert runs.find(store, toy.path) is None


def test_units_of_different_devices_are_not_put_together_where_that_matters(store, toy, does, monkeypatch):
    def on(device):
        def work(tasks, store):
            square(tasks, store)
            tasks[0].note(device=device)

        return work

    does(on("cpu"))
    worker.do_unit(store, [toy.path], 0)
    does(on("gpu"))
    monkeypatch.setattr(Toy, "one_device", True)
    with pytest.raises(SimgapError, match=r"on different devices \(cpu, gpu\), whose numbers differ; remove "):
        worker.do_run(store, toy.path)
    monkeypatch.setattr(Toy, "one_device", False)
    assert worker.do_run(store, toy.path).counts.done == 5


def test_committing_twice_is_committing_once(store, toy):
    first = worker.do_run(store, toy.path)
    before = store.get(f"{toy.path}/run.json")
    assert runs.commit(Store(store.root), toy, {"dag_id": "another"}) == first
    assert store.get(f"{toy.path}/run.json") == before


def test_the_content_does_not_depend_on_the_cut_the_order_or_how_fast_it_was(tmp_path, does, monkeypatch):
    contents, sums = set(), set()
    for parts_a_unit in (1, 2, 5):
        monkeypatch.setattr(sys.modules[__name__], "PARTS_A_UNIT", parts_a_unit)
        store, toy = Store(f"file://{tmp_path}/{parts_a_unit}"), Toy(name="t", numbers=[3, 1, 4, 5, 9])
        runs.begin(store, toy)
        for unit in reversed(runs.units(store, toy.path)[:-1]):
            worker.do_unit(store, [toy.path], unit.number)
        run = runs.commit(store, toy, {})
        contents.add(run.content)
        sums.add(tuple(part.sha256 for part in run.tables["squares"]))
    assert len(contents) == 1
    assert len(sums) == 3  # the files do differ


def test_the_content_depends_on_the_rows_and_on_the_files(store, tmp_path, does):
    contents = set()
    for number, (rows, file) in enumerate([([1, 2], b"x"), ([2, 1], b"x"), ([1, 2], b"y"), ([1], b"x")]):
        (tmp_path / "file").write_bytes(file)

        def write(tasks, store, rows=rows):
            tasks[0].write("squares", pa.table({"square": rows}))
            tasks[0].attach("a/file", tmp_path / "file")

        does(write)
        toy = Toy(name=str(number), numbers=[1], reduces=False)
        runs.begin(store, toy)
        run = worker.do_run(store, toy.path)
        assert store.get(runs.files(store, run.run)["a/file"]) == file
        contents.add(run.content)
    assert len(contents) == 4


def test_places_and_speeds_are_no_part_of_the_content():
    from simgap.task import checksum

    told = [
        {"uri": uri, "etag": etag, "images_per_second": speed}
        for uri, etag, speed in (("a", "1", 2.0), ("b", "2", 3.0))
    ]
    tables = [pa.Table.from_pylist([{"shard": "0.tar", **place}]) for place in told]
    assert checksum(tables[0]) == checksum(tables[1])


def test_a_reduce_unit_is_not_done_before_the_others(store, toy):
    worker.do_unit(store, [toy.path], 0)
    with pytest.raises(SimgapError, match=r"unit 3 puts the others together, and some of them are not done yet"):
        worker.do_unit(store, [toy.path], 3)
    assert done(store, toy.path) == [0]


def test_a_unit_that_a_run_does_not_have_is_refused(store, toy):
    with pytest.raises(SimgapError, match=r"has no unit 7; its units are 0 to 3"):
        worker.do_unit(store, [toy.path], 7)


def test_two_processes_that_finish_at_once_reduce_once(store, toy, does):
    worker.do_unit(store, [toy.path], 0)
    both = threading.Barrier(2, timeout=20)

    def together(tasks, store):
        square(tasks, store)
        if not tasks[0].unit.reduce:
            both.wait()

    does(together)
    threads = [threading.Thread(target=worker.do_unit, args=(Store(store.root), [toy.path], n)) for n in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done(store, toy.path) == [0, 1, 2, 3]
    run = runs.commit(store, toy, {})
    assert runs.read(store, run.run, "sums").to_pylist() == [{"sum": 132}]


def test_while_one_process_reduces_another_may_too_and_one_counts(store, toy, does):
    other, nested = Store(store.root), []

    def slow(tasks, _):
        square(tasks, store)
        if tasks[0].unit.reduce and not nested:
            nested.append(True)
            worker.do_unit(other, [toy.path], 0)

    does(slow)
    run = worker.do_run(store, toy.path)
    assert nested
    assert runs.read(store, run.run, "sums").to_pylist() == [{"sum": 132}]
    assert len(run.tables["sums"]) == 1


def test_several_runs_given_together_are_done_by_what_they_share(store, does):
    calls = []

    class Sharing(Toy):
        def shares(self) -> str:
            return self.name[0]

    requests.BY_STAGE["toy"] = Sharing
    asked = [Sharing(name=name, numbers=[n], reduces=False) for n, name in enumerate(["a1", "b1", "a2"])]
    does(lambda tasks, store: calls.append([task.request.name for task in tasks]))
    for request in asked:
        runs.begin(store, request)
    worker.do_unit(store, [request.path for request in asked], 0)
    assert calls == [["a1", "a2"], ["b1"]]


def test_of_runs_given_together_one_that_fails_does_not_hold_the_others_back(store, does):
    class Together(Toy):
        def shares(self) -> str:
            return "all"

    def fails_on_zero(tasks, store):
        for task in tasks:
            if task.request.numbers == [0]:
                raise SimgapError(f"{task.request.name}: has a zero")
        square(tasks, store)

    requests.BY_STAGE["toy"] = Together
    asked = [Together(name=name, numbers=[n], reduces=False) for name, n in [("a", 1), ("b", 0), ("c", 2), ("d", 0)]]
    does(fails_on_zero)
    for request in asked:
        runs.begin(store, request)
    with pytest.raises(SimgapError, match=r"^b: has a zero\nd: has a zero$"):
        worker.do_unit(store, [request.path for request in asked], 0)
    assert [not runs.missing_units(store, request.path) for request in asked] == [True, False, True, False]


class Stopped(Exception):
    pass


def test_what_a_stopped_try_left_is_never_taken_for_a_run(store, toy, does, monkeypatch):
    def stop(tasks, store):
        square(tasks, store)
        raise Stopped

    does(stop)
    with pytest.raises(Stopped):
        worker.do_unit(store, [toy.path], 0)
    does(square)
    with monkeypatch.context() as between_upload_and_manifest:
        between_upload_and_manifest.setattr(Store, "create", lambda *_: (_ for _ in ()).throw(Stopped()))
        with pytest.raises(Stopped):
            worker.do_unit(store, [toy.path], 0)
    assert [entry.path for entry in store.list(f"{toy.path}/units")]  # something was uploaded
    assert done(store, toy.path) == []
    run = worker.do_run(store, toy.path)
    assert runs.read(store, run.run, "squares")["number"].to_pylist() == [3, 1, 4, 5, 9]


def test_scratch_is_private_and_goes(store, toy, does):
    seen = []
    does(lambda tasks, store: (seen.append(tasks[0].scratch), square(tasks, store)))
    worker.do_unit(store, [toy.path], 0)
    worker.do_unit(store, [toy.path], 1)
    assert len({*seen}) == len(seen) and not any(folder.exists() for folder in seen)


def test_kept_files_survive_a_stopped_try(store, toy, does, tmp_path):
    (tmp_path / "c").write_bytes(b"checkpoint")

    def stop(tasks, store):
        tasks[0].keep("epoch_1.pt", tmp_path / "c")
        raise Stopped

    does(stop)
    with pytest.raises(Stopped):
        worker.do_unit(store, [toy.path], 0)
    next_try = Task(toy, runs.units(store, toy.path)[0], store)
    assert next_try.kept() == ["epoch_1.pt"]
    next_try.fetch_kept("epoch_1.pt", tmp_path / "d")
    assert (tmp_path / "d").read_bytes() == b"checkpoint"


def test_a_request_that_was_begun_keeps_its_cut(store, toy, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "PARTS_A_UNIT", 5)
    runs.begin(store, toy)
    assert len(runs.units(store, toy.path)) == 4


def test_a_request_whose_cut_was_not_written_gets_it(store, toy):
    store.delete(f"{toy.path}/units.json")
    runs.begin(store, toy)
    assert len(runs.units(store, toy.path)) == 4


@pytest.mark.parametrize(
    ("tamper", "told"),
    [
        (b'"revision": 1', r"asks for toy revision 7, which this version does not do"),
        (b'"stage": "toy"', r"asks for tay revision 1, which this version does not do"),
        (b'"numbers": [', r"request\.json was changed by hand: it belongs to runs/toy/t-"),
        (b'"numbers"', r"request\.json is none of this version's: "),
    ],
)
def test_a_request_of_another_version_or_hand_is_refused(store, toy, tamper, told):
    replaced = {
        b'"revision": 1': b'"revision": 7', b'"stage": "toy"': b'"stage": "tay"', b'"numbers": [': b'"numbers": [8, ',
        b'"numbers"': b'"digits"',
    }  # fmt: skip
    path = f"{toy.path}/request.json"
    assert tamper in store.get(path)
    store.put(path, store.get(path).replace(tamper, replaced[tamper]))
    with pytest.raises(SimgapError, match=told):
        worker.do_run(store, toy.path)


def test_a_folder_without_a_request_is_refused(store):
    with pytest.raises(SimgapError, match=r"runs/x/y: no request.json there; give a run's folder"):
        worker.do_run(store, "runs/x/y")


def test_an_input_that_does_not_exist_is_named(store):
    with pytest.raises(SimgapError, match=r"runs/embed/a-1/run.json: no such object"):
        runs.read(store, Input(run="runs/embed/a-1", content="c"), "embeddings")


# With real stages and processes


def begun_ingest(store: Store, shards: int = 2, caption: str = "") -> Ingest:
    """An ingest of small shards that lie beside the store."""
    folder = Path(store.root.removeprefix("file://")).parent / "data"
    folder.mkdir()
    for shard in range(shards):
        members = [*pair("0001", shard), ("0002.png", pair("", shard)[0][1]), ("0002.txt", caption.encode())]
        (folder / f"{shard:05d}.tar").write_bytes(tar(members))
    found = [
        Shard(path=e.path.rpartition("/")[2], uri=e.path, size=e.size, etag=e.etag)
        for e in store.list(f"file://{folder}")
    ]
    request = Ingest(name="a", role="pool", shards=found)
    runs.begin(store, request)
    return request


def process(store: Store, *args: str) -> subprocess.Popen:
    environment = {**os.environ, "SIMGAP_STORE": store.root}
    return subprocess.Popen(
        [sys.executable, "-m", "simgap", "run", *args], env=environment, stdout=subprocess.PIPE, text=True
    )


def test_a_killed_process_leaves_no_run_and_the_next_one_makes_the_same(store, tmp_path):
    request = begun_ingest(store, shards=60)
    killed = process(store, request.path)
    assert killed.stdout and killed.stdout.readline().startswith("progress ")
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    killed.stdout.close()
    assert done(store, request.path) == [] and runs.find(store, request.path) is None

    again = process(store, request.path)
    out, _ = again.communicate()
    assert again.returncode == 0 and f"{request.path}: committed, 120 done" in out
    untroubled = Store(f"file://{tmp_path}/other")
    runs.begin(untroubled, request)
    assert worker.do_run(untroubled, request.path).content == runs.load(Store(store.root), request.path).content


def simgap(capsys, store: Store, *args: str) -> tuple[int, str, str]:
    """The command line, in this process: exit code, output, errors."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIMGAP_STORE", store.root)
        patch.setattr(sys, "argv", ["simgap", *args])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_the_command_does_a_unit_or_all_and_then_costs_nothing(store, capsys):
    request = begun_ingest(store)
    assert simgap(capsys, store, "run", request.path, "--unit", "0")[0] == 0
    assert done(store, request.path) == [0] and runs.find(store, request.path) is None
    code, out, _ = simgap(capsys, store, "run", f"{request.path}/request.json")
    assert code == 0 and "committed, 4 done" in out
    before = store.list("runs")
    assert simgap(capsys, store, "run", request.path)[0] == 0
    assert store.list("runs") == before


def test_again_compares_and_leaves_the_run_as_it_is(store, capsys):
    request = begun_ingest(store)
    worker.do_run(store, request.path)
    before = store.list("runs")
    code, out, _ = simgap(capsys, store, "run", request.path, "--again")
    assert code == 0 and out.count("same") == 3  # samples, failures, shards
    assert store.list("runs") == before


def test_again_tells_what_differs_and_what_was_damaged(store, capsys):
    request = begun_ingest(store)
    run = worker.do_run(store, request.path)
    shard = Path(request.shards[0].uri.removeprefix("file://"))
    shard.write_bytes(tar(pair("0003", 3)))
    code, out, err = simgap(capsys, store, "run", request.path, "--again")
    assert code == 2 and "differs" in out and "same" in out  # there are still no failures
    assert err == "error: done again, it does not hold the same\n"
    store.put(run.tables["failures"][0].path, store.get(run.tables["samples"][0].path))
    assert "damaged" in simgap(capsys, store, "run", request.path, "--again")[1]


def test_again_tells_of_another_environment(store, toy, does, capsys):
    def with_threads(number):
        def work(tasks, store):
            square(tasks, store)
            tasks[0].note(threads=number, device="cpu")

        return work

    does(with_threads(1))
    worker.do_run(store, toy.path)
    does(with_threads(2))
    code, _, err = simgap(capsys, store, "run", toy.path, "--again")
    assert (code, err) == (0, f"{toy.path}: threads was 1, is 2\n")


def test_again_needs_a_committed_run(store, capsys):
    request = begun_ingest(store)
    code, _, err = simgap(capsys, store, "run", request.path, "--again")
    assert (code, err) == (2, f"error: {store.url(request.path)}/run.json: no such object\n")


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("full", ["store", "scratch"])
def test_a_full_disk_is_told_in_a_line_and_leaves_no_run(full, tmp_path, small_disk, capsys, monkeypatch):
    place = small_disk if full == "store" else tmp_path
    store = Store(f"file://{place}/store")
    data = Store(f"file://{tmp_path}/data-store")
    long = "".join(random.Random(0).choices(string.printable, k=200_000))
    request = begun_ingest(data, shards=1, caption=long)
    runs.begin(store, request)
    if full == "scratch":
        monkeypatch.setattr("tempfile.tempdir", str(small_disk))
    code, _, err = simgap(capsys, store, "run", request.path)
    assert code == 1
    assert len(err.splitlines()) == 1 and "No space left on device" in err
    assert str(small_disk) in err
    assert runs.find(store, request.path) is None and done(store, request.path) == []


def test_a_disk_that_fills_while_rows_are_written_is_told_in_a_line(store, toy, does, small_disk, monkeypatch):
    noise = pa.table({"square": [random.Random(0).randbytes(200_000)]})
    does(lambda tasks, store: [tasks[0].write("squares", noise) for _ in range(3)])
    monkeypatch.setattr("tempfile.tempdir", str(small_disk))
    with pytest.raises(SimgapError, match=rf"^{small_disk}/simgap-.*No space left on device"):
        worker.do_unit(store, [toy.path], 0)
    assert done(store, toy.path) == []


def test_a_store_that_cannot_be_written_is_told_in_a_line(tmp_path, capsys):
    store = Store(f"file://{tmp_path}/store")
    request = begun_ingest(store)
    units = tmp_path / "store" / request.path / "units"
    units.write_text("a file where a folder should be")
    code, _, err = simgap(capsys, store, "run", request.path)
    assert code == 1 and len(err.splitlines()) == 1 and f"{request.path}/units" in err


def test_stored_rows_are_parquet_with_a_row_group_a_shard(store):
    request = begun_ingest(store)
    [file] = worker.do_run(store, request.path).tables["samples"]
    with store.reader(file.path) as opened:
        assert pq.ParquetFile(opened).num_row_groups == 2
