"""The store of objects in S3. No other module uses boto3."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from typing import Any, Final

from hilum import errors
from hilum.errors import HilumError
from hilum.settings import S3Settings
from hilum.storage.backend import CHUNK, Listed, Stat, check_size

_CONNECTIONS: Final = 64  # more than any pool has threads: with boto3's 10, threads would wait

# The encryption of an object, under the names that both requests and responses use.
_ENCRYPTION: Final = ("ServerSideEncryption", "SSEKMSKeyId", "BucketKeyEnabled")
# Error codes of Amazon S3 (API Reference, "Error responses") and of compatible stores.
_REJECTED: Final = {
    "SignatureDoesNotMatch",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSecurity",
    "InvalidToken",
    "ExpiredToken",
    "ExpiredTokenException",
    "TokenRefreshRequired",
    "UnrecognizedClientException",
    "AuthorizationHeaderMalformed",
    "RequestTimeTooSkewed",
    "NotSignedUp",
}
_MISSING: Final = {"NoSuchKey", "NoSuchBucket", "NoSuchVersion", "NotFound"}
_CHANGED: Final = {"PreconditionFailed", "ConditionalRequestConflict"}
_DENIED: Final = {"AccessDenied", "AllAccessDisabled", "Forbidden"}
_BAD_ADDRESS: Final = {"InvalidBucketName", "KeyTooLongError", "InvalidURI"}
# Codes, the HTTP status that means the same, and the error; the first entry that matches counts.
_ANSWERS: Final[tuple[tuple[set[str], int | None, type[HilumError], str], ...]] = (
    (_REJECTED, 401, errors.CredentialsRejectedError, "The store rejects the credentials ({})."),
    (_MISSING, 404, errors.ObjectMissingError, "The object or its bucket does not exist."),
    (_CHANGED, 412, errors.ObjectChangedError, "The object was replaced after it was looked up."),
    (_DENIED, 403, errors.AccessDeniedError, "The store denies access ({})."),
    (_BAD_ADDRESS, None, errors.InvalidURIError, "The store does not accept this address ({})."),
)
# What may succeed later: RFC 9110 section 15.5 and RFC 6585, and codes that S3 answers with 400.
_PASSING: Final = {408, 409, 421, 423, 425, 429}
_PASSING_CODES: Final = {
    "RequestTimeout",
    "RequestTimeoutException",
    "Throttling",
    "ThrottlingException",
    "SlowDown",
    "Busy",
    "InternalError",
    "ServiceUnavailable",
    "OperationAborted",
    "IncompleteBody",
}
_BUCKET: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{1,253}[a-zA-Z0-9]")


class S3:
    """Objects in S3 or a compatible store. An address is ``bucket/key``."""

    def __init__(self, settings: S3Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._opened: Any = None

    def chunks(
        self,
        address: str,
        limit: int,
        *,
        etag: str | None = None,
        told: Callable[[str], None] | None = None,
    ) -> Iterator[bytes]:
        bucket, key = _object(address)
        same = {} if etag is None else {"IfMatch": etag}
        with self._errors():
            response = self._client().get_object(Bucket=bucket, Key=key, **same)
            if told is not None and "ETag" in response:
                told(str(response["ETag"]))
            with closing(response["Body"]) as body:
                check_size(response["ContentLength"], limit)
                # botocore raises if the content is shorter than Content-Length.
                yield from body.iter_chunks(CHUNK)

    def addresses(self, address: str) -> Iterator[str]:
        bucket, prefix = _split(address)
        if prefix and not prefix.endswith("/"):
            try:
                exact = any(key == prefix for key in self._keys(bucket, prefix, at_most=1))
            except errors.AccessDeniedError:
                yield f"{bucket}/{prefix}"  # it may be readable even if listing is denied
                return
            if exact:
                yield f"{bucket}/{prefix}"
            prefix += "/"
        for key in self._keys(bucket, prefix):
            below = key[len(prefix) :].split("/")
            if below[-1] and not any(part.startswith(".") for part in below):
                yield f"{bucket}/{key}"

    def write(self, address: str, data: bytes) -> None:
        bucket, key = _split(address)
        with self._errors():
            self._client().put_object(Bucket=bucket, Key=key, Body=data)

    def stat(self, address: str) -> Stat:
        """Look up the metadata of the object."""
        bucket, key = _object(address)
        with self._errors():
            head = self._client().head_object(Bucket=bucket, Key=key)
        etag, size = str(head["ETag"]), int(head["ContentLength"])
        return Stat(
            version=f"{etag} {head.get('VersionId', '')} {size}",
            etag=etag,
            modified=head["LastModified"],
            size=size,
            encryption={name: head[name] for name in _ENCRYPTION if head.get(name)},
        )

    def write_like(
        self, address: str, data: bytes, encryption: Mapping[str, str | bool], tag: str
    ) -> None:
        """Write ``data`` with this encryption, owned by the owner of the bucket, and with a tag
        ``name=value``, which lifecycle rules can use."""
        bucket, key = _object(address)
        with self._errors():
            self._client().put_object(
                Bucket=bucket,
                Key=key,
                Body=data,
                ACL="bucket-owner-full-control",
                Tagging=tag,
                **encryption,
            )

    def start(self, address: str, length: int) -> tuple[bytes, str, int]:
        """The first ``length`` bytes of the object, its ETag and its size."""
        bucket, key = _object(address)
        with self._errors():
            try:
                response = self._client().get_object(
                    Bucket=bucket, Key=key, Range=f"bytes=0-{length - 1}"
                )
            except self._client().exceptions.ClientError as error:
                if error.response.get("Error", {}).get("Code") != "InvalidRange":
                    raise
                return b"", "", 0  # an empty object has no first byte
            with closing(response["Body"]) as body:
                data: bytes = body.read()
        # A store that ignores the range sends the whole object.
        total = str(response.get("ContentRange", "")).rpartition("/")[2]
        size = int(total) if total.isdecimal() else len(data)
        return data[:length], str(response["ETag"]), size

    def listed(self, address: str, after: str | None) -> Iterator[Listed]:
        """The objects below the folder ``address``, in the order of their keys (UTF-8 bytes),
        behind the address ``after``."""
        bucket, prefix = _split(address)
        if prefix and not prefix.endswith("/"):
            prefix += "/"
        begin = {} if after is None else {"StartAfter": after.partition("/")[2]}
        with self._errors():
            pages = self._client().get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=bucket, Prefix=prefix, **begin):
                for item in page.get("Contents", ()):
                    below = item["Key"][len(prefix) :].split("/")
                    if below[-1] and not any(part.startswith(".") for part in below):
                        yield Listed(
                            uri=f"s3://{bucket}/{item['Key']}",
                            etag=item.get("ETag"),
                            size=item.get("Size"),
                        )

    def may_write(self, address: str) -> bool:
        """Whether a multipart upload may begin, which needs s3:PutObject. It is aborted."""
        bucket, key = _object(address)
        try:
            with self._errors():
                begun = self._client().create_multipart_upload(Bucket=bucket, Key=key)
        except errors.AccessDeniedError:
            return False
        with suppress(HilumError), self._errors():  # the store removes what is never completed
            self._client().abort_multipart_upload(
                Bucket=bucket, Key=key, UploadId=begun["UploadId"]
            )
        return True

    def below(self, address: str) -> Iterator[tuple[str, datetime]]:
        """Yield address and modification time of all objects with this prefix, hidden or not."""
        bucket, prefix = _split(address)
        with self._errors():
            pages = self._client().get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=bucket, Prefix=prefix):
                for item in page.get("Contents", ()):
                    yield f"{bucket}/{item['Key']}", item["LastModified"]

    def delete(self, addresses: Sequence[str]) -> None:
        """Remove at most 1000 objects of one bucket.

        Raises:
            AccessDeniedError: one of them cannot be removed.
        """
        split = [_object(address) for address in addresses]
        with self._errors():
            answer = self._client().delete_objects(
                Bucket=split[0][0],
                Delete={"Objects": [{"Key": key} for _, key in split], "Quiet": True},
            )
        if answer.get("Errors"):
            raise errors.AccessDeniedError(f"{len(answer['Errors'])} objects could not be removed.")

    def _keys(self, bucket: str, prefix: str, at_most: int | None = None) -> Iterator[str]:
        with self._errors():
            pages = self._client().get_paginator("list_objects_v2")
            for page in pages.paginate(
                Bucket=bucket, Prefix=prefix, PaginationConfig={"MaxItems": at_most}
            ):
                for item in page.get("Contents", ()):
                    yield item["Key"]

    def _client(self) -> Any:
        with self._lock:  # creating a client is not thread-safe; using one is
            if self._opened is None:
                self._opened = self._open()
            return self._opened

    def _open(self) -> Any:
        # Imported here because it takes 0.3 s, which scoring a local film does not need.
        import boto3  # noqa: PLC0415
        from botocore.config import Config  # noqa: PLC0415

        settings = self._settings
        secret = settings.secret_access_key
        if (settings.access_key_id is None) != (secret is None):
            raise errors.ConfigurationError(
                "HILUM_S3__ACCESS_KEY_ID and HILUM_S3__SECRET_ACCESS_KEY must be set together."
            )
        config = Config(
            connect_timeout=settings.connect_timeout_s,
            read_timeout=settings.read_timeout_s,
            retries={"mode": "standard", "total_max_attempts": settings.max_attempts},
            s3={"addressing_style": "path" if settings.path_style else "virtual"},
            max_pool_connections=_CONNECTIONS,
            # Compatible stores may not support the newer checksum trailers.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        try:
            return boto3.session.Session().client(
                "s3",
                endpoint_url=settings.endpoint_url,
                region_name=settings.region,
                aws_access_key_id=settings.access_key_id,
                aws_secret_access_key=secret.get_secret_value() if secret else None,
                config=config,
            )
        except ValueError:
            raise errors.ConfigurationError("HILUM_S3__ENDPOINT_URL is not a valid URL.") from None

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn botocore's exceptions into hilum's."""
        from botocore import exceptions  # noqa: PLC0415

        try:
            yield
        except exceptions.ClientError as error:
            raise _of_response(error.response) from None
        except (
            exceptions.NoCredentialsError,
            exceptions.PartialCredentialsError,
            exceptions.CredentialRetrievalError,
            exceptions.TokenRetrievalError,
            exceptions.NoAuthTokenError,
            exceptions.ProfileNotFound,
            exceptions.SSOError,
        ):
            raise errors.CredentialsRejectedError("There are no usable S3 credentials.") from None
        except exceptions.ParamValidationError:
            raise errors.InvalidURIError("The bucket or key is not a valid name in S3.") from None
        except (exceptions.BotoCoreError, OSError) as error:
            raise errors.StorageUnavailableError(
                f"The store did not answer completely ({type(error).__name__})."
            ) from None


def _object(address: str) -> tuple[str, str]:
    """Like :func:`_split`, but the key must not be empty."""
    bucket, key = _split(address)
    if not key:
        raise errors.InvalidURIError("The address has a bucket but no key.")
    return bucket, key


def _split(address: str) -> tuple[str, str]:
    """Split ``bucket/key``. The key may be empty, and may contain any character."""
    bucket, _, key = address.partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise errors.InvalidURIError("The address has no valid bucket name.")
    return bucket, key


def _of_response(response: Any) -> HilumError:
    """The error for an S3 error response, by its code or else its HTTP status."""
    code = str(response.get("Error", {}).get("Code", ""))
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    answer = f"{status} {code}" if code.isalnum() and code != str(status) else str(status)
    if code == "InvalidObjectState":
        return errors.ObjectMissingError(
            "The object is archived.", next_step="Restore it to a readable storage class."
        )
    for codes, by_status, kind, text in _ANSWERS:
        if code in codes or status == by_status:
            return kind(text.format(answer))
    if 400 <= status < 500 and status not in _PASSING and code not in _PASSING_CODES:
        return errors.ObjectRefusedError(f"The store refuses the request ({answer}).")
    return errors.StorageUnavailableError(f"The store answered {answer}.")
