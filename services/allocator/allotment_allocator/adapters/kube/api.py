"""The API server, as JSON over HTTPS.

Plain JSON and not a client of models: creating a Job by models costs three times the CPU, and a
list of thousands of pods as well.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
from aiolimiter import AsyncLimiter
from lightkube.config.client_adapter import verify_cluster
from lightkube.config.kubeconfig import KubeConfig, SingleConfig
from lightkube.core.exceptions import ConfigError

from allotment_core.errors import (
    Aborted,
    AllotmentError,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OutOfRange,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)

Json = dict[str, Any]
_ERRORS: Mapping[int, type[AllotmentError]] = {
    400: InvalidArgument,
    401: Unauthenticated,
    403: PermissionDenied,
    404: NotFound,
    409: Aborted,
    410: OutOfRange,
    422: InvalidArgument,
    429: ResourceExhausted,
}
_TOKEN_READ_EVERY_S = 60.0
_LONGEST_LINE = 8 << 20
"""Bytes of one event of a watch."""


def connection_of(kubeconfig: Path | None) -> SingleConfig:
    """The cluster that the file names; None: this process's own, or that of the default file.

    Raises: FailedPrecondition (NO_CLUSTER).
    """
    try:
        config = KubeConfig.from_file(kubeconfig) if kubeconfig else KubeConfig.from_env()
        chosen = config.get()
    except ConfigError as e:
        raise FailedPrecondition(
            f"no cluster is known: {e}; run in a pod with a service account, or name a kubeconfig",
            reason="NO_CLUSTER",
        ) from e
    if chosen is None or chosen.user is None:
        raise FailedPrecondition(
            "the kubeconfig has no current context with a user; choose one with "
            "`kubectl config use-context`",
            reason="NO_CLUSTER",
        )
    if chosen.user.exec or chosen.user.auth_provider:
        raise FailedPrecondition(
            "the kubeconfig logs in by a program, which a service can't; name one with a token or "
            "a client certificate, or run in the cluster",
            reason="NO_CLUSTER",
        )
    return chosen


class KubeApi:
    """Calls are limited to `qps` a second, `burst` at once; watches are not counted."""

    def __init__(self, connection: SingleConfig, qps: float, burst: int) -> None:
        user = connection.user
        assert user is not None
        self._tls = verify_cluster(connection.cluster, user, connection.abs_file)
        self._server = connection.cluster.server.rstrip("/")
        self._token = user.token or ""
        self._token_file = Path(user.token_file) if user.token_file else None
        self._token_read_at = -_TOKEN_READ_EVERY_S
        self._limiter = AsyncLimiter(burst, burst / qps)
        self._session: aiohttp.ClientSession | None = None
        self.heard_at = time.monotonic()
        """Monotonic instant of the server's last answer."""

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, path: str, **params: str) -> Json:
        return await self._call("GET", path, params=params)

    async def create(self, path: str, body: Json) -> Json:
        """Raises: AlreadyExists."""
        try:
            return await self._call("POST", path, body=body)
        except Aborted as e:
            raise AlreadyExists(e.message, reason="OBJECT_EXISTS") from e

    async def patch(self, path: str, body: Json, kind: str = "merge") -> Json:
        """`kind`: merge, strategic-merge or apply (then as field manager `allotment`)."""
        suffix = "apply-patch+yaml" if kind == "apply" else f"{kind}-patch+json"
        params = {"fieldManager": "allotment", "force": "true"} if kind == "apply" else {}
        return await self._call(
            "PATCH", path, params=params, body=body, content_type=f"application/{suffix}"
        )

    async def delete(self, path: str, body: Json | None = None) -> bool:
        """Whether there was one."""
        try:
            await self._call("DELETE", path, body=body)
        except NotFound:
            return False
        return True

    async def watch(
        self, path: str, read_timeout_s: float, on_open: Callable[[], None], **params: str
    ) -> AsyncIterator[Json]:
        """Events, until the server ends the stream. Raises: Unavailable when it falls silent."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=read_timeout_s)
        try:
            async with self._http().get(
                f"{self._server}{path}",
                params={**params, "watch": "true"},
                headers=await self._headers(),
                timeout=timeout,
            ) as response:
                if response.status >= 400:
                    raise _error(response.status, await response.read(), path)
                on_open()
                async for line in response.content:
                    self.heard_at = time.monotonic()
                    yield json.loads(line)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as e:
            raise _unreachable(e) from e

    async def _call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Json | None = None,
        content_type: str = "application/json",
    ) -> Json:
        headers = await self._headers()
        if body is not None:
            headers["Content-Type"] = content_type
        data = None if body is None else json.dumps(body)
        async with self._limiter:
            try:
                async with self._http().request(
                    method, f"{self._server}{path}", params=params, data=data, headers=headers
                ) as response:
                    content = await response.read()
            except (aiohttp.ClientError, TimeoutError, OSError) as e:
                raise _unreachable(e) from e
        self.heard_at = time.monotonic()
        if response.status >= 400:
            raise _error(response.status, content, path)
        return json.loads(content)  # type: ignore[no-any-return]

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._tls, limit=64, keepalive_timeout=60),
                timeout=aiohttp.ClientTimeout(total=30, sock_connect=10),
                read_bufsize=_LONGEST_LINE,
            )
        return self._session

    async def _headers(self) -> dict[str, str]:
        # The keys of its tokens come as nothing else.
        accepted = "application/json, application/jwk-set+json"
        headers = {"Accept": accepted, "User-Agent": "allotment-allocator"}
        now = time.monotonic()
        if self._token_file is not None and now - self._token_read_at >= _TOKEN_READ_EVERY_S:
            text = await asyncio.to_thread(self._token_file.read_text, "utf-8")
            self._token, self._token_read_at = text.strip(), now
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        return headers


def _unreachable(error: Exception) -> Unavailable:
    return Unavailable(
        f"the API server can't be reached ({type(error).__name__}); it is tried again",
        reason="API_SERVER_UNAVAILABLE",
    )


def _error(status: int, content: bytes, path: str) -> AllotmentError:
    try:
        answer = json.loads(content)
    except ValueError:
        answer = {}
    kind = _ERRORS.get(status, Unavailable)
    message = str(answer.get("message") or f"status {status}")[:400]
    return kind(f"the API server refused {path}: {message}", reason=f"API_SERVER_{status}")
