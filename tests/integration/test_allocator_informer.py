"""A copy of the cluster's objects, against a scripted API server."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from lightkube.config.kubeconfig import KubeConfig

from allotment_allocator.adapters.kube.api import KubeApi
from allotment_allocator.adapters.kube.informer import Informer
from allotment_allocator.adapters.kube.token_keys import ISSUER_PATH, KEYS_PATH, ClusterKeys
from allotment_core.errors import AlreadyExists, NotFound, Unavailable
from allotment_testkit.clock import ManualClock
from allotment_testkit.pod_tokens import ISSUER, PretendCluster, ec_key

Json = dict[str, Any]


def item(name: str, version: str, **more: Any) -> Json:
    return {"metadata": {"name": name, "namespace": "x", "resourceVersion": version}, **more}


class Server:
    """Answers lists from `items`; each watch takes the next script, then stays open."""

    def __init__(self) -> None:
        self.items = [item("a", "1"), item("b", "2")]
        self.version = "2"
        self.lists = 0
        self.watched_from: list[str] = []
        self.scripts: list[list[Json] | int] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("watch"):
            return await self._watch(request)
        self.lists += 1
        start = int(request.query.get("continue") or 0)
        following = str(start + 1) if start + 1 < len(self.items) else ""
        return web.json_response(
            {
                "metadata": {"resourceVersion": self.version, "continue": following},
                "items": self.items[start : start + 1],
            }
        )

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        self.watched_from.append(request.query["resourceVersion"])
        script = self.scripts.pop(0) if self.scripts else None
        if isinstance(script, int):
            return web.json_response({"message": "no"}, status=script)
        response = web.StreamResponse()
        await response.prepare(request)
        for event in script or ():
            await response.write(json.dumps(event).encode() + b"\n")
        if script is None:
            await asyncio.sleep(60)
        return response


@asynccontextmanager
async def served(handler: Callable[[web.Request], Any]) -> AsyncIterator[KubeApi]:
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    config = KubeConfig.from_dict(
        {
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
    ).get()
    assert config is not None
    api = KubeApi(config, 1000, 1000)
    try:
        yield api
    finally:
        await api.close()
        await runner.cleanup()


@asynccontextmanager
async def following(server: Server) -> AsyncIterator[Informer]:
    async with served(server.handle) as api:
        informer = Informer(api, "/api/v1/pods", lambda o: o, lambda key: None)
        running = asyncio.create_task(informer.run())
        try:
            async with asyncio.timeout(10):
                await informer.synced.wait()
            yield informer
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_pages_are_listed_then_changes_are_followed() -> None:
    server = Server()
    server.scripts = [
        [
            {"type": "ADDED", "object": item("c", "3")},
            {"type": "DELETED", "object": item("a", "4")},
            {"type": "MODIFIED", "object": item("b", "5", new=True)},
            {"type": "BOOKMARK", "object": item("", "9")},
        ]
    ]
    async with following(server) as informer:
        await until(lambda: len(server.watched_from) == 2)
        assert set(informer.objects) == {"x/b", "x/c"}
        assert informer.objects["x/b"]["new"]
        assert server.watched_from == ["2", "9"]
        assert server.lists == 2  # pages of one list


async def test_a_broken_watch_goes_on_from_the_last_version_without_a_list() -> None:
    server = Server()
    server.scripts = [[{"type": "ADDED", "object": item("c", "3")}], 500, 500]
    async with following(server):
        await until(lambda: len(server.watched_from) == 4)
        assert server.watched_from == ["2", "3", "3", "3"]
        assert server.lists == 2


@pytest.mark.parametrize(
    "gone", [410, [{"type": "ERROR", "object": {"code": 410, "message": "too old"}}]]
)
async def test_a_version_that_is_too_old_is_listed_again(gone: Any) -> None:
    server = Server()
    server.scripts = [gone]
    async with following(server) as informer:
        server.items = [item("z", "7")]
        server.version = "7"
        await until(lambda: "7" in server.watched_from)
        assert set(informer.objects) == {"x/z"}


async def test_an_object_that_can_not_be_read_ends_nothing() -> None:
    server = Server()
    server.scripts = [[{"type": "ADDED", "object": {"metadata": {"resourceVersion": "3"}}}]]
    async with following(server) as informer:
        server.items = [item("z", "7")]
        server.version = "7"
        await until(lambda: "7" in server.watched_from)
        assert set(informer.objects) == {"x/z"}


async def test_refusals_are_told_apart() -> None:
    async def refuse(request: web.Request) -> web.Response:
        return web.json_response({"message": "because"}, status=int(request.path[1:]))

    async with served(refuse) as api:
        with pytest.raises(NotFound, match="because"):
            await api.get("/404")
        with pytest.raises(AlreadyExists):
            await api.create("/409", {})
        with pytest.raises(Unavailable):
            await api.get("/503")
        assert not await api.delete("/404")


async def test_a_silent_watch_is_noticed() -> None:
    async def silent(_request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(60)
        return web.Response()

    async with served(silent) as api:
        with pytest.raises(Unavailable, match="can't be reached"):
            async for _ in api.watch("/x", 0.2, lambda: None):
                pass


async def test_the_clusters_token_keys_have_a_media_type_of_their_own() -> None:
    cluster = PretendCluster(ec_key())

    async def handle(request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer t"
        if request.path == ISSUER_PATH:
            return web.json_response({"issuer": ISSUER, "jwks_uri": "https://192.0.2.1/keys"})
        assert request.path == KEYS_PATH
        accepted = [each.split(";")[0].strip() for each in request.headers["Accept"].split(",")]
        if not {"application/jwk-set+json", "*/*"} & set(accepted):
            return web.Response(status=406, text="406: Not Acceptable")
        return web.Response(text=cluster.jwks(), content_type="application/jwk-set+json")

    async with served(handle) as api:
        keys = await ClusterKeys(api, ManualClock()).fetch(cluster.key_id)
    assert keys.issuer == ISSUER
    assert json.loads(keys.jwks) == json.loads(cluster.jwks())
