"""DuckDB over the store's parquet files."""

from importlib import import_module
from pathlib import Path

import duckdb

from simgap import runs
from simgap.request import Input
from simgap.store import Store, s3_endpoint

RETRIES = {"http_retries": 8, "http_retry_wait_ms": 100, "http_retry_backoff": 1.7}
"""Of each request, until about ten seconds have passed."""


def connect(store: Store, database: str = ":memory:") -> duckdb.DuckDBPyConnection:
    """A connection that can read the store; a bucket's credentials come from the environment."""
    connection = duckdb.connect(database)
    if store.root.startswith("s3://"):
        for extension in ("httpfs", "aws"):
            connection.load_extension(_shipped(extension))
        for name, value in RETRIES.items():
            connection.execute(f"set {name} = {value}")
        connection.execute(f"create secret (type s3, provider credential_chain, chain 'env'{_where()})")
    return connection


def _shipped(extension: str) -> str:
    """An extension's file, as its wheel brings it."""
    package = import_module(f"duckdb_extension_{extension}")
    [path] = Path(str(package.__file__)).parent.rglob(f"{extension}.duckdb_extension")
    return str(path)


def _where() -> str:
    """Where the bucket is, when not at Amazon."""
    endpoint = s3_endpoint()
    if endpoint is None:
        return ""
    place = endpoint.netloc.replace("'", "''")
    return f", endpoint '{place}', url_style 'path', use_ssl {str(endpoint.scheme == 'https').lower()}"


def place(store: Store, path: str) -> str:
    """A path of the store as DuckDB opens it, quoted for a string literal."""
    return store.url(path).removeprefix("file://").replace("'", "''")


def rows_of(store: Store, sources: list[Input], table: str) -> str:
    """A relation, to be put after `from`: a table's rows of several runs. None of them may have no rows at all."""
    files = [file.path for source in sources for file in runs.load(store, source).tables.get(table, []) if file.rows]
    return "(from read_parquet([" + ", ".join(f"'{place(store, path)}'" for path in files) + "]))"
