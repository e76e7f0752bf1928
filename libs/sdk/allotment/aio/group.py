"""What the groups of calls share."""

from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol, TypeVar

from allotment.connection import Connection, Unary
from allotment.naming import Named, full_name

PAGE_SIZE = 200


class Page(Protocol):
    """A list response."""

    @property
    def next_page_token(self) -> str: ...


P = TypeVar("P", bound=Page)


class Group:
    """A part of the client: the calls about one noun."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._call = connection.call

    @property
    def _tenant(self) -> str:
        return self._connection.settings.tenant

    def _name(self, value: str | Named, collection: str) -> str:
        return full_name(value, collection, self._tenant)

    async def _pages(
        self, method: Unary[Any, P], request: Callable[[str], Any]
    ) -> AsyncIterator[P]:
        """Every page of a list; `request` makes the request for a page token."""
        token = ""
        while True:
            page = await self._call(method, request(token))
            yield page
            token = page.next_page_token
            if not token:
                return
