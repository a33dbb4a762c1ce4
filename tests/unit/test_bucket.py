"""A bucket as the store, over the S3 protocol: what holds in a folder holds there."""

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from making import Made, put_data, run_study
from moto_bucket import served

from simgap import catalog, lineage
from simgap.errors import Changed, Missing, SimgapError
from simgap.store import Store


@pytest.fixture(scope="module")
def bucket() -> Iterator[Store]:
    with served("shards"):
        yield Store("s3://shards/of/simgap")


@pytest.fixture(scope="module")
def audited(bucket: Store, audit_file: Path) -> Made:
    put_data(bucket)
    return run_study(bucket, audit_file)


def test_objects_are_put_once_listed_and_read_in_parts(bucket: Store, tmp_path: Path) -> None:
    assert bucket.create("x/once", b"first") and not bucket.create("x/once", b"second")
    (tmp_path / "large").write_bytes(bytes(range(256)) * 50_000)  # more than is sent in one part
    bucket.upload("x/large", tmp_path / "large")
    assert [(entry.path, entry.size) for entry in bucket.list("x")] == [("x/large", 12_800_000), ("x/once", 5)]
    bucket.download("x/large", tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "large").read_bytes()
    with bucket.reader("x/large") as file:
        file.seek(2_000_001)
        assert file.read(3) == bytes([129, 130, 131])
    bucket.delete("x/once")
    with pytest.raises(Missing, match=r"^s3://shards/of/simgap/x/once: no such object$"):
        bucket.get("x/once")


def test_what_is_read_is_of_one_version(bucket: Store, tmp_path: Path) -> None:
    bucket.put("y", b"1" * (20 << 20))
    etag = bucket.head("y").etag
    with bucket.reader("y") as file:
        assert file.read(5) == b"11111"
        bucket.put("y", b"2" * (20 << 20))
        with pytest.raises(Changed, match=r"^s3://shards/of/simgap/y: changed while it was read; start again$"):
            file.read()
    with pytest.raises(Changed), bucket.reader("y", etag) as file:
        file.read(1)
    with pytest.raises(Changed):
        bucket.download("y", tmp_path / "y", etag)
    bucket.download("y", tmp_path / "y", bucket.head("y").etag)
    assert (tmp_path / "y").read_bytes() == b"2" * (20 << 20)


def test_a_buckets_root_is_listed(bucket: Store) -> None:
    bucket.put("root/x.tar", b"1")
    assert "s3://shards/of/simgap/root/x.tar" in [entry.path for entry in bucket.list("s3://shards")]


def test_an_audit_in_a_bucket_finds_what_one_in_a_folder_finds(bucket: Store, audited: Made, read_audit) -> None:
    folder, made = read_audit
    assert audited.roles.keys() == made.roles.keys()
    for table in ("samples", "embeddings", "thresholds", "proximity", "neighbours", "members", "certificates"):
        asked = f"select * exclude (run) from audit.{table} order by all"
        rows = catalog.ask(bucket, asked)
        assert rows.num_rows and rows == catalog.ask(folder, asked), table


def test_lineage_in_a_bucket_reaches_every_shard(bucket: Store, audited: Made) -> None:
    folder = bucket.url(audited.roles["split/pruned"])
    edges = lineage.up(bucket, lineage.resolve(bucket, f"{folder}/request.json"))
    found = lineage.data_sets(bucket, edges, shards=True)
    rows = catalog.ask(bucket, "select distinct dataset, shard, sha256 from audit.shards").to_pylist()
    assert {(s["dataset"], s["shard"], s["sha256"]) for row in found.values() for s in row["listed"]} == {
        (row["dataset"], row["shard"], row["sha256"]) for row in rows
    }
    assert lineage.resolve(bucket, "s3://shards/of/simgap/b/00000.tar") == audited.roles["ingest/b"]
    assert audited.roles["split/pruned"] in lineage.down(bucket, audited.roles["ingest/b"])


def test_splits_are_exported_from_a_bucket(bucket: Store, audited: Made) -> None:
    kept, removed = (catalog.keys_of(bucket, "pruned", "audit", removed=r) for r in (False, True))
    assert kept.num_rows > 9 and kept.num_rows + removed.num_rows == 24 + 8 + 9


@pytest.mark.parametrize("statement", ["from read_text('/etc/hostname')", "from read_text('s3://shards/elsewhere')"])
def test_people_cannot_read_outside_of_the_store(bucket: Store, audited: Made, statement: str) -> None:
    boto3.client("s3").put_object(Bucket="shards", Key="elsewhere", Body=b"secret")
    with pytest.raises(SimgapError, match=r"the query was refused: .*disabled"):
        catalog.ask(bucket, statement)
