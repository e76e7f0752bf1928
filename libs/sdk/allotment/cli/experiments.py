"""`allotment experiments`, `allotment trials`, `allotment families`."""

import json
from typing import Annotated

import typer

from allotment.cli.options import JsonOption, parse_duration_s
from allotment.cli.render import (
    moment,
    number,
    plain,
    print_deleted,
    print_fields,
    print_json,
    print_table,
    short,
)
from allotment.cli.session import connect
from allotment.cli.view import waiting
from allotment.types import Change, Experiment, Model, Trial

app = typer.Typer(help="Start, follow and end searches.")

QUEUED = "- (its budget counts from its first trainer)"
QueueTimeout = Annotated[
    str, typer.Option(help="Fail when no trainer came within this time: 10m; at least 1s.")
]


@app.callback(invoke_without_command=True)
def default(context: typer.Context, as_json: JsonOption = False) -> None:
    if context.invoked_subcommand is None:
        list_experiments(as_json)


@app.command("list")
def list_experiments(as_json: JsonOption = False) -> None:
    """All experiments."""
    with connect() as client:
        found = list(client.experiments.list())
    if as_json:
        print_json(found)
        return
    print_table(
        ("EXPERIMENT", "STATE", "TARGET", "METRIC", "BEST", "TRIALS", "CREATED"),
        (
            (
                short(e.name),
                "queued" if e.is_queued else str(e.state),
                e.target,
                str(e.metric),
                number(e.best_score),
                str(e.finished_trial_count),
                moment(e.create_time),
            )
            for e in found
        ),
        empty="no experiments; start one with `allotment experiments create DATASET --target COL`",
    )


@app.command()
def create(
    dataset: Annotated[str, typer.Argument(help="DATASET or DATASET/VERSION")],
    target: Annotated[str, typer.Option(help="The column to learn.")],
    task: Annotated[str, typer.Option(help="binary, multiclass or regression")] = "",
    metric: Annotated[str, typer.Option(help="What models are compared by.")] = "",
    budget: Annotated[str, typer.Option(help="Wall time: 60s, 5m, 1h.")] = "",
    trials: Annotated[int, typer.Option(help="At most so many trials.", min=0)] = 0,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    ignore: Annotated[list[str] | None, typer.Option(help="Leave a column out.")] = None,
    weight: Annotated[str, typer.Option(help="Column with the rows' weights.")] = "",
    group: Annotated[str, typer.Option(help="Column whose groups are never split.")] = "",
    time: Annotated[str, typer.Option(help="Column that orders the rows in time.")] = "",
    family: Annotated[list[str] | None, typer.Option(help="Only this family; repeatable.")] = None,
    max_parallel: Annotated[int, typer.Option(min=0)] = 0,
    queue_timeout: QueueTimeout = "",
    early_stopping: Annotated[
        bool, typer.Option(help="Put trials off that others beat on their first folds.")
    ] = True,
    name: Annotated[str, typer.Option(help="Id of the experiment.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Start a search."""
    budget_s = parse_duration_s(budget) if budget else None if trials else 60.0
    with connect() as client:
        made = client.experiments.create(
            dataset,
            target=target,
            task=task,
            metric=metric,
            budget_s=budget_s,
            trials=trials,
            seed=seed,
            ignore=ignore or (),
            weight=weight,
            group=group,
            time=time,
            families=family or (),
            max_parallel=max_parallel,
            without_early_stopping=not early_stopping,
            experiment_id=name,
            queue_timeout_s=parse_duration_s(queue_timeout) if queue_timeout else None,
        )
    _print_experiment(made, as_json)


@app.command()
def show(experiment: str, as_json: JsonOption = False) -> None:
    """One experiment."""
    with connect() as client:
        found = client.experiments.get(experiment)
    _print_experiment(found, as_json)


@app.command()
def watch(experiment: str, as_json: JsonOption = False) -> None:
    """Every change until the experiment has ended; with --json one object a line."""
    with connect() as client:
        for change in client.watch(experiment):
            if as_json:
                print_json_line(change)
            else:
                print(describe(change), flush=True)


@app.command()
def pause(experiment: str, as_json: JsonOption = False) -> None:
    """No new trials; the deadline goes on."""
    with connect() as client:
        _print_experiment(client.experiments.pause(experiment), as_json)


@app.command()
def resume(
    experiment: str,
    budget: Annotated[str, typer.Option(help="From now: 60s, 5m, 1h.")] = "",
    trials: Annotated[int, typer.Option(help="So many trials more.", min=0)] = 0,
    queue_timeout: QueueTimeout = "",
    as_json: JsonOption = False,
) -> None:
    """Go on with a paused search, or by a new budget with one that has ended."""
    budget_s = parse_duration_s(budget) if budget else None
    if queue_timeout and budget_s is None and not trials:
        raise typer.BadParameter("--queue-timeout goes with a new --budget or more --trials")
    timeout_s = parse_duration_s(queue_timeout) if queue_timeout else None
    with connect() as client:
        found = client.experiments.resume(
            experiment, budget_s=budget_s, trials=trials, queue_timeout_s=timeout_s
        )
    _print_experiment(found, as_json)


@app.command()
def cancel(experiment: str, as_json: JsonOption = False) -> None:
    """End the search now; its models stay."""
    with connect() as client:
        _print_experiment(client.experiments.cancel(experiment), as_json)


@app.command()
def delete(experiment: str, as_json: JsonOption = False) -> None:
    """Forget an experiment with its trials and models."""
    with connect() as client:
        client.experiments.delete(experiment)
    print_deleted(experiment, as_json)


def trials(
    experiment: Annotated[str, typer.Argument(help="EXPERIMENT, or EXPERIMENT/TRIAL for one")],
    as_json: JsonOption = False,
) -> None:
    """An experiment's trials."""
    with connect() as client:
        if "/trials/" in experiment or ("/" in experiment and "/experiments/" not in experiment):
            _print_trial(client.experiments.trial(experiment), as_json)
            return
        found = list(client.experiments.trials(experiment))
    if as_json:
        print_json(found)
        return
    print_table(
        ("TRIAL", "STATE", "FAMILY", "ORIGIN", "SCORE", "FIT S", "ATTEMPTS"),
        (
            (
                t.id,
                str(t.state),
                t.family,
                t.origin,
                number(t.score),
                number(t.fit_s),
                str(t.attempts),
            )
            for t in found
        ),
        empty="no trials yet",
    )


def families(as_json: JsonOption = False) -> None:
    """What can be trained here."""
    with connect() as client:
        found = list(client.experiments.families())
    if as_json:
        print_json(found)
        return
    print_table(
        ("FAMILY", "TITLE", "TASKS", "AVAILABLE"),
        (
            (
                f.name.removeprefix("families/"),
                f.title,
                ", ".join(f.tasks),
                "yes" if f.available else f.unavailable.message if f.unavailable else "no",
            )
            for f in found
        ),
    )


def print_json_line(change: Change) -> None:
    kind = type(change).__name__.lower()
    print(json.dumps({"kind": kind, **plain(change)}, ensure_ascii=False), flush=True)


def describe(change: Change) -> str:
    """A change in one line."""
    if isinstance(change, Trial):
        ending = f" {number(change.score)}" if change.score is not None else ""
        if change.problem:
            ending += f": {change.problem.message}"
        return f"trial {change.id} {change.family} {change.state}{ending}"
    if isinstance(change, Model):
        ending = f": {change.problem.message}" if change.problem else ""
        score = f"{change.metric} {number(change.score)}"
        return (
            f"model {change.name.rsplit('/', 1)[-1]} {change.family} {score} {change.state}{ending}"
        )
    best = f", best {change.metric} {number(change.best_score)}" if change.best_model else ""
    waits = f", {waiting(change.wait)}" if change.wait else ""
    return f"{change.state}, {change.finished_trial_count} trials{best}{waits}"


def _print_experiment(found: Experiment, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    print_fields(
        {
            "experiment": found.name,
            "state": str(found.state),
            "data": found.dataset_version,
            "target": f"{found.target} ({found.task})",
            "metric": str(found.metric),
            "deadline": QUEUED if found.is_queued else moment(found.deadline),
            **({"queued until": moment(found.queue_deadline)} if found.queue_deadline else {}),
            "trials": f"{found.finished_trial_count} finished, {found.running_trial_count} running",
            "best": f"{found.best_model or '-'} {number(found.best_score)}",
            **_early_stopping(found),
            **({"refit of": found.refit_of} if found.refit_of else {}),
        }
    )
    if found.wait:
        print(waiting(found.wait))
    if found.problem:
        print(f"failed: {found.problem.message} [{found.problem.reason}]")
    for warning in found.warnings:
        print(f"warning: {warning.message}")


def _early_stopping(found: Experiment) -> dict[str, str]:
    told = found.early_stopping
    if not (told.paused_trials or told.audits):
        return {}
    return {
        "put off": f"{told.paused_trials} trials; of {told.audits} that were spared "
        f"{told.improved_audits} became the best"
    }


def _print_trial(found: Trial, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    print_fields(
        {
            "trial": found.name,
            "state": str(found.state),
            "family": f"{found.family} ({found.origin})",
            "score": number(found.score),
            "fit": f"{found.fit_s:.3g} s, fold {found.finished_folds} of {found.fold_count}",
            "attempts": str(found.attempts)
            + "".join(f", {cause} {count}" for cause, count in found.attempts_by_cause.items()),
            **{f"metric {name}": number(value) for name, value in found.metrics.items()},
            **{symbol: str(value) for symbol, value in found.derivation.items()},
        }
    )
    if found.problem:
        print(f"problem: {found.problem.message} [{found.problem.reason}]")
    if found.log_tail:
        print(found.log_tail)
