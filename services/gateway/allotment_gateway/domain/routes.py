"""Which service serves a method, by the package of its name alone."""

from collections.abc import Mapping

OWNERS: Mapping[str, str] = {
    "allotment_api.dataset": "dataset",
    "allotment_api.search": "controller",
    "allotment_api.trainer": "controller",
    "allotment_api.allocator": "allocator",
    "allotment_api.exporter": "exporter",
}
"""Proto packages, without their versions, and the services that serve them."""

SERVICES = tuple(dict.fromkeys(OWNERS.values()))


def owner_of_method(path: str) -> str | None:
    """The service behind "/package.version.Service/Method"; None: nobody's."""
    empty, slash, rest = path.partition("/")
    service, slash, method = rest.partition("/")
    if empty or not slash or not method or "/" in method:
        return None
    return owner_of_service(service)


def owner_of_service(full_name: str) -> str | None:
    """The service that serves "package.version.Service"; None: nobody does."""
    package = full_name.rpartition(".")[0]
    return OWNERS.get(package.rpartition(".")[0])
