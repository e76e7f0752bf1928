"""The store on SQL: what the domain writes, and what readers see."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from allotment_controller.adapters import codec, rows
from allotment_controller.adapters.schema import experiments, families, models, trials
from allotment_controller.domain.experiment import ENDED, Experiment
from allotment_controller.domain.ledger import Change, Ledger
from allotment_controller.domain.messages import OfferedFamily
from allotment_controller.domain.trial import Trial
from allotment_controller.domain.views import Changed, ModelView, etag
from allotment_core.db import Database
from allotment_core.errors import AlreadyExists
from allotment_core.etags import check_etag
from allotment_core.names import ExperimentName, TenantName

R = TypeVar("R")


class SqlStore:
    """Implements the domain's Store and Creations, and the reads of the API."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._offered: tuple[OfferedFamily, ...] | None = None

    # The domain's ports

    async def commit(self, change: Change) -> None:
        await self._database.write(lambda c: rows.apply(c, change))

    async def answer(self, change: Change | None, to_response: Callable[[], R]) -> tuple[R, bool]:
        written = []

        def work(connection: sa.Connection) -> None:
            if change is not None:
                rows.apply(connection, change)
            written.append(True)

        response = await self._respond(work, to_response)
        return response, bool(written)

    async def create(self, experiment: Experiment, to_response: Callable[[], R]) -> tuple[R, bool]:
        written = []

        def work(connection: sa.Connection) -> None:
            try:
                rows.insert(connection, experiment)
            except IntegrityError:
                raise AlreadyExists(
                    f"{experiment.name} exists already; choose another experiment_id",
                    reason="EXPERIMENT_EXISTS",
                ) from None
            written.append(True)

        response = await self._respond(work, to_response)
        return response, bool(written)

    async def delete(
        self, name: ExperimentName, given_etag: str, to_response: Callable[[], R]
    ) -> tuple[R, Ledger | None]:
        gone: list[Ledger] = []

        def work(connection: sa.Connection) -> None:
            row = rows.find(connection, name)
            ledger = rows.to_ledger(connection, row)
            check_etag(given_etag, etag(ledger.experiment), what=str(name))
            connection.execute(experiments.delete().where(experiments.c.id == row.id))
            gone.append(ledger)

        response = await self._respond(work, to_response)
        return response, gone[-1] if gone else None

    async def load(self, name: ExperimentName) -> Ledger:
        return await self._database.read(lambda c: rows.to_ledger(c, rows.find(c, name)))

    async def load_open(self) -> list[Ledger]:
        final = [state.name for state in ENDED]

        def work(connection: sa.Connection) -> list[Ledger]:
            query = sa.select(experiments).where(experiments.c.state.not_in(final))
            found = connection.execute(query.order_by(experiments.c.id)).all()
            return [rows.to_ledger(connection, row) for row in found]

        return await self._database.read(work)

    async def offer(self, offers: Sequence[OfferedFamily]) -> None:
        if tuple(offers) == self._offered:
            return

        def work(connection: sa.Connection) -> None:
            for offer in offers:
                connection.execute(families.delete().where(families.c.name == offer.family))
                connection.execute(
                    families.insert().values(
                        name=offer.family,
                        available=offer.unavailable is None,
                        problem=codec.problem_to_json(offer.unavailable),
                    )
                )

        await self._database.write(work)
        self._offered = tuple(offers)

    async def offered(self) -> list[OfferedFamily]:
        def work(connection: sa.Connection) -> list[OfferedFamily]:
            found = connection.execute(sa.select(families).order_by(families.c.name)).all()
            return [OfferedFamily(r.name, codec.problem_from_json(r.problem)) for r in found]

        return await self._database.read(work)

    async def _respond(
        self, work: Callable[[sa.Connection], None], to_response: Callable[[], R]
    ) -> R:
        # Every answer of the API is a message; the domain does not say so.
        stored: Any = await self._database.respond(work, lambda _: cast(Any, to_response()))
        return cast(R, stored)

    # Reads of the API

    async def experiment(self, name: ExperimentName) -> Experiment:
        """Raises: NotFound."""
        return await self._database.read(lambda c: rows.to_experiment(rows.find(c, name)))

    async def experiments(
        self, tenant: TenantName, after: str, limit: int
    ) -> tuple[list[Experiment], str]:
        """A page in order of creation, and the cursor of the next one."""

        def work(connection: sa.Connection) -> tuple[list[Experiment], str]:
            query = sa.select(experiments).where(
                experiments.c.id > int(after or 0), experiments.c.tenant == str(tenant)
            )
            found = connection.execute(query.order_by(experiments.c.id).limit(limit + 1)).all()
            cursor = str(found[limit - 1].id) if len(found) > limit else ""
            return [rows.to_experiment(row) for row in found[:limit]], cursor

        return await self._database.read(work)

    async def trial(self, name: ExperimentName, number: int) -> Trial | None:
        def work(connection: sa.Connection) -> Trial | None:
            key = _key(connection, name)
            found = rows.children(connection, trials, key, trials.c.number == number)
            return next((rows.to_trial(name, r) for r in found), None)

        return await self._database.read(work)

    async def trials(self, name: ExperimentName, after: str, limit: int) -> tuple[list[Trial], str]:
        def work(connection: sa.Connection) -> tuple[list[Trial], str]:
            after_number = trials.c.number > int(after or 0)
            key = _key(connection, name)
            found = list(rows.children(connection, trials, key, after_number, limit=limit + 1))
            cursor = str(found[limit - 1].number) if len(found) > limit else ""
            return [rows.to_trial(name, r) for r in found[:limit]], cursor

        return await self._database.read(work)

    async def model(
        self, name: ExperimentName, number: int | None
    ) -> tuple[Experiment, ModelView | None]:
        """The model of this number; None: the best one that is ready."""

        def work(connection: sa.Connection) -> tuple[Experiment, ModelView | None]:
            row = rows.find(connection, name)
            wanted = row.best_model if number is None else number
            found = rows.children(connection, models, row.id, models.c.number == wanted)
            views = _with_trials(connection, name, row.id, found)
            return rows.to_experiment(row), next(iter(views), None)

        return await self._database.read(work)

    async def models(
        self, name: ExperimentName, after: str, limit: int
    ) -> tuple[Experiment, list[ModelView], str]:
        def work(connection: sa.Connection) -> tuple[Experiment, list[ModelView], str]:
            row = rows.find(connection, name)
            after_number = models.c.number > int(after or 0)
            found = list(rows.children(connection, models, row.id, after_number, limit=limit + 1))
            cursor = str(found[limit - 1].number) if len(found) > limit else ""
            views = _with_trials(connection, name, row.id, found[:limit])
            return rows.to_experiment(row), views, cursor

        return await self._database.read(work)

    async def changed(self, name: ExperimentName, after_revision: int) -> Changed:
        """What changed after a revision. Raises: NotFound."""

        def work(connection: sa.Connection) -> Changed:
            row = rows.find(connection, name)
            if row.revision <= after_revision:
                return Changed(rows.to_experiment(row), ())
            new_trials = rows.children(
                connection, trials, row.id, trials.c.revision > after_revision
            )
            new_models = rows.children(
                connection, models, row.id, models.c.revision > after_revision
            )
            parts: list[tuple[int, Trial | ModelView]] = []
            parts += [(r.revision, rows.to_trial(name, r)) for r in new_trials]
            views = _with_trials(connection, name, row.id, new_models)
            parts += [(view.model.revision, view) for view in views]
            parts.sort(key=lambda part: part[0])
            return Changed(rows.to_experiment(row), tuple(part for _, part in parts))

        return await self._database.read(work)


def _key(connection: sa.Connection, name: ExperimentName) -> int:
    query = sa.select(experiments.c.id).where(
        experiments.c.tenant == str(name.tenant), experiments.c.experiment_id == name.experiment_id
    )
    key = connection.execute(query).scalar()
    if key is None:
        raise rows.not_found(name)
    return int(key)


def _with_trials(
    connection: sa.Connection, name: ExperimentName, key: int, found: Any
) -> list[ModelView]:
    views = []
    for row in found:
        model = rows.to_model(name, row)
        numbers = [member.trial for member in model.parts]
        made_of = rows.children(connection, trials, key, trials.c.number.in_(numbers))
        by_number = {r.number: rows.to_trial(name, r) for r in made_of}
        views.append(ModelView(model, tuple(by_number[n] for n in numbers)))
    return views
