"""The call that is being served: who made it, and what makes it safe to repeat."""

import contextvars
from dataclasses import dataclass

from google.protobuf.message import Message

from allotment_core.auth.principal import Principal
from allotment_core.errors import Unauthenticated


@dataclass(slots=True, kw_only=True)
class Call:
    """One call. The interceptors fill it in on its way; the handler and what it awaits see it."""

    rpc: str
    """The full method name, "/package.Service/Method"."""
    call_id: str
    principal: Principal | None = None
    request_id: str = ""
    """Set for mutating calls alone."""
    body_hash: bytes = b""
    """Of the request without its request_id."""
    response_class: type[Message] | None = None
    responded: bool = False
    """A response is stored (or was found stored) for this call."""


current_call: contextvars.ContextVar[Call | None] = contextvars.ContextVar("call", default=None)


def current_principal() -> Principal:
    """Who makes the call that is being served. Raises: Unauthenticated outside of one."""
    call = current_call.get()
    if call is None or call.principal is None:
        raise Unauthenticated("nobody is known here: this code runs outside of a call with a token")
    return call.principal
