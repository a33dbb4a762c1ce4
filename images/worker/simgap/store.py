"""The store: one folder or bucket that holds everything; paths in it are strings relative to its root."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import LocalStore, S3Store, from_url

from simgap.errors import Missing, SimgapError, StoreFailed

READ_AHEAD_BYTES = 1 << 20
FOLDER = "file://"
"""What follows is a path as it is: percent signs are decoded in `Store.from_url`, and nowhere else."""


@dataclass(frozen=True)
class Entry:
    """An object in a store: its path (or URI), size in bytes, and the store's mark of its version."""

    path: str
    size: int
    etag: str


class Store:
    """A folder (`file:///...`) or a bucket (`s3://bucket/prefix`); credentials come from the environment alone."""

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
        """Raises `Missing` when there is no such object."""
        store, place = self._locate(path)
        with told(self.url(path)):
            return bytes(obstore.get(store, place).bytes())

    def put(self, path: str, data: bytes) -> None:
        """Writes an object whole; nobody reads half of it."""
        store, place = self._locate(path)
        with told(self.url(path)):
            obstore.put(store, place, data)

    def create(self, path: str, data: bytes) -> bool:
        """Put-if-absent: False, and nothing written, when the object was there."""
        store, place = self._locate(path)
        try:
            with told(self.url(path)):
                obstore.put(store, place, data, mode="create")
        except AlreadyExistsError:
            return False
        return True

    def upload(self, path: str, local_file: Path) -> None:
        """Sends a file in parts; no reader ever sees half of it."""
        store, place = self._locate(path)
        with told(self.url(path)):
            obstore.put(store, place, local_file)

    def download(self, path: str, local_file: Path) -> None:
        with told(str(local_file)), local_file.open("wb") as target:
            target.writelines(self._chunks(path))

    def exists(self, path: str) -> bool:
        try:
            self.head(path)
        except Missing:
            return False
        return True

    def head(self, uri: str) -> Entry:
        """What is known of an object without reading it. Raises `Missing`."""
        store, path = self._locate(uri)
        with told(self.url(uri)):
            meta = obstore.head(store, path)
        return Entry(uri, meta["size"], meta["e_tag"] or "")

    def list(self, prefix: str) -> list[Entry]:
        """All objects under a folder (relative, or an absolute URI), by path; paths come back in the form asked for."""
        store, path = self._locate(prefix)
        base = prefix.removesuffix(path) if path or "://" not in prefix else prefix.rstrip("/") + "/"
        with told(self.url(prefix)):
            found = [meta for batch in obstore.list(store, path or None) for meta in batch]
        return sorted(
            (Entry(base + meta["path"], meta["size"], meta["e_tag"] or "") for meta in found), key=lambda e: e.path
        )

    def delete(self, path: str) -> None:
        store, place = self._locate(path)
        with told(self.url(path)):
            obstore.delete(store, place)

    def reader(self, uri: str) -> io.BufferedReader:
        """A buffered, seekable stream of an object in the store or at an absolute s3:// or file:// place."""
        store, path = self._locate(uri)
        with told(self.url(uri)):
            raw = obstore.open_reader(store, path, buffer_size=READ_AHEAD_BYTES)
        return io.BufferedReader(_Raw(raw, self.url(uri)), READ_AHEAD_BYTES)

    def url(self, path: str) -> str:
        """The absolute URL of a path; an absolute URL stays as it is."""
        return path if "://" in path else f"{self.root}/{path}"

    def _chunks(self, uri: str) -> Iterator[bytes]:
        store, path = self._locate(uri)
        with told(self.url(uri)):
            yield from map(bytes, obstore.get(store, path).stream())

    def _locate(self, uri: str) -> tuple[LocalStore | S3Store, str]:
        if "://" not in uri:
            return self._store, uri
        if uri.startswith(self.root + "/"):
            return self._store, uri.removeprefix(self.root + "/")
        if uri.startswith(FOLDER):
            return _open(FOLDER + "/"), uri.removeprefix(FOLDER).lstrip("/")
        parts = urlsplit(uri)
        return _open(f"{parts.scheme}://{parts.netloc}"), parts.path.lstrip("/")


@cache
def _open(url: str) -> LocalStore | S3Store:
    if url.startswith(FOLDER + "/"):
        folder = Path(url.removeprefix(FOLDER))
        with told(url):
            folder.mkdir(parents=True, exist_ok=True)
        return LocalStore(folder)
    if url.startswith("s3://"):
        endpoint = s3_endpoint()
        plain = endpoint is not None and endpoint.scheme == "http"
        return from_url(url, client_options={"allow_http": plain})  # pyright: ignore[reportReturnType]
    raise SimgapError(f"{url}: a store is a folder, file:///path, or a bucket, s3://bucket/prefix")


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
    except (NotFoundError, FileNotFoundError) as error:
        raise Missing(f"{url}: no such object") from error
    except (BaseError, OSError) as error:
        raise StoreFailed(f"{url}: {str(error).splitlines()[0]}") from error


class _Raw(io.RawIOBase):
    """obstore's reader as a Python stream."""

    def __init__(self, reader: "obstore.ReadableFile", url: str) -> None:
        self._reader, self._url = reader, url

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # noqa: ANN001  (the buffer protocol has no name before Python 3.12)
        with told(self._url):
            data = self._reader.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._reader.seek(offset, whence)

    def tell(self) -> int:
        return self._reader.tell()
