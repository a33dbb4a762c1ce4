"""A bucket that moto serves over the S3 protocol."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import boto3
from moto.server import ThreadedMotoServer


@contextmanager
def served(bucket: str) -> Iterator[str]:
    """The server's URL, with the environment that leads to it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server, url = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False), f"http://127.0.0.1:{port}"
    server.start()
    given = {"AWS_ENDPOINT_URL": url, "AWS_REGION": "us-east-1"}
    keys = {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "something"}
    with patch.dict(os.environ, given | keys):
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket=bucket)
        yield url
    server.stop()
