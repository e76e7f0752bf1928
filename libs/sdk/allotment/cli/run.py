"""`allotment run`: from a file to a model, within a budget that counts from the command's own
start, or in a cluster from the experiment's first trainer.
"""

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer

from allotment.cli import own_server
from allotment.cli.countdown import Countdown
from allotment.cli.data import column_roles
from allotment.cli.options import CHOICE, parse_duration_s
from allotment.cli.request import Interrupted, Request
from allotment.cli.server_process import ServerFailed
from allotment.cli.started import STARTED_MONOTONIC
from allotment.cli.view import View
from allotment.settings import Settings, resolve
from allotment_core.errors import FailedPrecondition, InvalidArgument, clip

SHORTEST_BUDGET_S = 10.0
DEFAULT_BUDGET_S = 60.0


def run(
    out: Annotated[Path, typer.Option(help="Folder for model.onnx, manifest.json and so on.")],
    train: Annotated[
        Path | None, typer.Argument(help="CSV, TSV, Parquet or JSONL with labelled rows")
    ] = None,
    target: Annotated[str, typer.Option(help="The column to learn.")] = "",
    task: Annotated[str, typer.Option(help="binary, multiclass or regression")] = "",
    metric: Annotated[
        str, typer.Option(help="log_loss, auc, ap, accuracy, f1, rmse, mae or r2")
    ] = "",
    budget: Annotated[
        str,
        typer.Option(
            help="Wall time from the command's start, in a cluster from its first trainer: 60s, "
            "5m; at least 10s."
        ),
    ] = "",
    queue_timeout: Annotated[
        str, typer.Option(help="Fail when no trainer came within this time: 10m; at least 1s.")
    ] = "",
    trials: Annotated[int, typer.Option(help="At most so many trials.", min=0)] = 0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same folds.", min=0)] = 0,
    ignore: Annotated[
        list[str] | None, typer.Option(help="Leave a column out; repeatable.")
    ] = None,
    weight: Annotated[str, typer.Option(help="Column with the rows' weights.")] = "",
    group: Annotated[str, typer.Option(help="Column whose groups are never split.")] = "",
    time: Annotated[str, typer.Option(help="Column that orders the rows in time.")] = "",
    max_parallel: Annotated[int, typer.Option(help="Trials at once; 0: all slots.", min=0)] = 0,
    resume: Annotated[
        str, typer.Option(help="Go on with this experiment, in place of a file and a target.")
    ] = "",
    state_dir: Annotated[
        Path | None,
        typer.Option("--dir", help="Keep the search here, so that it can be resumed."),
    ] = None,
    server: Annotated[str, typer.Option(help="HOST:PORT (env ALLOTMENT_SERVER)")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Search the best model for a column of a table.

    Starts a server of its own unless one is named. Leaves model.onnx, manifest.json and
    leaderboard.csv in the folder. With --dir the search is kept and --resume goes on with it,
    with another --budget or so many --trials more. Ctrl-C stops the search and writes the best
    model so far; a second one aborts.
    """
    CHOICE.server = server or CHOICE.server
    request = Request(
        train=train,
        target=target,
        out=out,
        task=task,
        metric=metric,
        budget_s=_budget_s(budget, trials),
        trials=trials,
        seed=seed,
        ignore=tuple(ignore or ()),
        weight=weight,
        group=group,
        time=time,
        max_parallel=max_parallel,
        roles=column_roles(ignore or (), weight, group, time),
        started_monotonic=STARTED_MONOTONIC,
        queue_timeout_s=parse_duration_s(queue_timeout) if queue_timeout else None,
        resume=resume,
        state_dir=state_dir,
    )
    _check_form(request)
    _check_files(request)
    # gRPC: only now, so that other commands and wrong usage don't wait for it.
    from allotment.cli.search import Search  # noqa: PLC0415

    countdown = Countdown(STARTED_MONOTONIC, request.budget_s)
    search = Search(
        request,
        View(as_json=as_json, countdown=countdown),
        countdown,
        lambda: _settings(state_dir),
        own_server.folder(),
    )
    try:
        asyncio.run(search.run())
    except Interrupted:
        raise typer.Exit(130) from None
    except ServerFailed as e:
        raise FailedPrecondition(str(e), reason="SERVER_FAILED") from e


def _budget_s(budget: str, trials: int) -> float | None:
    """None: trials alone limit the search. Raises: InvalidArgument (BUDGET_TOO_SHORT)."""
    if not budget:
        return None if trials else DEFAULT_BUDGET_S
    budget_s = parse_duration_s(budget)
    if budget_s < SHORTEST_BUDGET_S:
        raise InvalidArgument(
            f"a budget of {clip(budget)} is too short; it has to be at least "
            f"{SHORTEST_BUDGET_S:g} s, for example --budget 10s",
            reason="BUDGET_TOO_SHORT",
        )
    return budget_s


def _check_form(request: Request) -> None:
    """Either a file with its target, or an experiment that can be there.

    Raises: typer.BadParameter, InvalidArgument (NO_STATE).
    """
    if not request.resume:
        if request.train is None or not request.target:
            raise typer.BadParameter(
                "name the file with the labelled rows and the column to learn: "
                "allotment run train.csv --target COLUMN --out FOLDER"
            )
        return
    if request.train is not None or request.target:
        raise typer.BadParameter(
            "an experiment that is resumed has its rows and its target; "
            "leave the file and --target out"
        )
    if _has_server():
        return
    if request.state_dir is None:
        raise InvalidArgument(
            "a search of `run` goes with the command unless its state is kept: name the folder "
            "that it was kept in with --dir, or its server with --server",
            reason="NO_STATE",
        )
    if not request.state_dir.is_dir():
        raise InvalidArgument(
            f"{request.state_dir} is not a folder with the state of a search; "
            "name the one that --dir named when the search was begun",
            reason="NO_STATE",
        )


def _check_files(request: Request) -> None:
    """Finds what would fail at the end before anything is begun. Raises: InvalidArgument."""
    if request.train is not None and not request.train.is_file():
        raise InvalidArgument(
            f"{request.train} is not a file that exists; name the file with the labelled rows",
            reason="FILE_UNREADABLE",
        )
    try:
        request.out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InvalidArgument(
            f"the folder {request.out} can't be made: {e.strerror}; choose another --out",
            reason="FILE_UNWRITABLE",
        ) from e
    if not os.access(request.out, os.W_OK):
        raise InvalidArgument(
            f"the folder {request.out} is not writable; choose another --out",
            reason="FILE_UNWRITABLE",
        )


def _settings(state_dir: Path | None) -> Settings:
    """The named server, or one of our own; blocks until that serves."""
    if _has_server():
        return _named()
    ready = own_server.take(state_dir).wait_ready()
    return Settings(address=ready.address, token=ready.token)


def _has_server() -> bool:
    """Whether a server is named."""
    named = ("ALLOTMENT_SERVER", "ALLOTMENT_PROFILE")
    return bool(CHOICE.server or CHOICE.profile or any(os.environ.get(name) for name in named))


def _named() -> Settings:
    return resolve(
        os.environ,
        address=CHOICE.server,
        token=CHOICE.token,
        ca=CHOICE.ca,
        profile=CHOICE.profile,
        tenant=CHOICE.tenant,
    )
