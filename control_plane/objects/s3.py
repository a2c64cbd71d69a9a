"""Buckets in S3 or anything that speaks its protocol, through boto3. Credentials come from boto3's own chain."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from linewatch.control_plane.objects import NoSuchBucketError, NoSuchObjectError, Stream, UnavailableError

CONNECT_S, ATTEMPTS = 5, 4


class S3Objects:
    """Buckets of an S3 endpoint. The server's own S3 keys open them all, so they belong to one account of the server."""

    def __init__(self, endpoint: str | None, region: str, timeout_s: int, account: str = "") -> None:
        """Nothing is asked yet.

        Args:
            endpoint: address; None for AWS's own.
            region: of the buckets.
            timeout_s: seconds without an answer after which S3 is asked again.
            account: twelve digits, of the server, that all buckets belong to.
        """
        self._account = account
        # Path style: host names such as BUCKET.minio.plant.local rarely resolve.
        style = {"addressing_style": "path"} if endpoint else {}
        self._client: Any = boto3.client(
            "s3", endpoint_url=endpoint or None, region_name=region,
            config=Config(connect_timeout=CONNECT_S, read_timeout=timeout_s, s3=style,
                          retries={"max_attempts": ATTEMPTS, "mode": "standard"}),
        )  # fmt: skip

    def owner(self, bucket: str) -> str | None:  # noqa: ARG002
        """See `Objects`; whether there is a bucket is not asked."""
        return self._account

    @contextmanager
    def open(self, bucket: str, key: str, version: str | None = None) -> Iterator[Stream]:
        """See `Objects`."""
        with _translated(bucket, key):
            answer = self._client.get_object(Bucket=bucket, Key=key, **_version(version))
        with answer["Body"] as body, _translated(bucket, key):
            yield _Lines(body)

    def size(self, bucket: str, key: str, version: str | None = None) -> int:
        """See `Objects`."""
        with _translated(bucket, key):
            return int(self._client.head_object(Bucket=bucket, Key=key, **_version(version))["ContentLength"])

    def fetch(self, bucket: str, key: str, path: Path) -> None:
        """See `Objects`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with _translated(bucket, key):
            self._client.download_file(bucket, key, str(path))

    def put(self, bucket: str, key: str, path: Path, content_type: str) -> None:
        """See `Objects`.

        Args:
            bucket: where.
            key: as what.
            path: of the file, which is uploaded.
            content_type: of the object.
        """
        with _translated(bucket, key):
            self._client.upload_file(str(path), bucket, key, ExtraArgs={"ContentType": content_type})


def _version(version: str | None) -> dict[str, str]:
    return {"VersionId": version} if version else {}


@contextmanager
def _translated(bucket: str, key: str) -> Iterator[None]:
    """The client's errors as ours.

    Raises:
        NoSuchBucketError: S3 has no such bucket.
        NoSuchObjectError: S3 has no such object, or no such version of it.
        UnavailableError: S3 refused, or does not answer.
        OSError: a file of this machine cannot be read or written, such as on a full disk.
    """  # noqa: DOC501 - a BotoCoreError is told as UnavailableError
    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code == "NoSuchBucket":
            raise NoSuchBucketError(f"there is no bucket {bucket!r} in S3") from None
        if code in ("NoSuchKey", "NoSuchVersion", "404", "NotFound"):
            raise NoSuchObjectError(f"there is no object s3://{bucket}/{key}") from None
        raise UnavailableError(f"S3 refused s3://{bucket}/{key}: {code} {error.response['Error'].get('Message', '')}") from None
    except (BotoCoreError, OSError) as error:
        if isinstance(error, OSError) and error.filename is not None:  # a file of ours: disk full and the like
            raise
        raise UnavailableError(f"S3 does not answer for s3://{bucket}/{key}: {error}") from None
    except Exception as error:
        # boto3's transfer manager wraps what went wrong in classes of its own that share no base with the rest.
        if type(error).__module__.startswith(("boto3", "s3transfer", "urllib3")):
            raise UnavailableError(f"S3 does not answer for s3://{bucket}/{key}: {error}") from None
        raise


class _Lines:
    """boto3's stream with `readline`, which it lacks."""

    _BLOCK = 1 << 18

    def __init__(self, body: Any) -> None:
        self._body = body
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes; all of them when it is negative."""
        if size < 0:
            rest, self._rest = self._rest, b""
            return rest + bytes(self._body.read())
        while len(self._rest) < size and (block := self._body.read(self._BLOCK)):
            self._rest += block
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def readline(self, size: int) -> bytes:
        """A line, or the first `size` bytes of it."""
        while b"\n" not in self._rest and len(self._rest) < size and (block := self._body.read(self._BLOCK)):
            self._rest += block
        end = self._rest.find(b"\n") + 1 or len(self._rest)
        data, self._rest = self._rest[: min(end, size)], self._rest[min(end, size) :]
        return data
