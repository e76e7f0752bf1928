"""How callers may name things: by the resource itself, its full name, or its id in the client's
tenant.
"""

from typing import Protocol

from allotment_core.errors import InvalidArgument, clip


class Named(Protocol):
    """Anything that was got from the server."""

    @property
    def name(self) -> str: ...


def full_name(value: str | Named, collection: str, tenant: str) -> str:
    """The full name of a resource in a collection ("experiments") of a tenant.

    Raises: InvalidArgument (NO_NAME) for an empty text.
    """
    text = value if isinstance(value, str) else value.name
    if not text:
        raise InvalidArgument(
            f"an empty text names none of the {collection}; give an id or a full name",
            reason="NO_NAME",
        )
    return text if "/" in text else f"{tenant}/{collection}/{text}"


def version_name(value: str | Named, tenant: str) -> str:
    """A dataset version; a dataset stands for its latest version, `DATASET/VERSION` is a short
    form.
    """
    text = value if isinstance(value, str) else value.name
    if text.count("/") == 1 and not text.startswith("tenants/"):
        dataset, version = text.split("/")
        return f"{tenant}/datasets/{dataset}/versions/{version}"
    name = full_name(text, "datasets", tenant)
    return name if "/versions/" in name else f"{name}/versions/latest"


def nested_name(value: str | Named, parents: str, children: str, tenant: str) -> str:
    """A resource below another, "experiments" and "trials" for example; `PARENT/CHILD` is a short
    form.

    Raises: InvalidArgument (BAD_NAME).
    """
    text = value if isinstance(value, str) else value.name
    if text.startswith("tenants/"):
        return text
    parent, slash, child = text.partition("/")
    if not parent or not slash or not child or "/" in child:
        raise InvalidArgument(
            f"{clip(text)!r} names none of the {children}; "
            f"give tenants/T/{parents}/P/{children}/C or P/C",
            reason="BAD_NAME",
        )
    return f"{tenant}/{parents}/{parent}/{children}/{child}"
