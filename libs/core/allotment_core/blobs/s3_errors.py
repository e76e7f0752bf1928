"""What an object store can't do, in the error tree's terms.

Messages name no endpoint, bucket or key: tenants read them. The log does.
"""

import contextlib
import logging
from collections.abc import Iterator
from xml.etree.ElementTree import ParseError

from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from urllib3.exceptions import HTTPError, MaxRetryError, SSLError

from allotment_core.errors import AllotmentError, ResourceExhausted, Unavailable

log = logging.getLogger(__name__)

_FULL = frozenset(
    (
        "XMinioStorageFull",
        "XMinioAdminBucketQuotaExceeded",
        "QuotaExceeded",
        "InsufficientCapacity",
    )
)
_DENIED = frozenset(
    (
        "AccessDenied",
        "AllAccessDisabled",
        "AccountProblem",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "InvalidToken",
        "InvalidTokenId",
    )
)
_SKEWED = frozenset(("RequestTimeTooSkewed", "RequestExpired", "ExpiredPresignRequest"))
_WRONG_REGION = frozenset(
    ("AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException")
)
_FULL_STATUS = 507


@contextlib.contextmanager
def store_errors(bucket: str, endpoint: str) -> Iterator[None]:
    """Makes what the SDK and its HTTP library raise ResourceExhausted (DISK_FULL) or Unavailable
    with a reason of its own.
    """
    try:
        yield
    except AllotmentError:
        raise
    except (MinioException, HTTPError, ParseError, OSError) as e:
        told = _told(e)
        log.warning(
            "the object store failed",
            extra={
                "reason": told.reason,
                "bucket": bucket,
                "endpoint": endpoint,
                "error": str(e)[:500],
            },
        )
        raise told from e


def _told(error: Exception) -> AllotmentError:
    code = error.code if isinstance(error, S3Error) else ""
    if code in _FULL or _status(error) == _FULL_STATUS:
        return ResourceExhausted(
            "the object store is full: the blob was not stored; free some space there and repeat "
            "the request",
            reason="DISK_FULL",
            retry_after_s=10.0,
        )
    if code in _DENIED:
        return _unavailable(
            "STORE_DENIED",
            f"refuses the server's keys ({code}); its administrator has to look at their values "
            "and rights",
        )
    if code in _SKEWED:
        return _unavailable(
            "STORE_CLOCK_SKEWED",
            "says that the server's clock is wrong by minutes; its administrator has to set the "
            "clocks of both by NTP",
        )
    if code == "NoSuchBucket":
        return _unavailable(
            "STORE_BUCKET_MISSING",
            "has no such bucket; the server's administrator has to create it or name another",
        )
    if code in _WRONG_REGION:
        return _unavailable(
            "STORE_WRONG_REGION",
            f"says that the bucket is in another region ({code}); the server's administrator has "
            "to set the region",
        )
    if isinstance(error, MinioException):
        what = code or f"HTTP status {_status(error) or 'unknown'}"
        return _unavailable("STORE_UNAVAILABLE", f"can't serve now ({what}); try again")
    if isinstance(error, MaxRetryError) and isinstance(error.reason, SSLError):
        return _unavailable(
            "STORE_UNTRUSTED",
            "shows a certificate that is not trusted; the server's administrator has to name the "
            "file of its authority",
        )
    return _unavailable("STORE_UNREACHABLE", f"does not answer ({type(error).__name__}); try again")


def _status(error: Exception) -> int:
    if isinstance(error, S3Error):
        return int(error.response.status)
    if isinstance(error, ServerError):
        return error.status_code
    if isinstance(error, InvalidResponseError):
        return error._code
    return 0


def _unavailable(reason: str, what: str) -> Unavailable:
    return Unavailable(f"the object store {what}", reason=reason, retry_after_s=5.0)
