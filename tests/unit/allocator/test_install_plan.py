"""What a release's secrets have to hold, given what they hold."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from allotment_allocator.install import authority, plan
from allotment_allocator.install.authority import KeyPair
from allotment_allocator.install.config import InstallConfig
from allotment_allocator.install.plan import Plan, Secret
from allotment_core.auth.principal import Role
from allotment_core.auth.tokens import TokenSigner, TokenVerifier
from allotment_core.errors import FailedPrecondition, InvalidArgument
from allotment_core.names import TenantName
from allotment_testkit.clock import ManualClock

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
CONFIG = InstallConfig(
    release="a", namespace="home", services=("dataset", "gateway"), postgresql=True, minio=True
)
LEAVES = {"a-dataset-tls", "a-gateway-tls"}
EVERYTHING = {"a-ca", "a-ca-key", "a-signing-key", "a-admin", "a-postgresql", "a-minio", *LEAVES}


def after(found: Mapping[str, Secret], made: Plan) -> dict[str, Secret]:
    """What is stored once the plan was written."""
    return {**found, **{name: replace(s, version="1") for name, s in made.writes.items()}}


def installed(config: InstallConfig = CONFIG, now: datetime = NOW) -> dict[str, Secret]:
    return after({}, plan.whole(config, {}, (), now))


def given(**data: bytes) -> Secret:
    """Made by somebody beforehand."""
    return Secret(data=data, ours=False, version="7")


def test_everything_is_made_where_nothing_is_and_nothing_again() -> None:
    found = installed()
    assert found.keys() == EVERYTHING == set(plan.names(CONFIG))
    again = plan.whole(CONFIG, found, ("data-a-postgresql-0",), NOW)
    assert again.writes == {}
    assert again.notes == ()


def test_the_secret_for_clients_holds_no_key() -> None:
    found = installed()
    assert found["a-ca"].data == {"ca.crt": found["a-ca-key"].data["tls.crt"]}
    assert b"PRIVATE" not in found["a-ca"].data["ca.crt"]


def test_passwords_differ_and_are_never_shown() -> None:
    found = installed()
    password = found["a-postgresql"].data["password"]
    assert len(password) >= 40
    assert password != found["a-minio"].data["secret-key"]
    assert password != installed()["a-postgresql"].data["password"]
    assert password.decode() not in repr(found["a-postgresql"])


def test_stores_of_others_get_no_password() -> None:
    outside = replace(CONFIG, postgresql=False, minio=False)
    assert installed(outside).keys() == EVERYTHING - {"a-postgresql", "a-minio"}


@pytest.mark.parametrize("store", ["postgresql", "minio"])
def test_a_kept_volume_without_its_password_is_refused(store: str) -> None:
    with pytest.raises(FailedPrecondition, match=f"data-a-{store}-0") as refused:
        plan.whole(CONFIG, {}, (f"data-a-{store}-0",), NOW)
    assert refused.value.reason == "KEPT_VOLUME_WITHOUT_PASSWORD"


def test_the_first_token_is_an_admins_and_is_verified_by_the_signing_key() -> None:
    found = installed()
    key = TokenSigner(found["a-signing-key"].data["key.pem"]).public_key_pem
    token = found["a-admin"].data["token"].decode()
    holder = TokenVerifier(key, ManualClock(NOW)).verify(token)
    assert holder.role is Role.ADMIN
    assert holder.tenant == TenantName("default")
    assert holder.expires_at == NOW + 365 * DAY


def test_an_upgrade_renews_the_first_token_when_a_third_is_left_and_rotation_never() -> None:
    found = installed()
    for days, renewed in ((200, False), (250, True), (400, True)):
        wanted = plan.whole(CONFIG, found, (), NOW + days * DAY)
        assert ("a-admin" in wanted.writes) == renewed
    assert "a-admin" not in plan.renewal(CONFIG, found, NOW + 400 * DAY).writes


def test_a_token_of_another_key_is_replaced() -> None:
    found = installed() | {"a-signing-key": given(**{"key.pem": authority.new_key()})}
    assert set(plan.whole(CONFIG, found, (), NOW).writes) == {"a-admin"}


def test_certificates_are_renewed_before_they_end_and_the_authority_is_not() -> None:
    found = installed()
    assert plan.renewal(CONFIG, found, NOW + 59 * DAY).writes == {}
    assert plan.renewal(CONFIG, found, NOW + 61 * DAY).writes.keys() == LEAVES


def test_a_new_name_of_the_gateway_is_in_its_certificate_alone() -> None:
    more = replace(CONFIG, server_names=("models.example.com",))
    assert plan.renewal(more, installed(), NOW).writes.keys() == {"a-gateway-tls"}
    without = replace(more, services=("dataset",))
    assert "a-dataset-tls" in plan.renewal(without, installed(), NOW).writes


def test_the_next_authority_is_in_every_bundle_before_it_signs() -> None:
    found = installed()
    # Two thirds of its life: the services' certificates are a month old when it is over.
    found = after(found, plan.renewal(CONFIG, found, NOW + 2410 * DAY))
    first, found = found, after(found, plan.renewal(CONFIG, found, NOW + 2440 * DAY))
    assert len(authority.certificates_of(found["a-ca"].data["ca.crt"])) == 2
    for name in LEAVES:
        assert found[name].data["ca.crt"] == found["a-ca"].data["ca.crt"]
        assert found[name].data["tls.crt"] == first[name].data["tls.crt"]
    found = after(found, plan.renewal(CONFIG, found, NOW + 3650 * DAY * 0.9))
    assert "next.key" not in found["a-ca-key"].data
    assert found["a-ca-key"].data["tls.crt"] != first["a-ca-key"].data["tls.crt"]
    assert first["a-ca"].data["ca.crt"] in found["a-ca"].data["ca.crt"]
    assert plan.renewal(CONFIG, found, NOW + 3650 * DAY * 0.9).writes == {}


def test_a_lost_authority_is_replaced_and_the_old_one_counts_on() -> None:
    found = installed()
    old = found.pop("a-ca-key").data["tls.crt"]
    found = after(found, plan.renewal(CONFIG, found, NOW))
    assert old in found["a-ca"].data["ca.crt"]
    assert found["a-ca-key"].data["tls.crt"] != old


def test_with_cert_manager_the_authority_alone_is_made_and_never_followed() -> None:
    config = replace(CONFIG, certificates="cert-manager")
    found = installed(config)
    assert found.keys() == EVERYTHING - LEAVES
    assert found["a-ca-key"].kind == "kubernetes.io/tls"
    late = plan.renewal(config, found, NOW + 3650 * DAY * 0.8)
    assert late.writes == {}
    assert "a-ca-key ends at" in late.notes[0]


def test_without_certificates_of_ours_there_is_no_authority() -> None:
    config = replace(CONFIG, certificates="none")
    assert installed(config).keys() == EVERYTHING - LEAVES - {"a-ca", "a-ca-key"}


def test_what_was_made_beforehand_is_used_and_never_written() -> None:
    signer = authority.new_authority("theirs", NOW, 3650)
    theirs = {
        "a-ca-key": given(**{"tls.crt": signer.certificate, "tls.key": signer.key}),
        "a-postgresql": given(password=b"theirs"),
        "a-signing-key": given(**{"key.pem": authority.new_key()}),
    }
    wanted = plan.whole(CONFIG, theirs, ("data-a-postgresql-0",), NOW)
    assert wanted.writes.keys() == EVERYTHING - theirs.keys()
    certificate = wanted.writes["a-dataset-tls"].data
    pair = KeyPair(certificate=certificate["tls.crt"], key=certificate["tls.key"])
    names = CONFIG.names_of("dataset")
    assert not authority.why_not(pair, signer, "dataset", names, NOW, DAY)
    # Theirs to follow.
    late = plan.renewal(CONFIG, after(theirs, wanted), NOW + 3650 * DAY * 0.9)
    assert "a-ca-key" not in late.writes
    assert late.notes


def all_given(now: datetime = NOW) -> dict[str, Secret]:
    signer = authority.new_authority("theirs", now, 3650)
    found = {"a-ca": given(**{"ca.crt": signer.certificate})}
    for service in CONFIG.services:
        pair = authority.issue(signer, service, CONFIG.names_of(service), now, 90)
        data = {"tls.crt": pair.certificate, "tls.key": pair.key, "ca.crt": signer.certificate}
        found[f"a-{service}-tls"] = given(**data)
    return found


def test_certificates_made_beforehand_need_no_authority_and_their_end_is_told() -> None:
    found = all_given()
    assert plan.renewal(CONFIG, found, NOW) == Plan(writes={})
    late = plan.renewal(CONFIG, found, NOW + 70 * DAY)
    assert late.writes == {}
    assert len(late.notes) == 2


def test_half_of_an_authority_made_beforehand_is_refused() -> None:
    found = all_given()
    del found["a-gateway-tls"]
    with pytest.raises(FailedPrecondition) as refused:
        plan.renewal(CONFIG, found, NOW)
    assert refused.value.reason == "NO_AUTHORITY_KEY"
    other = authority.new_authority("other", NOW, 3650)
    found["a-ca-key"] = given(**{"tls.crt": other.certificate, "tls.key": other.key})
    with pytest.raises(FailedPrecondition) as refused:
        plan.renewal(CONFIG, found, NOW)
    assert refused.value.reason == "ANOTHER_AUTHORITY"


@pytest.mark.parametrize(
    "name", ["a-postgresql", "a-minio", "a-ca-key", "a-admin", "a-signing-key"]
)
def test_a_secret_made_beforehand_that_lacks_a_key_is_named(name: str) -> None:
    with pytest.raises(FailedPrecondition, match=f"secret {name} lacks"):
        plan.whole(CONFIG, {name: given(other=b"x")}, (), NOW)


def test_a_signing_key_that_is_none_is_named() -> None:
    with pytest.raises(FailedPrecondition, match="secret a-signing-key"):
        plan.whole(CONFIG, {"a-signing-key": given(**{"key.pem": b"x"})}, (), NOW)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("release", ""),
        ("certificates", "some"),
        ("renew_days", 90),
        ("renew_days", 0),
        ("ca_days", 400),
        ("admin_token_days", 400),
        ("tenant_namespaces", '["a"]'),
        ("tenant_namespaces", "{"),
        ("timeout_s", 0.0),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(setting: str, value: object) -> None:
    with pytest.raises(InvalidArgument, match=f"ALLOTMENT_INSTALL_{setting.upper()}"):
        replace(CONFIG, **{setting: value})  # type: ignore[arg-type]
