"""`simgap store init`: a bucket that forgets nothing at once, and a user for each part that people and programs play."""

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from minio import Minio
from minio.commonconfig import ENABLED, Filter
from minio.credentials.providers import EnvAWSProvider
from minio.error import MinioAdminException, S3Error
from minio.lifecycleconfig import (
    AbortIncompleteMultipartUpload,
    Expiration,
    LifecycleConfig,
    NoncurrentVersionExpiration,
    Rule,
)
from minio.minioadmin import MinioAdmin
from minio.versioningconfig import VersioningConfig
from urllib3.exceptions import HTTPError

from simgap import faults
from simgap.errors import SimgapError, StoreFailed
from simgap.store import Store, s3_endpoint

DAYS_OF_ABANDONED_UPLOADS = 7
DAYS_OF_OLD_VERSIONS = 30
SECRET_BYTES = 24
READ = ["s3:GetObject", "s3:GetObjectVersion"]
LIST = ["s3:ListBucket", "s3:ListBucketVersions", "s3:GetBucketLocation"]
WRITE = ["s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
WRITES = {"worker": ["runs"], "airflow": ["runs", "studies", "catalog"], "reader": []}
"""The folders that each role may write to; all of them read everything, and none deletes. `admin` may do anything."""
ROLES = (*WRITES, "admin")


def policy(role: str, bucket: str, prefix: str) -> dict[str, Any]:
    """What a role may do, in the language of S3's policies."""
    everything = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    if role == "admin":
        return _document((["s3:*"], everything))
    inside = "/".join(filter(None, [bucket, prefix]))
    folders = [f"arn:aws:s3:::{inside}/{folder}/*" for folder in WRITES[role]]
    return _document((READ + LIST, everything), *([(WRITE, folders)] if folders else []))


def init(store: Store, credentials: Path) -> Iterator[str]:
    """Makes the store's bucket, its versions and life-cycle rules, policies, and their users; yields a line for each.

    The users' keys are files in the folder `credentials`, `<role>.env`: a key that is there is used, one that is not is
    made up. Needs the keys of an administrator of the server in the environment. Safe to repeat.
    """
    parts = urlsplit(store.root)
    if parts.scheme != "s3":
        raise SimgapError(f"{store.root}: a folder needs no init; a bucket, s3://bucket/prefix, does")
    endpoint, bucket = s3_endpoint() or urlsplit("https://s3.amazonaws.com"), parts.netloc
    keys = EnvAWSProvider()
    if not keys.retrieve().access_key:
        raise SimgapError(f"{store.root}: no credentials; {faults.KEYS}, an administrator's")
    secure, region = endpoint.scheme == "https", os.environ.get("AWS_REGION", "us-east-1")
    with _told(store.root, endpoint.geturl()):
        yield from _prepare(Minio(endpoint.netloc, credentials=keys, secure=secure, region=region), bucket)
        admin = MinioAdmin(endpoint=endpoint.netloc, credentials=keys, secure=secure, region=region)
        for role in ROLES:
            yield _add_user(admin, role, bucket, policy(role, bucket, parts.path.strip("/")), credentials)


def _prepare(client: Minio, bucket: str) -> Iterator[str]:
    there = client.bucket_exists(bucket)
    if not there:
        client.make_bucket(bucket)
    yield f"bucket {bucket}: {'is there' if there else 'made'}"
    client.set_bucket_versioning(bucket, VersioningConfig(ENABLED))
    client.set_bucket_lifecycle(bucket, LifecycleConfig([_life_cycle()]))
    yield (
        f"every version is kept, replaced and deleted ones for {DAYS_OF_OLD_VERSIONS} days;"
        f" abandoned uploads go after {DAYS_OF_ABANDONED_UPLOADS}"
    )


def _life_cycle() -> Rule:
    return Rule(
        status=ENABLED,
        rule_id="simgap",
        rule_filter=Filter(prefix=""),
        expiration=Expiration(expired_object_delete_marker=True),
        noncurrent_version_expiration=NoncurrentVersionExpiration(DAYS_OF_OLD_VERSIONS),
        abort_incomplete_multipart_upload=AbortIncompleteMultipartUpload(DAYS_OF_ABANDONED_UPLOADS),
    )


def _add_user(admin: MinioAdmin, role: str, bucket: str, document: dict[str, Any], credentials: Path) -> str:
    """A user with its policy, both named `<bucket>-<role>`."""
    user, file = f"{bucket}-{role}", credentials / f"{role}.env"
    admin.policy_add(user, policy=document)
    if user in json.loads(admin.user_list()) and not file.exists():
        return f"user {user}: is there; its keys are where it was made"
    if not file.exists():
        _write_keys(file, user, secrets.token_urlsafe(SECRET_BYTES))
    given = dict(line.split("=", 1) for line in file.read_text().splitlines() if "=" in line)
    admin.user_add(given["AWS_ACCESS_KEY_ID"], given["AWS_SECRET_ACCESS_KEY"])
    admin.policy_set(user, user=given["AWS_ACCESS_KEY_ID"])
    return f"user {user}: its keys are in {file}"


def _write_keys(file: Path, user: str, secret: str) -> None:
    """As a shell and a Kubernetes secret take them, for nobody else to read."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as opened:
        opened.write(f"AWS_ACCESS_KEY_ID={user}\nAWS_SECRET_ACCESS_KEY={secret}\n")


def _document(*allowed: tuple[list[str], list[str]]) -> dict[str, Any]:
    statements = [{"Effect": "Allow", "Action": actions, "Resource": resources} for actions, resources in allowed]
    return {"Version": "2012-10-17", "Statement": statements}


@contextmanager
def _told(store: str, endpoint: str) -> Iterator[None]:
    try:
        yield
    except S3Error as error:
        why = faults.MEANINGS.get(str(error.code), error.message)
        raise SimgapError(f"{store}: {why} ({error.code})") from None
    except MinioAdminException as error:
        raise SimgapError(
            f"{store}: the server refused to make users and policies: {error};"
            " one that is no MinIO needs them made by hand"
        ) from None
    except HTTPError as error:
        raise StoreFailed(f"{endpoint}: cannot be reached; is AWS_ENDPOINT_URL right, and is it up?") from error
