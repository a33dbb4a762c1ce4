"""The store: one folder or bucket that holds everything; paths in it are strings relative to its root."""

import io
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from hashlib import file_digest
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

import obstore
import stamina.instrumentation
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, PreconditionError
from obstore.store import LocalStore, S3Store, from_url

from simgap import faults
from simgap.errors import Changed, Missing, SimgapError, StoreFailed

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta

BLOCK_BYTES = 8 << 20
"""What is read or sent at once."""
BLOCKS_AT_ONCE = 4
BUFFER_BYTES = 1 << 20
OBJECTS_AT_ONCE = 16
TRIES = 6
"""Of a whole operation: about ten seconds, with jitter."""
RETRIES = 3
"""Of each of its requests, by obstore: less than a second, with jitter."""
FOLDER = "file://"
"""What follows is a path as it is: percent signs are decoded in `Store.from_url`, and nowhere else."""
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
               "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_SKIP_SIGNATURE")  # fmt: skip
"""One of them tells where credentials come from; without any, only a machine of Amazon's has some."""

Place = LocalStore | S3Store
Result = TypeVar("Result")


@dataclass(frozen=True)
class Entry:
    """An object in a store: its path (or URI), size in bytes, the store's mark of its version, and since when it is that."""

    path: str
    size: int
    etag: str
    modified: datetime


class Store:
    """A folder (`file:///...`) or a bucket (`s3://bucket/prefix`); credentials come from the environment alone.

    Every method raises SimgapError in one line: `Missing` for an object that is not there, `StoreFailed` when the store
    failed this time, also after it was tried again, or else what to set.
    """

    def __init__(self, url: str) -> None:
        self.root = url.rstrip("/")
        self._store = _open(self.root)

    @classmethod
    def from_environment(cls) -> "Store":
        """The store that SIMGAP_STORE names; by default the folder `.simgap/store` under the working directory."""
        return cls.from_url(os.environ.get("SIMGAP_STORE") or (Path.cwd() / ".simgap" / "store").as_uri())

    @classmethod
    def from_url(cls, url: str) -> "Store":
        """The store at a URL as people write it, where a space is %20."""
        return cls(unquote(url))

    def get(self, path: str) -> bytes:
        return self._do(path, lambda store, place: bytes(obstore.get(store, place).bytes()))

    def get_all(self, paths: Iterable[str]) -> Iterator[bytes]:
        """Small objects, several at once, in the order of their paths."""
        with ThreadPoolExecutor(OBJECTS_AT_ONCE) as pool:
            yield from pool.map(self.get, paths)

    def put(self, path: str, data: bytes) -> None:
        """Writes an object whole; nobody reads half of it."""
        self._do(path, lambda store, place: obstore.put(store, place, data))

    def create(self, path: str, data: bytes) -> bool:
        """Put-if-absent: False, and nothing written, when the object was there."""
        tries = 0

        def put(store: Place, place: str) -> bool:
            nonlocal tries
            tries += 1
            try:
                obstore.put(store, place, data, mode="create")
            except AlreadyExistsError:
                return tries > 1 and self.get(path) == data  # an earlier try of ours, whose answer was lost
            return True

        return self._do(path, put)

    def upload(self, path: str, local_file: Path) -> None:
        """Sends a file in parts; no reader ever sees half of it."""
        self._do(
            path,
            lambda store, place: obstore.put(
                store, place, local_file, chunk_size=BLOCK_BYTES, max_concurrency=BLOCKS_AT_ONCE
            ),
        )

    def download(self, uri: str, local_file: Path, etag: str | None = None) -> None:
        """Copies an object into a file: the version with this etag, or the one that is there now; or raises `Changed`."""
        there = self.head(uri)
        starts = range(0, there.size, BLOCK_BYTES)
        with told(str(local_file)), local_file.open("wb") as target, ThreadPoolExecutor(BLOCKS_AT_ONCE) as pool:
            blocks = (pool.submit(self._block, there, start, start + BLOCK_BYTES, etag) for start in starts)
            target.writelines(_in_order(blocks))

    def sha256(self, uri: str, etag: str | None = None) -> str:
        """The checksum of an object: of the version with this etag, or the one that is there now; or raises `Changed`."""
        with self.reader(uri, etag) as file:
            return file_digest(file, "sha256").hexdigest()

    def exists(self, path: str) -> bool:
        try:
            self.head(path)
        except Missing:
            return False
        return True

    def head(self, uri: str) -> Entry:
        """What is known of an object without reading it."""
        try:
            meta = self._do(uri, obstore.head)
        except Missing:
            if (url := urlsplit(self.url(uri))).scheme == "s3":
                _refuse_missing_bucket(f"s3://{url.netloc}")
            raise
        return _entry(uri, meta)

    def list(self, prefix: str) -> list[Entry]:
        """All objects under a folder (relative, or an absolute URI), by path; paths come back in the form asked for."""
        _, path = self._locate(prefix)
        base = prefix.removesuffix(path) if path or "://" not in prefix else prefix.rstrip("/") + "/"
        found = self._do(
            prefix, lambda store, place: [m for batch in obstore.list(store, place or None) for m in batch]
        )
        return sorted((_entry(base + meta["path"], meta) for meta in found), key=lambda e: e.path)

    def delete(self, path: str) -> None:
        self._do(path, obstore.delete)

    def reader(self, uri: str, etag: str | None = None) -> io.BufferedReader:
        """A buffered, seekable stream of an object in the store or at an absolute s3:// or file:// place.

        Of one version of it: the one with this etag, or the one that is there now. Reading raises `Changed` when that
        is not, or no longer, there.
        """
        there = self.head(uri)
        raw = _Raw(lambda start, end: self._block(there, start, end, etag), there.size)
        return io.BufferedReader(raw, BUFFER_BYTES)

    def url(self, path: str) -> str:
        """The absolute URL of a path; an absolute URL stays as it is."""
        return path if "://" in path else f"{self.root}/{path}"

    def _block(self, there: Entry, start: int, end: int, etag: str | None) -> memoryview:
        """Bytes of an object as it was seen, or with the etag that it should have."""
        options: GetOptions = {"range": (start, min(end, there.size)), "if_match": etag or there.etag}

        def read(store: Place, place: str) -> memoryview:
            data = memoryview(obstore.get(store, place, options=options).bytes())
            if isinstance(store, LocalStore) and obstore.head(store, place)["e_tag"] != options["if_match"]:
                raise PreconditionError("a file may be written to while it is read")
            return data

        return self._do(there.path, read)

    def _do(self, uri: str, action: Callable[[Place, str], Result]) -> Result:
        """One operation, tried again as long as its failure may pass."""
        store, place = self._locate(uri)
        tries = TRIES if isinstance(store, S3Store) else 1
        for attempt in stamina.retry_context(on=StoreFailed, attempts=tries, wait_initial=0.2, wait_jitter=0.5):
            with attempt, told(self.url(uri)):
                return action(store, place)
        raise AssertionError("the last try returns or raises")

    def _locate(self, uri: str) -> tuple[Place, str]:
        if "://" not in uri:
            return self._store, uri
        if uri.startswith(self.root + "/"):
            return self._store, uri.removeprefix(self.root + "/")
        if uri.startswith(FOLDER):
            return _open(FOLDER + "/"), uri.removeprefix(FOLDER).lstrip("/")
        parts = urlsplit(uri)
        return _open(f"{parts.scheme}://{parts.netloc}"), parts.path.lstrip("/")


def _entry(path: str, meta: "ObjectMeta") -> Entry:
    return Entry(path, meta["size"], meta["e_tag"] or "", meta["last_modified"])


def _open(url: str) -> Place:
    if url.startswith(FOLDER + "/"):
        return _folder(url)
    if url.startswith("s3://"):
        return _bucket(url, s3_endpoint())
    raise SimgapError(f"{url}: a store is a folder, file:///path, or a bucket, s3://bucket/prefix")


@cache
def _folder(url: str) -> LocalStore:
    folder = Path(url.removeprefix(FOLDER))
    with told(url):
        folder.mkdir(parents=True, exist_ok=True)
    return LocalStore(folder)


@cache
def _bucket(url: str, endpoint: SplitResult | None) -> S3Store:
    if endpoint is not None and not any(map(os.environ.get, CREDENTIALS)):
        raise SimgapError(f"{url}: no credentials; {faults.KEYS}")
    plain = endpoint is not None and endpoint.scheme == "http"
    options = {"allow_http": plain, "connect_timeout": "5s", "timeout": "60s"}
    return from_url(url, client_options=options, retry_config={"max_retries": RETRIES})  # pyright: ignore


@cache
def _refuse_missing_bucket(bucket: str) -> None:
    """HEAD's answer does not say whether it is the object that is missing or all of the bucket; LIST's does."""
    Store(bucket).list("none/such")


def s3_endpoint() -> SplitResult | None:
    """Where buckets are, from the environment; None: at Amazon."""
    given = next(filter(None, map(os.environ.get, ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"))), None)
    return urlsplit(given) if given else None


@contextmanager
def told(url: str) -> Iterator[None]:
    """Errors of the store or of a disk, told in one line that names the place."""
    try:
        yield
    except AlreadyExistsError:
        raise
    except PreconditionError as error:
        raise Changed(f"{url}: changed while it was read; start again") from error
    except (BaseError, OSError) as error:
        if url.startswith("s3://"):
            raise faults.told(url, error) from None  # what the server said may name keys
        if isinstance(error, NotFoundError | FileNotFoundError):
            raise Missing(f"{url}: no such object") from error
        raise StoreFailed(f"{url}: {str(error).splitlines()[0]}") from error


class _Raw(io.RawIOBase):
    """An object, read in blocks, as a Python stream; while one is used, the next one is on its way."""

    def __init__(self, block: Callable[[int, int], memoryview], size: int) -> None:
        self._block, self._size, self._position = block, size, 0
        self._start, self._held = 0, memoryview(b"")
        self._pool, self._ahead = ThreadPoolExecutor(1), (-1, Future[memoryview]())

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # noqa: ANN001  (the buffer protocol has no name before Python 3.12)
        if self._position >= self._size:
            return 0
        if not self._start <= self._position < self._end:
            self._load(len(buffer))
        data = self._held[self._position - self._start :][: len(buffer)]
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        super().close()

    @property
    def _end(self) -> int:
        return self._start + len(self._held)

    def _load(self, wanted: int) -> None:
        """Takes the block at the position, at least as long as wanted, and sends for the one after it."""
        in_a_row = self._position == self._end
        start, coming = self._ahead
        here = self._position, self._position + max(BLOCK_BYTES, wanted)
        self._held = coming.result() if start == self._position else self._block(*here)
        self._start = self._position
        if in_a_row and self._end < self._size:
            self._ahead = self._end, self._pool.submit(self._block, self._end, self._end + BLOCK_BYTES)


def _in_order(blocks: Iterator[Future[memoryview]]) -> Iterator[memoryview]:
    """The results of futures in their order, few of them under way at a time."""
    under_way = deque(islice(blocks, BLOCKS_AT_ONCE))
    while under_way:
        yield under_way.popleft().result()
        under_way.extend(islice(blocks, 1))


def _tell_retry(details: stamina.instrumentation.RetryDetails) -> None:
    logging.getLogger(__name__).warning("%s; trying again in %.1f s", details.caused_by, details.wait_for)


stamina.instrumentation.set_on_retry_hooks([_tell_retry])
