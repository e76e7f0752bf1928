"""Rows of the controller's tables from domain values and back."""

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from allotment_controller.adapters import codec, experiences
from allotment_controller.adapters.schema import experiments, models, trials
from allotment_controller.domain.experiment import Experiment, ExperimentState
from allotment_controller.domain.ledger import Change, Ledger
from allotment_controller.domain.model import Model, ModelState
from allotment_controller.domain.trial import Trial, TrialState
from allotment_core.db import upserts
from allotment_core.errors import Aborted, NotFound
from allotment_core.names import ExperimentName, TenantName


def not_found(name: ExperimentName) -> NotFound:
    return NotFound(f"there is no experiment {name}", reason="EXPERIMENT_NOT_FOUND")


def _named(name: ExperimentName) -> sa.ColumnElement[bool]:
    return sa.and_(
        experiments.c.tenant == str(name.tenant), experiments.c.experiment_id == name.experiment_id
    )


def find(connection: sa.Connection, name: ExperimentName) -> sa.Row[Any]:
    """The experiment's row. Raises: NotFound."""
    row = connection.execute(sa.select(experiments).where(_named(name))).one_or_none()
    if row is None:
        raise not_found(name)
    return row


def insert(connection: sa.Connection, experiment: Experiment) -> None:
    """Raises: sqlalchemy IntegrityError when the name is taken."""
    name = experiment.name
    connection.execute(
        experiments.insert().values(
            tenant=str(name.tenant),
            experiment_id=name.experiment_id,
            plan=codec.plan_to_json(experiment.plan),
            plan_table=experiment.plan.table,
            **_moving(experiment),
        )
    )


def apply(connection: sa.Connection, change: Change) -> None:
    """Writes a change. Raises: Aborted (STALE_REVISION) when the rows are at another revision."""
    name = change.experiment.name
    moving = _moving(change.experiment)
    if change.has_new_plan:
        moving["plan"] = codec.plan_to_json(change.experiment.plan)
    key = connection.execute(
        experiments.update()
        .where(_named(name), experiments.c.revision == change.base_revision)
        .values(**moving)
        .returning(experiments.c.id)
    ).scalar()
    if key is None:
        raise Aborted(
            f"{name} is not at revision {change.base_revision} any more; read it again",
            reason="STALE_REVISION",
        )
    for trial in change.trials:
        upserts.put(connection, trials, _of_trial(key, trial), "experiment", "number")
    for model in change.models:
        upserts.put(connection, models, _of_model(key, model), "experiment", "number")
    experiences.apply(connection, key, change)


def _moving(experiment: Experiment) -> dict[str, Any]:
    return {
        "state": experiment.state.name,
        "ends_as": experiment.ends_as.name,
        "finish_by": codec.to_us(experiment.finish_by),
        "best_model": experiment.best_model,
        "best_score": experiment.best_score,
        "finished_trial_count": experiment.finished_trial_count,
        "running_trial_count": experiment.running_trial_count,
        "early_stopping": codec.audit_to_json(experiment.early_stopping),
        "problem": codec.problem_to_json(experiment.problem),
        "wait": codec.wait_to_json(experiment.wait),
        "end_time": codec.to_us(experiment.end_time),
        "revision": experiment.revision,
    }


def _of_trial(key: int, trial: Trial) -> dict[str, Any]:
    return {
        "experiment": key,
        "number": trial.number,
        "state": trial.state.name,
        "epoch": trial.epoch,
        "lease": trial.lease,
        "lease_epoch": trial.lease_epoch,
        "last_sequence": trial.last_sequence,
        "revision": trial.revision,
        "body": codec.trial_to_json(trial),
    }


def _of_model(key: int, model: Model) -> dict[str, Any]:
    return {
        "experiment": key,
        "number": model.number,
        "state": model.state.name,
        "trial": model.trial,
        "revision": model.revision,
        "body": codec.model_to_json(model),
    }


def to_experiment(row: sa.Row[Any]) -> Experiment:
    tenant = TenantName.parse(row.tenant)
    return Experiment(
        name=ExperimentName(tenant, row.experiment_id),
        plan=codec.plan_from_json(row.plan, bytes(row.plan_table)),
        state=ExperimentState[row.state],
        ends_as=ExperimentState[row.ends_as],
        finish_by=codec.from_us(row.finish_by),
        best_model=row.best_model,
        best_score=row.best_score,
        finished_trial_count=row.finished_trial_count,
        running_trial_count=row.running_trial_count,
        early_stopping=codec.audit_from_json(row.early_stopping),
        problem=codec.problem_from_json(row.problem),
        wait=codec.wait_from_json(row.wait),
        end_time=codec.from_us(row.end_time),
        revision=row.revision,
    )


def to_trial(name: ExperimentName, row: sa.Row[Any]) -> Trial:
    return Trial(
        experiment=name,
        number=row.number,
        state=TrialState[row.state],
        epoch=row.epoch,
        lease=row.lease,
        lease_epoch=row.lease_epoch,
        last_sequence=row.last_sequence,
        revision=row.revision,
        **codec.trial_fields_from_json(row.body),
    )


def to_model(name: ExperimentName, row: sa.Row[Any]) -> Model:
    return Model(
        experiment=name,
        number=row.number,
        trial=row.trial,
        state=ModelState[row.state],
        revision=row.revision,
        **codec.model_fields_from_json(row.body),
    )


def children(
    connection: sa.Connection,
    table: sa.Table,
    key: int,
    *where: sa.ColumnElement[bool],
    order: sa.ColumnElement[Any] | None = None,
    limit: int | None = None,
) -> Iterable[sa.Row[Any]]:
    """Rows of an experiment in `trials` or `models`, by number unless another order is given."""
    query = sa.select(table).where(table.c.experiment == key, *where)
    query = query.order_by(table.c.number if order is None else order)
    return connection.execute(query if limit is None else query.limit(limit)).all()


def to_ledger(connection: sa.Connection, row: sa.Row[Any]) -> Ledger:
    """The experiment with everything below it."""
    experiment = to_experiment(row)
    name = experiment.name
    return Ledger(
        experiment,
        [to_trial(name, r) for r in children(connection, trials, row.id)],
        [to_model(name, r) for r in children(connection, models, row.id)],
    )
