"""What is read out of the API server's objects."""

from typing import Any

import pytest

from allotment_allocator.adapters.kube.nodes import (
    node_view,
    others_request,
    quantity,
    requests_of,
    trim_node,
    trim_pod,
)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *(("4", 4.0), ("0", 0.0), ("1e3", 1000.0), ("1E3", 1000.0), ("1.5", 1.5)),
        *(("500m", 0.5), ("100u", 1e-4), ("5n", 5e-9), ("2k", 2e3), ("2M", 2e6), ("1E", 1e18)),
        *(("32780884Ki", 32780884 * 1024.0), ("16Gi", 16 * 2.0**30), ("1Ei", 2.0**60)),
    ],
)
def test_quantities_are_numbers(text: str, number: float) -> None:
    assert quantity(text) == pytest.approx(number)


@pytest.mark.parametrize("text", ["", "abc", "5Q", "Ki", "5 Gi", "1.2.3"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"quantity|convert"):
        quantity(text)


def pod(name: str, node: str, cpu: str, **labels: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "x", "uid": name, "labels": labels},
        "spec": {
            "nodeName": node,
            "containers": [{"resources": {"requests": {"cpu": cpu, "nvidia.com/gpu": "1"}}}],
        },
        "status": {"phase": "Running"},
    }


def test_first_steps_count_where_they_ask_for_more() -> None:
    spec = {
        "containers": [{"resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}, {}],
        "initContainers": [
            {"resources": {"requests": {"cpu": "3"}}},
            {"resources": {"requests": {"memory": "1Gi"}}, "restartPolicy": "Always"},
        ],
        "overhead": {"cpu": "250m"},
    }
    assert requests_of(spec) == {"cpu": 3.25, "memory": 2.0**31}


def test_our_trainers_and_ended_pods_take_nothing_from_us() -> None:
    ended = pod("c", "n1", "4")
    ended["status"]["phase"] = "Succeeded"
    labels = {
        "allotment.dev/lease": "l1",
        "app.kubernetes.io/instance": "r",
        "allotment.dev/home": "h",
    }
    trainer = trim_pod(pod("b", "n1", "2", **labels))
    others = [trim_pod(p) for p in (pod("a", "n1", "500m"), ended, pod("d", "", "1"))]
    used = [others_request(pod, "r", "h") for pod in others]
    of_one = {"cpu": 0.5, "nvidia.com/gpu": 1.0, "pods": 1, "workloads": 1}
    assert used == [("n1", of_one), None, None]
    assert others_request(trainer, "r", "h") is None
    assert others_request(trainer, "another release", "h") is not None
    assert others_request(trainer, "r", "another namespace") is not None


def test_what_runs_on_every_node_is_no_workload() -> None:
    daemon = pod("a", "n1", "1")
    daemon["metadata"]["ownerReferences"] = [{"kind": "DaemonSet"}]
    taken = others_request(trim_pod(daemon), "r", "h")
    assert taken is not None
    assert (taken[1]["workloads"], taken[1]["cpu"]) == (0, 1.0)


def test_a_node_is_read_with_its_state() -> None:
    node = {
        "metadata": {
            "name": "n1",
            "labels": {"allotment.dev/pool": "a"},
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {"unschedulable": True, "taints": [{"key": "k", "effect": "NoSchedule"}]},
        "status": {
            "allocatable": {"cpu": "3920m"},
            "conditions": [
                {
                    "type": "Ready",
                    "status": "Unknown",
                    "lastTransitionTime": "2026-01-02T00:00:00Z",
                }
            ],
        },
    }
    view = node_view(trim_node(node))
    assert (view.ready, view.cordoned, view.ready_since.day) == (False, True, 2)
    assert view.allocatable == {"cpu": pytest.approx(3.92)}
    assert view.taints[0].key == "k"
