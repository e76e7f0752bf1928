"""Events that the allocator writes into the cluster."""

import asyncio
from typing import Any

import pytest

from allotment_allocator.adapters.kube.events import (
    NORMAL,
    WARNING,
    Events,
    job_reference,
    node_reference,
)
from allotment_core.errors import PermissionDenied, Unavailable
from allotment_testkit.clock import ManualClock

JOB = job_reference("r-acme/l-1-1", "u1")


class Api:
    def __init__(self) -> None:
        self.written: list[tuple[str, dict[str, Any]]] = []
        self.refuses: Exception | None = None
        self.asked = 0

    async def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self.asked += 1
        if self.refuses is not None:
            raise self.refuses
        self.written.append((path, body))
        return body


async def written_after(events: Events) -> None:
    task = asyncio.create_task(events.run())
    for _ in range(60):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def events_of(api: Any, clock: ManualClock | None = None) -> Events:
    return Events(api, "r", "h", clock or ManualClock())


async def test_an_event_is_about_its_object_in_its_namespace() -> None:
    api = Api()
    events = events_of(api)
    events.tell(JOB, WARNING, "Revoked", "its node is gone")
    await written_after(events)
    [(path, event)] = api.written
    assert path == "/apis/events.k8s.io/v1/namespaces/r-acme/events"
    assert event["regarding"] == JOB
    assert (event["type"], event["reason"], event["note"]) == (
        "Warning",
        "Revoked",
        "its node is gone",
    )
    assert event["metadata"]["labels"]["app.kubernetes.io/part-of"] == "allotment"
    assert event["eventTime"].endswith(".000000Z")


async def test_events_about_nodes_are_in_the_default_namespace() -> None:
    api = Api()
    events = events_of(api)
    events.tell(node_reference("n1"), WARNING, "NodeLost", "x")
    await written_after(events)
    assert api.written[0][0] == "/apis/events.k8s.io/v1/namespaces/default/events"


async def test_the_same_is_told_once_in_ten_minutes() -> None:
    api, clock = Api(), ManualClock()
    events = events_of(api, clock)
    for _ in range(3):
        events.tell(JOB, NORMAL, "Granted", "a")
        clock.advance(1)
    events.tell(JOB, NORMAL, "Granted", "b")
    clock.advance(700)
    events.tell(JOB, NORMAL, "Granted", "a")
    await written_after(events)
    assert [event["note"] for _, event in api.written] == ["a", "b", "a"]


async def test_a_flood_is_cut_and_never_waited_for() -> None:
    api = Api()
    events = events_of(api)
    for n in range(1000):
        events.tell(JOB, NORMAL, "Granted", str(n))
    await written_after(events)
    assert 0 < len(api.written) <= 30


@pytest.mark.parametrize(
    ("refuses", "asked"), [(PermissionDenied("no"), 1), (Unavailable("away"), 2)]
)
async def test_what_may_not_be_written_is_not_tried_again(refuses: Exception, asked: int) -> None:
    api = Api()
    api.refuses = refuses
    events = events_of(api)
    events.tell(JOB, NORMAL, "Granted", "a")
    events.tell(JOB, NORMAL, "Granted", "b")
    await written_after(events)
    assert api.asked == asked
