"""Values that can't be meant are refused, and the words say where."""

import json
import re
from collections.abc import Iterator, Mapping

import pytest
import yaml

from allotment_testkit.chart import CHART, Json, Refused, render
from allotment_testkit.chart_forms import EXTERNAL_S3, NO_GATEWAY

SCHEMA: Json = json.loads((CHART / "values.schema.json").read_text())
VALUES_TEXT = (CHART / "values.yaml").read_text()
VALUES: Json = yaml.safe_load(VALUES_TEXT)
OPEN = ("affinity.nodeAffinity", "affinity.podAffinity", "affinity.podAntiAffinity", "global")
"""What Kubernetes or other charts describe, not this one."""


def resolved(schema: Json) -> Json:
    reference = schema.get("$ref")
    return SCHEMA["$defs"][reference.rpartition("/")[2]] if reference else schema


def objects(schema: Json, path: str = "") -> Iterator[tuple[str, Json]]:
    schema = resolved(schema)
    types = schema.get("type")
    if types == "object" or "properties" in schema:
        yield path, schema
        for name, inner in schema.get("properties", {}).items():
            yield from objects(inner, f"{path}.{name}".lstrip("."))
        if isinstance(schema.get("additionalProperties"), Mapping):
            yield from objects(schema["additionalProperties"], f"{path}.*")
    elif "items" in schema:
        yield from objects(schema["items"], f"{path}[]")


def test_the_schema_is_closed_everywhere() -> None:
    seen = list(objects(SCHEMA))
    assert len(seen) > 100
    for path, schema in seen:
        if not path.endswith(OPEN):
            # False, or what each of the user's own names may hold.
            assert schema["additionalProperties"] is not True, path


def test_everything_that_has_a_default_is_in_the_schema_and_the_other_way_round() -> None:
    by_path = {path: schema for path, schema in objects(SCHEMA) if "[]" not in path}

    def compare(values: Json, path: str) -> None:
        schema = by_path[path]
        if schema["additionalProperties"] is not False:
            return
        assert set(values) == set(schema["properties"]) - {"global"}, path or "the top"
        for name, value in values.items():
            inner = f"{path}.{name}".lstrip(".")
            if isinstance(value, dict) and inner in by_path and name != "affinity":
                compare(value, inner)

    compare(VALUES, "")


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"nope": 1}, "additional properties 'nope'"),
        ({"image": {"tagg": "x"}}, "'/image': additional properties 'tagg'"),
        ({"dataset": {"replica": 1}}, "'/dataset': additional properties 'replica'"),
        ({"controller": {"settings": {"samplr": "tpe"}}}, "'/controller/settings'"),
        ({"controller": {"settings": {"sampler": "best"}}}, "'/controller/settings/sampler'"),
        ({"dataset": {"replicas": 2}}, "'/dataset/replicas': maximum: got 2, want 1"),
        ({"exporter": {"replicas": 2}}, "'/exporter/replicas': maximum"),
        ({"gateway": {"enabled": "yes"}}, "'/gateway/enabled': got string, want boolean"),
        ({"gateway": {"service": {"type": "Nodeport"}}}, "'/gateway/service/type'"),
        ({"image": {"pullPolicy": "Sometimes"}}, "'/image/pullPolicy'"),
        ({"image": {"tag": 1.1}}, "'/image/tag'"),
        ({"trainer": {"cpu": {"cores": 0}}}, "'/trainer/cpu/cores'"),
        ({"trainer": {"cpu": {"memory": "lots"}}}, "'/trainer/cpu/memory'"),
        ({"trainer": {"environment": {"A": 1}}}, "'/trainer/environment/A'"),
        ({"pools": {"a": {"price": 1}}}, "'/pools/a': additional properties 'price'"),
        ({"pools": {"a": {"resource": "tpu"}}}, "'/pools/a/resource'"),
        ({"tenants": {"Acme": {}}}, "'Acme'"),
        ({"tenants": {"acme": {"queues": "x"}}}, "'/tenants/acme'"),
        ({"s3": {"endpoint": "minio:9000"}}, "'/s3/endpoint'"),
        ({"s3": {"bucket": "UPPER"}}, "'/s3/bucket'"),
        ({"s3": {"secret": {"keys": "x"}}}, "'/s3/secret'"),
        ({"postgresql": {"external": {"port": "5432"}}}, "'/postgresql/external/port'"),
        ({"postgresql": {"external": {"sslmode": "on"}}}, "'/postgresql/external/sslmode'"),
        ({"postgresql": {"image": ""}}, "'/postgresql/image'"),
        ({"certificates": {"mode": "self"}}, "'/certificates/mode'"),
        ({"route": {"kind": "HTTPRoute"}}, "'/route/kind'"),
        ({"networkPolicy": {"clients": [{"pod": {}}]}}, "'/networkPolicy/clients/0'"),
        ({"networkPolicy": {"databaseCidrs": ["db"]}}, "'/networkPolicy/databaseCidrs/0'"),
        ({"hpa": {"enabled": "true"}}, "'/hpa/enabled'"),
        ({"serviceMonitor": {"interval": "30"}}, "'/serviceMonitor/interval'"),
        ({"persistence": {"keep": True}}, "'/persistence'"),
        ({"gateway": {"tolerations": [{"keey": "x"}]}}, "'/gateway/tolerations/0'"),
        ({"gateway": {"extraEnv": [{"value": "x"}]}}, "'/gateway/extraEnv/0'"),
        ({"gateway": {"resources": {"limits": {"gpu": 1}}}}, "'/gateway/resources/limits'"),
        ({"listenAddress": "localhost"}, "'/listenAddress'"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_a_wrong_value_is_refused_by_its_path(values: Json, where: str) -> None:
    with pytest.raises(Refused, match=re.escape(where)):
        render(values)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"postgresql": {"enabled": False}}, "name a server in postgresql.external.host"),
        ({"s3": {"endpoint": "https://s3.example.com"}}, "set minio.enabled to false"),
        ({"s3": {"secret": {"name": "keys"}}}, "set minio.enabled to false"),
        ({"route": {"kind": "GRPCRoute"}}, "route.grpcRoute.parentRefs"),
        ({"route": {"kind": "Ingress"}}, "route.hostnames"),
        (
            {"certificates": {"mode": "cert-manager", "certManager": {"issuerRef": {"name": "x"}}}},
            "certificates.certManager.caCertificate",
        ),
        (
            {"kueue": {"enabled": True}, "tenants": {"acme": {}}},
            "tenants.acme has no queue",
        ),
        ({"kueue": {"enabled": True}}, "kueue.queue"),
        (
            {
                "postgresql": {
                    "enabled": False,
                    "external": {"host": "db", "sslmode": "disable", "ca": {"configMap": "x"}},
                }
            },
            "sslmode",
        ),
        ({"trainer": {"cpu": {"cores": 2, "coresLimit": 1}}}, "trainer.cpu.coresLimit"),
        (
            {"certificates": {"days": 30, "renewBeforeDays": 30}},
            "certificates.renewBeforeDays",
        ),
        ({"certificates": {"caDays": 365}}, "certificates.caDays"),
        ({**NO_GATEWAY, "hpa": {"enabled": True}}, "hpa.enabled"),
        ({"hpa": {"enabled": True, "minReplicas": 5, "maxReplicas": 2}}, "hpa.maxReplicas"),
        (
            {"tenants": {"a": {"namespace": "one"}, "b": {"namespace": "one"}}},
            "namespace one is named for two tenants",
        ),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_values_that_contradict_each_other_are_refused_with_what_to_do(
    values: Json, words: str
) -> None:
    with pytest.raises(Refused, match=re.escape(words)):
        render(values)


def test_a_release_name_that_no_label_can_hold_is_refused() -> None:
    with pytest.raises(Refused, match="longer than 40 letters"):
        render(release="a" * 41)
    assert render(release="a" * 40).objects


def test_a_chart_that_has_this_one_as_a_part_may_have_globals() -> None:
    assert render({"global": {"whatever": {"it": "is"}}}).text == render().text


def test_every_default_says_what_it_is_for_or_is_one_of_a_kind() -> None:
    """helm-docs' comments: a line `# -- ` above each value whose name alone does not say it."""
    described = re.findall(r"^ *# -- .+\n(?: *# .+\n)* *([A-Za-z0-9]+):", VALUES_TEXT, re.MULTILINE)
    assert len(described) > 90
    for section in VALUES:
        assert re.search(rf"^{section}:", VALUES_TEXT, re.MULTILINE)


def test_an_s3_server_without_keys_is_a_choice() -> None:
    assert render({**EXTERNAL_S3, "s3": {"endpoint": "https://s3.example.com"}}).objects
