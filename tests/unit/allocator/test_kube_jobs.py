"""Trainers' Jobs, and what is read out of them."""

from pathlib import Path
from typing import Any

import pytest

from allotment_allocator.adapters.kube.jobs import JobRules, job_name, make_job
from allotment_allocator.adapters.kube.states import job_view, judge
from allotment_allocator.domain.pool import ANYWHERE, CPU, GPU, Place
from allotment_allocator.domain.ports import TrainerOrder
from allotment_allocator.domain.queueing import Queueing
from allotment_core.names import LeaseName, PoolName, TenantName

RULES = JobRules(
    release="r", home="h", image="allotment/trainer:1", controller="c:443", dataset="d:443"
)


def order(**more: Any) -> TrainerOrder:
    values: dict[str, Any] = {
        "trainer_id": "t-1",
        "lease": LeaseName(TenantName("acme"), "l-ab12"),
        "epoch": 3,
        "slot_count": 2,
        "place": Place(PoolName("h100"), "node-7"),
        "resource": GPU,
        "server": "c:443",
        "token": "",
        "threads": 8,
        "memory_bytes": 32 << 30,
        "cache_dir": Path("/var/cache"),
    }
    return TrainerOrder(**{**values, **more})


def pod_spec(job: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = job["spec"]["template"]["spec"]
    return spec


def test_one_epoch_of_a_lease_is_one_job_that_is_not_tried_again() -> None:
    job = make_job(order(), RULES, GPU)
    assert job["metadata"]["name"] == job_name(order()) == "l-ab12-3"
    assert job["spec"]["backoffLimit"] == 0
    assert job["spec"]["podReplacementPolicy"] == "Failed"
    assert {rule["action"] for rule in job["spec"]["podFailurePolicy"]["rules"]} == {"FailJob"}
    assert pod_spec(job)["restartPolicy"] == "Never"


def test_requests_are_limits_and_a_gang_is_one_pod() -> None:
    resources = pod_spec(make_job(order(), RULES, GPU))["containers"][0]["resources"]
    assert resources["requests"] == resources["limits"]
    assert resources["limits"] == {"cpu": "8000m", "memory": str(32 << 30), "nvidia.com/gpu": "2"}
    slice_ = make_job(order(slot_count=1), RULES, "mig-1g.10gb")
    assert pod_spec(slice_)["containers"][0]["resources"]["limits"]["nvidia.com/mig-1g.10gb"] == "1"
    assert "nvidia.com/gpu" not in str(make_job(order(), RULES, CPU))


def test_a_slot_may_be_a_part_of_a_core() -> None:
    resources = pod_spec(make_job(order(threads=1, cores=0.25), RULES, CPU))["containers"][0]
    assert resources["resources"]["requests"]["cpu"] == "250m"
    assert {"name": "ALLOTMENT_TRAINER_THREADS", "value": "1"} in resources["env"]


def test_a_pod_may_nothing_that_it_does_not_need() -> None:
    spec = pod_spec(make_job(order(), RULES, GPU))
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert "runAsUser" not in str(spec)
    container = spec["containers"][0]["securityContext"]
    assert container["readOnlyRootFilesystem"] is True
    assert container["capabilities"] == {"drop": ["ALL"]}
    assert all("emptyDir" not in v or "sizeLimit" in v["emptyDir"] for v in spec["volumes"])


def test_a_pod_goes_to_the_node_of_its_grant_or_where_one_is_still_to_come() -> None:
    assert "node-7" in str(pod_spec(make_job(order(), RULES, GPU))["affinity"])
    expected = order(place=Place(PoolName("h100"), "+1"))
    assert "affinity" not in pod_spec(make_job(expected, RULES, GPU))


def test_a_pod_that_is_to_be_alone_keeps_away_from_others_until_its_node_is_known() -> None:
    there = pod_spec(make_job(order(alone=True), RULES, GPU))
    assert "podAntiAffinity" not in there["affinity"]
    expected = order(alone=True, place=Place(PoolName("h100"), "+1"))
    [term] = pod_spec(make_job(expected, RULES, GPU))["affinity"]["podAntiAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]
    assert term["labelSelector"]["matchExpressions"][0]["values"] == ["acme"]
    assert term["namespaceSelector"] == {}


def test_a_pod_tolerates_the_mark_of_its_own_tenants_nodes_alone() -> None:
    tolerations = pod_spec(make_job(order(), RULES, CPU))["tolerations"]
    assert tolerations == [
        {
            "key": "allotment.dev/dedicated",
            "operator": "Equal",
            "value": "r.acme",
            "effect": "NoSchedule",
        }
    ]


def test_a_pod_goes_to_nodes_of_its_pool() -> None:
    selected = order(selector=(("allotment.dev/pool", "h100"),))
    assert pod_spec(make_job(selected, RULES, GPU))["nodeSelector"] == {
        "allotment.dev/pool": "h100"
    }


def test_with_a_queue_a_job_waits_to_be_admitted() -> None:
    rules = JobRules(
        release="r",
        home="h",
        image="i",
        queueing=Queueing(default="team-a"),
        queue_priority_class="p",
    )
    job = make_job(order(place=Place(PoolName("h100"), ANYWHERE)), rules, GPU)
    assert job["spec"]["suspend"] is True
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert job["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "p"
    assert "kueue" not in str(job["spec"]["template"]["metadata"]["labels"])
    assert "affinity" not in pod_spec(job)


def viewed(**status: Any) -> dict[str, Any]:
    return job_view({**make_job(order(), RULES, GPU), "status": status})


def pod(phase: str = "Pending", **more: Any) -> dict[str, Any]:
    empty: dict[str, Any] = {"leaving": False, "node": "", "conditions": [], "containers": []}
    return {**empty, "phase": phase, **more}


def container(**state: Any) -> dict[str, Any]:
    return {"state": state}


def test_a_job_tells_what_an_allocator_that_restarts_has_to_know() -> None:
    view = viewed()
    assert (view["place"], view["slot_count"]) == (order().place, 2)
    assert view["labels"]["allotment.dev/epoch"] == "3"


@pytest.mark.parametrize(
    ("its_pod", "reason", "words"),
    [
        (
            pod(conditions=[{"type": "PodScheduled", "status": "False", "message": "no gpu"}]),
            "UNSCHEDULABLE",
            "no gpu",
        ),
        (
            pod(containers=[container(waiting={"reason": "ErrImagePull", "message": "denied"})]),
            "IMAGE_PULL",
            "denied",
        ),
        (
            pod(containers=[container(waiting={"reason": "CreateContainerConfigError"})]),
            "CONTAINER",
            "CreateContainerConfigError",
        ),
        (pod(node="n1"), "STARTING", "starts on n1"),
    ],
)
def test_what_a_start_waits_for_is_told(its_pod: dict[str, Any], reason: str, words: str) -> None:
    verdict = judge(viewed(), [its_pod], seen=True)
    assert verdict.hint is not None
    assert words in verdict.hint.message
    assert verdict.hint.reason == reason
    assert not verdict.running


def test_a_trainer_runs_when_its_container_does() -> None:
    assert judge(viewed(), [pod("Running", containers=[container(running={})])], seen=True).running


def test_nobody_is_gone_while_a_pod_of_the_job_is_alive() -> None:
    failed = viewed(conditions=[{"type": "Failed", "status": "True", "reason": "x"}])
    ending = pod("Running", leaving=True, containers=[container(running={})])
    assert judge(failed, [ending], seen=True).gone is None
    assert judge(None, [ending], seen=True).leaving


@pytest.mark.parametrize(
    ("its_pod", "words", "kind"),
    [
        (
            pod(
                "Failed",
                conditions=[
                    {
                        "type": "DisruptionTarget",
                        "status": "True",
                        "reason": "EvictionByEvictionAPI",
                    }
                ],
            ),
            "disrupted",
            "DISRUPTED",
        ),
        (
            pod("Failed", containers=[container(terminated={"reason": "OOMKilled"})]),
            "OOMKilled",
            "OUT_OF_MEMORY",
        ),
        (
            pod("Failed", containers=[container(terminated={"exitCode": 64})]),
            "status 64",
            "CRASHED",
        ),
        (
            pod("Failed", containers=[container(terminated={"exitCode": 77})]),
            "lease was refused",
            "CRASHED",
        ),
        (
            pod("Failed", containers=[container(terminated={"exitCode": 3})]),
            "it ended (exit",
            "CRASHED",
        ),
        (pod("Succeeded"), "Job failed", ""),
    ],
)
def test_why_a_trainer_has_ended_is_told(its_pod: dict[str, Any], words: str, kind: str) -> None:
    failed = viewed(conditions=[{"type": "Failed", "status": "True"}])
    verdict = judge(failed, [its_pod], seen=True)
    assert verdict.gone is not None
    assert words in verdict.gone
    assert verdict.kind == kind


def test_a_trainer_that_failed_leaves_the_end_of_its_log() -> None:
    said = {"exitCode": 64, "message": "x" * 5000 + "ALLOTMENT_TRAINER_EPOCH is missing"}
    failed = pod("Failed", containers=[container(terminated=said)])
    ended = viewed(conditions=[{"type": "Failed", "status": "True"}])
    verdict = judge(ended, [pod("Failed"), failed], seen=True)
    assert verdict.last_words.endswith("EPOCH is missing")
    assert len(verdict.last_words) == 2000
    assert judge(ended, [pod("Failed")], seen=True).last_words == ""
    made = pod_spec(make_job(order(), JobRules(release="r", home="h", image="i"), CPU))
    assert made["containers"][0]["terminationMessagePolicy"] == "FallbackToLogsOnError"


def test_a_job_that_was_asked_for_and_is_not_seen_yet_is_not_gone() -> None:
    assert judge(None, [], seen=False).gone is None
    assert judge(None, [], seen=True).gone is not None


def test_a_pod_without_devices_may_use_more_of_the_cpu_than_it_asks_for() -> None:
    rules = JobRules(release="r", home="h", image="i", cpu_limit_share=4.0)
    resources = pod_spec(make_job(order(cores=0.25), rules, CPU))["containers"][0]["resources"]
    assert (resources["requests"]["cpu"], resources["limits"]["cpu"]) == ("250m", "1000m")
    assert resources["requests"]["memory"] == resources["limits"]["memory"]
    on_gpu = pod_spec(make_job(order(), rules, GPU))["containers"][0]["resources"]
    assert on_gpu["requests"] == on_gpu["limits"]


def test_more_taints_are_tolerated_by_all_trainers() -> None:
    rules = JobRules(release="r", home="h", image="i", tolerated=("team",))
    for resource in (CPU, GPU):
        assert {"key": "team", "operator": "Exists"} in pod_spec(
            make_job(order(), rules, resource)
        )["tolerations"]
