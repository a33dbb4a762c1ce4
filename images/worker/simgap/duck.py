"""DuckDB over the store's parquet files."""

from pathlib import Path

import duckdb

from simgap import runs
from simgap.request import Input
from simgap.store import Store


def connect(store: Store, database: str = ":memory:") -> duckdb.DuckDBPyConnection:
    """A connection that can read the store; a bucket's credentials come from the environment."""
    connection = duckdb.connect(database)
    if store.root.startswith("s3://"):
        import duckdb_extension_httpfs

        [extension] = Path(duckdb_extension_httpfs.__file__).parent.rglob("httpfs.duckdb_extension")
        connection.load_extension(str(extension))
        connection.execute("create secret (type s3, provider credential_chain, chain 'env')")
    return connection


def place(store: Store, path: str) -> str:
    """A path of the store as DuckDB opens it, quoted for a string literal."""
    return store.url(path).removeprefix("file://").replace("'", "''")


def rows_of(store: Store, sources: list[Input], table: str) -> str:
    """A relation, to be put after `from`: a table's rows of several runs. None of them may have no rows at all."""
    files = [file.path for source in sources for file in runs.load(store, source).tables.get(table, []) if file.rows]
    return "(from read_parquet([" + ", ".join(f"'{place(store, path)}'" for path in files) + "]))"
