"""The chart's Jobs against a scripted API server: races, outages, silence."""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

Json = dict[str, Any]
HOME = "/api/v1/namespaces/home"


class Server:
    """Objects by their path. Refuses what was read before another wrote."""

    def __init__(self) -> None:
        self.objects: dict[str, Json] = {}
        self.calls: list[tuple[str, str]] = []
        self.before: Callable[[str, str], web.Response | None] = lambda method, path: None
        """Looks at each call first; an answer of it is the call's."""
        self.silent = False

    def put(self, path: str, item: Json) -> Json:
        item["metadata"]["resourceVersion"] = str(len(self.calls) + 1)
        item["metadata"].setdefault("uid", path)
        self.objects[path] = item
        return item

    async def handle(self, request: web.Request) -> web.StreamResponse:
        method, path = request.method, request.path
        self.calls.append((method, path))
        if self.silent:
            await asyncio.sleep(60)
        said = self.before(method, path)
        if said is not None:
            return said
        if method == "POST":
            item = await request.json()
            place = f"{path}/{item['metadata']['name']}"
            if place in self.objects:
                return web.json_response({"message": "exists"}, status=409)
            return web.json_response(self.put(place, item), status=201)
        if path.rpartition("/")[2] in ("namespaces", "pods", "nodes", "jobs"):
            listed = [o for p, o in self.objects.items() if p.rpartition("/")[0] == path]
            return web.json_response({"items": listed, "metadata": {}})
        found = self.objects.get(path)
        if found is None:
            return web.json_response({"message": "no such thing"}, status=404)
        if method == "DELETE":
            return web.json_response(self.objects.pop(path))
        if method == "PATCH":
            return self._patch(path, found, await request.json())
        return web.json_response(found)

    def _patch(self, path: str, found: Json, patch: Json) -> web.Response:
        wanted = patch["metadata"]["resourceVersion"]
        if wanted != found["metadata"]["resourceVersion"]:
            return web.json_response({"message": "changed"}, status=409)
        data = {**found["data"], **patch["data"]}
        item = {**found, "data": {k: v for k, v in data.items() if v is not None}}
        return web.json_response(self.put(path, item))


@pytest.fixture
async def server() -> Server:
    return Server()


@asynccontextmanager
async def served(server: Server, folder: Path) -> AsyncIterator[Path]:
    """A kubeconfig for it."""
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    cluster = {"server": f"http://127.0.0.1:{runner.addresses[0][1]}"}
    config = {
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path = folder / "kubeconfig.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    try:
        yield path
    finally:
        await runner.cleanup()


async def run(verb: str, kubeconfig: Path | str, **settings: str) -> tuple[int, str]:
    """The exit status, and what it said."""
    given: Mapping[str, str] = {
        "RELEASE": "a",
        "NAMESPACE": "home",
        "POSTGRESQL": "true",
        "KUBECONFIG": str(kubeconfig),
        **settings,
    }
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("ALLOTMENT_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "allotment_allocator.install",
        verb,
        env={**inherited, **{f"ALLOTMENT_INSTALL_{k}": v for k, v in given.items()}},
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await asyncio.wait_for(process.communicate(), 50)
    assert process.returncode is not None
    return process.returncode, said.decode()


async def test_two_installs_at_once_agree(server: Server, tmp_path: Path) -> None:
    async with served(server, tmp_path) as kubeconfig:
        ended = await asyncio.gather(*(run("install", kubeconfig) for _ in range(2)))
    assert [status for status, _ in ended] == [0, 0], ended
    data = {path.rpartition("/")[2]: o["data"] for path, o in server.objects.items()}
    assert data["a-ca"]["ca.crt"] == data["a-ca-key"]["tls.crt"]
    assert data["a-dataset-tls"]["ca.crt"] == data["a-ca"]["ca.crt"]


async def test_an_install_that_was_cut_off_goes_on(server: Server, tmp_path: Path) -> None:
    def cut_off(method: str, path: str) -> web.Response | None:
        writes = sum(1 for m, _ in server.calls if m == "POST")
        return web.Response(status=403) if method == "POST" and writes > 3 else None

    server.before = cut_off
    async with served(server, tmp_path) as kubeconfig:
        status, said = await run("install", kubeconfig)
        assert status == 1
        assert "API_SERVER_403" in said
        made = dict(server.objects)
        assert len(made) == 3
        server.before = lambda method, path: None
        assert (await run("install", kubeconfig))[0] == 0
    assert {path: server.objects[path] for path in made} == made
    assert len(server.objects) == 10


async def test_an_outage_is_waited_out(server: Server, tmp_path: Path) -> None:
    server.before = lambda method, path: web.Response(status=503) if len(server.calls) < 4 else None
    async with served(server, tmp_path) as kubeconfig:
        status, said = await run("install", kubeconfig)
    assert status == 0, said
    assert "tried again" in said


@pytest.mark.parametrize("verb", ["install", "rotate", "uninstall"])
async def test_a_silent_server_ends_no_later_than_the_limit(
    server: Server, tmp_path: Path, verb: str
) -> None:
    server.silent = True
    async with served(server, tmp_path) as kubeconfig:
        begun = time.monotonic()
        status, said = await run(verb, kubeconfig, TIMEOUT_S="2")
        took = time.monotonic() - begun
    assert status == 1
    assert took < 20
    assert "Traceback" not in said
    if verb == "uninstall":
        assert "tenants' namespaces (no answer in time)" in said


async def test_uninstall_says_what_it_may_not_remove_and_removes_the_rest(
    server: Server, tmp_path: Path
) -> None:
    labels = {"app.kubernetes.io/part-of": "allotment", "app.kubernetes.io/instance": "a"}
    for name in ("a-ca", "a-admin", "a-postgresql"):
        item = {"metadata": {"name": name, "labels": labels}, "data": {}}
        server.put(f"{HOME}/secrets/{name}", item)
    for name in ("a-acme", "a-stays"):
        server.put(f"/api/v1/namespaces/{name}", {"metadata": {"name": name, "labels": labels}})
    server.before = lambda method, path: (
        web.json_response({"message": "may not"}, status=403)
        if method == "DELETE" and path.endswith("/a-stays")
        else None
    )
    async with served(server, tmp_path) as kubeconfig:
        status, said = await run("uninstall", kubeconfig, TIMEOUT_S="3")
    assert status == 1
    last = json.loads(said.splitlines()[-1])
    assert last["left"] == ["namespace a-stays"]
    assert last["still_going"] == ["namespace a-stays"]
    assert server.objects.keys() == {f"{HOME}/secrets/a-postgresql", "/api/v1/namespaces/a-stays"}


async def test_a_namespace_that_appears_late_goes_as_well(server: Server, tmp_path: Path) -> None:
    """An allocator that is still there makes one more."""
    path, pod = "/api/v1/namespaces/a-late", "/api/v1/pods/a-allocator"
    server.put(pod, {"metadata": {"name": "a-allocator", "namespace": "home"}})
    looks = 0

    def make_it_late(method: str, called: str) -> None:
        nonlocal looks
        looks += called == "/api/v1/pods"
        if looks == 2 and pod in server.objects:
            del server.objects[pod]
            server.put(path, {"metadata": {"name": "a-late"}})

    server.before = make_it_late
    async with served(server, tmp_path) as kubeconfig:
        status, said = await run("uninstall", kubeconfig, TIMEOUT_S="20")
    assert status == 0, said
    assert ("DELETE", path) in server.calls
    assert not server.objects


async def test_what_cannot_be_meant_is_refused_in_words(tmp_path: Path) -> None:
    for verb, settings in (("instal", {}), ("install", {"CERTIFICATES": "some"})):
        status, said = await run(verb, tmp_path / "none", **settings)
        assert status == 2
        assert "INVALID_CONFIG" in said
    status, said = await run("install", tmp_path / "none")
    assert status == 1
    assert "NO_CLUSTER" in said
