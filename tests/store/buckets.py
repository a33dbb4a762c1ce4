"""A real MinIO for tests: one that SIMGAP_TEST_S3 names, or one that is started here and may be killed."""

import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import boto3
from making import wait_for

REGION = "us-east-1"
SECONDS_TO_BE_READY = 30


@dataclass(frozen=True)
class Endpoint:
    """Where buckets are, and who may write there."""

    url: str
    key: str
    secret: str

    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": os.environ.get("AWS_REGION", REGION),
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
        }

    def client(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name=os.environ.get("AWS_REGION", REGION),
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
        )


@dataclass(frozen=True)
class Bucket:
    """A bucket of a test's own, which remembers every version of its objects."""

    name: str
    endpoint: Endpoint

    def create(self) -> None:
        client = self.endpoint.client()
        client.create_bucket(Bucket=self.name)
        client.put_bucket_versioning(Bucket=self.name, VersioningConfiguration={"Status": "Enabled"})

    def remove(self) -> None:
        client = self.endpoint.client()
        for page in client.get_paginator("list_object_versions").paginate(Bucket=self.name):
            kept = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
            listed = [{"Key": found["Key"], "VersionId": found["VersionId"]} for found in kept]
            if listed:
                client.delete_objects(Bucket=self.name, Delete={"Objects": listed, "Quiet": True})
        client.delete_bucket(Bucket=self.name)

    def store(self, prefix: str) -> str:
        return f"s3://{self.name}/{prefix}"

    def environment(self, prefix: str) -> dict[str, str]:
        """What a process needs to have the prefix as its store."""
        return self.endpoint.environment() | {"SIMGAP_STORE": self.store(prefix)}

    def versions(self, prefix: str) -> Iterator[tuple[str, str]]:
        """Path and version of all that was ever written under a prefix."""
        pages = self.endpoint.client().get_paginator("list_object_versions")
        for page in pages.paginate(Bucket=self.name, Prefix=f"{prefix}/"):
            for found in page.get("Versions", []):
                yield found["Key"].removeprefix(f"{prefix}/"), found["VersionId"]

    def objects(self) -> Iterator[tuple[str, bytes]]:
        """Path and content of everything that is there."""
        client = self.endpoint.client()
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=self.name):
            for found in page.get("Contents", []):
                yield found["Key"], client.get_object(Bucket=self.name, Key=found["Key"])["Body"].read()


class Minio:
    """A `minio server` on a free port of 127.0.0.1, its data in a folder: what it has stored, it has after a kill too."""

    def __init__(self, program: str, folder: Path, **settings: str) -> None:
        self._program, self._folder, self._settings = program, folder, settings
        self.port = _free_port()
        self.endpoint = Endpoint(f"http://127.0.0.1:{self.port}", secrets.token_hex(10), f"{secrets.token_hex(20)}+/")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        root = {"MINIO_ROOT_USER": self.endpoint.key, "MINIO_ROOT_PASSWORD": self.endpoint.secret} | self._settings
        command = [
            self._program,
            "server",
            "--quiet",
            "--address",
            f"127.0.0.1:{self.port}",
            str(self._folder / "data"),
        ]
        with (self._folder / "minio.log").open("ab") as log:
            self._process = subprocess.Popen(command, env=os.environ | root, stdout=log, stderr=log)

    def kill(self) -> None:
        """SIGKILL, at once."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def wait_until_ready(self) -> None:
        wait_for(self._is_ready, SECONDS_TO_BE_READY)

    def _is_ready(self) -> bool:
        assert self._process is not None and self._process.poll() is None, f"minio ended; see {self._folder}/minio.log"
        try:
            with urlopen(f"{self.endpoint.url}/minio/health/ready", timeout=1) as answer:
                return answer.status == 200
        except (URLError, OSError):
            return False


def found_program() -> str | None:
    return shutil.which("minio")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
