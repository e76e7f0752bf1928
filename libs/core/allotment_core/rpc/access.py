"""Authentication by bearer token, authorisation by the rule in the method's proto."""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

from google.protobuf.message import Message

from allotment_api.common.v1 import access_pb2
from allotment_core.auth.principal import Principal, Role
from allotment_core.errors import (
    FieldViolation,
    InvalidArgument,
    PermissionDenied,
    Unauthenticated,
    not_found,
)
from allotment_core.names import TenantName, parse_tenant_resource

_V = access_pb2
VERBS: Mapping[Role, frozenset[int]] = {
    Role.VIEWER: frozenset({_V.VERB_BROWSE, _V.VERB_READ, _V.VERB_FETCH}),
    Role.EDITOR: frozenset(
        {_V.VERB_BROWSE, _V.VERB_READ, _V.VERB_FETCH, _V.VERB_WRITE, _V.VERB_STORE}
    ),
    Role.TRAINER: frozenset({_V.VERB_BROWSE, _V.VERB_FETCH, _V.VERB_STORE, _V.VERB_TRAIN}),
    Role.SERVICE: frozenset({_V.VERB_BROWSE, _V.VERB_IDENTIFY}),
    Role.ADMIN: frozenset(set(_V.Verb.values()) - {_V.VERB_UNSPECIFIED}),
}
"""What each role may do; access.proto says the same."""


class Verifier(Protocol):
    """Tells who holds a token."""

    def verify(self, token: str) -> Principal | Awaitable[Principal]:
        """At once, or once somebody else was asked. Raises: Unauthenticated, Unavailable."""
        ...


@runtime_checkable
class LateVerifier(Verifier, Protocol):
    """One that can't verify from the start on."""

    @property
    def ready(self) -> asyncio.Event:
        """Set once it can."""
        ...


async def authenticate(
    metadata: Iterable[tuple[str, Any]],
    verifier: Verifier,
    peer: Callable[[], Principal | None] = lambda: None,
) -> Principal:
    """Who makes a call with this metadata: the token's holder; without one, the `peer` at the
    other end of the connection. Raises: Unauthenticated, Unavailable.
    """
    given = [value for key, value in metadata if key == "authorization"]
    if not given and (service := peer()) is not None:
        return service
    if not given:
        raise Unauthenticated(
            "the call has no token; send the metadata 'authorization: Bearer TOKEN'",
            reason="MISSING_TOKEN",
        )
    scheme, _, token = given[0].partition(" ") if isinstance(given[0], str) else ("", "", "")
    if len(given) > 1 or scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated(
            "the metadata 'authorization' has to be given once, as 'Bearer TOKEN'",
            reason="INVALID_TOKEN",
        )
    holder = verifier.verify(token.strip())
    return holder if isinstance(holder, Principal) else await holder


def resource_text(rule: access_pb2.AccessRule, request: Message) -> str:
    """What the rule's field holds; "" when it, or a message on the way to it, is not set."""
    value: Any = request
    for part in _parts(rule.resource_field):
        value = getattr(value, part)
    return str(value)


@functools.cache
def _parts(path: str) -> tuple[str, ...]:
    return tuple(path.split("."))


def authorise(rule: access_pb2.AccessRule, text: str, principal: Principal) -> None:
    """Lets a call pass that acts on the resource `text` (unused when the rule names no field).

    Raises: PermissionDenied for a verb that the role lacks, InvalidArgument for a text that is no
        name, NotFound for a resource of another tenant: the same as for one that is not there.
    """
    if rule.verb not in VERBS[principal.role]:
        raise _lacks(rule.verb, principal.role)
    if not rule.resource_field:
        return
    if not text:
        raise InvalidArgument(
            f"{rule.resource_field} is empty; it has to be the name of a resource",
            reason="MISSING_NAME",
            violations=(FieldViolation(rule.resource_field, "has to be set"),),
        )
    wildcard = str(TenantName.WILDCARD)
    if text == wildcard:
        if principal.role is not Role.ADMIN:
            raise PermissionDenied(
                f"{wildcard} needs the role admin; name your own tenant", reason="ROLE_REQUIRED"
            )
        return
    name = parse_tenant_resource(text)
    if principal.role is Role.ADMIN:
        return
    if name.tenant != principal.tenant:
        raise not_found(text)
    if rule.verb == access_pb2.VERB_TRAIN and name != principal.lease:
        raise not_found(text)


def _lacks(verb: int, role: Role) -> PermissionDenied:
    roles = ", ".join(r.value for r in Role if verb in VERBS[r])
    return PermissionDenied(
        f"this method needs one of the roles {roles}; the token's is {role.value}",
        reason="ROLE_REQUIRED",
    )
