"""`allotment data`: labelled data."""

from pathlib import Path
from typing import Annotated

import typer

from allotment.cli.options import JsonOption, say
from allotment.cli.render import (
    moment,
    number,
    print_deleted,
    print_fields,
    print_json,
    print_paths,
    print_table,
    short,
    size,
)
from allotment.cli.session import connect
from allotment.types import ColumnRole, DatasetVersion, Progress

app = typer.Typer(help="Upload, look at and delete labelled data.")
ColumnsOption = Annotated[list[str] | None, typer.Option(help="Leave a column out; repeatable.")]


@app.callback(invoke_without_command=True)
def default(context: typer.Context, as_json: JsonOption = False) -> None:
    if context.invoked_subcommand is None:
        list_datasets(as_json)


@app.command("list")
def list_datasets(as_json: JsonOption = False) -> None:
    """All datasets."""
    with connect() as client:
        found = list(client.datasets.list())
    if as_json:
        print_json(found)
        return
    print_table(
        ("DATASET", "VERSIONS", "UPDATED"),
        ((short(d.name), str(d.version_count), moment(d.update_time)) for d in found),
        empty="no datasets; add one with `allotment data upload FILE`",
    )


@app.command()
def upload(
    file: Path,
    name: Annotated[str, typer.Option(help="Id of the dataset; one is made by default.")] = "",
    target: Annotated[str, typer.Option(help="The column that will be learnt.")] = "",
    ignore: ColumnsOption = None,
    weight: Annotated[str, typer.Option(help="Column with the rows' weights.")] = "",
    group: Annotated[str, typer.Option(help="Column whose groups are never split.")] = "",
    time: Annotated[str, typer.Option(help="Column that orders the rows in time.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Upload CSV, TSV, Parquet or JSONL as a new dataset."""
    with connect() as client:
        version = client.datasets.upload(
            file,
            dataset_id=name,
            target_hint=target,
            roles=column_roles(ignore or (), weight, group, time),
            progress=None if as_json else _say_stage(),
        )
    _print_version(version, as_json)


@app.command()
def append(dataset: str, file: Path, as_json: JsonOption = False) -> None:
    """Add a file's rows to a dataset, as its next version."""
    with connect() as client:
        version = client.datasets.upload(
            file, append_to=dataset, progress=None if as_json else _say_stage()
        )
    _print_version(version, as_json)


@app.command()
def show(
    version: Annotated[str, typer.Argument(help="DATASET or DATASET/VERSION")],
    as_json: JsonOption = False,
) -> None:
    """A version's columns, statistics and warnings."""
    with connect() as client:
        found = client.datasets.version(version)
    _print_version(found, as_json)


@app.command()
def versions(dataset: str, as_json: JsonOption = False) -> None:
    """All versions of a dataset."""
    with connect() as client:
        found = list(client.datasets.versions(dataset))
    if as_json:
        print_json(found)
        return
    print_table(
        ("VERSION", "ROWS", "COLUMNS", "SIZE", "CREATED"),
        (
            (
                short(v.name),
                str(v.row_count),
                str(len(v.columns)),
                size(v.size_bytes),
                moment(v.create_time),
            )
            for v in found
        ),
    )


@app.command()
def download(
    version: str,
    out: Annotated[Path, typer.Option(help="Folder for the Parquet files.")],
    as_json: JsonOption = False,
) -> None:
    """A version's rows as Parquet files."""
    with connect() as client:
        paths = client.datasets.download(version, out)
    print_paths(paths, as_json)


@app.command()
def delete(dataset: str, as_json: JsonOption = False) -> None:
    """Delete a dataset with all its versions."""
    with connect() as client:
        client.datasets.delete(dataset)
    print_deleted(dataset, as_json)


def column_roles(
    ignore: "list[str] | tuple[str, ...]", weight: str, group: str, time: str
) -> dict[str, ColumnRole]:
    """The roles that options give. Raises: typer.BadParameter when one column gets two."""
    named = [(column, ColumnRole.IGNORED) for column in ignore]
    named += [(weight, ColumnRole.WEIGHT), (group, ColumnRole.GROUP), (time, ColumnRole.TIME)]
    roles: dict[str, ColumnRole] = {}
    for column, role in named:
        if column and roles.setdefault(column, role) is not role:
            raise typer.BadParameter(f"column {column[:80]!r} can't be {roles[column]} and {role}")
    return roles


def _say_stage() -> "_StagePrinter":
    return _StagePrinter()


class _StagePrinter:
    """Says each stage of an upload once."""

    def __init__(self) -> None:
        self._stage = ""

    def __call__(self, progress: Progress) -> None:
        if progress.stage != self._stage:
            self._stage = progress.stage
            say(f"{progress.stage} ...")


def _print_version(version: DatasetVersion, as_json: bool) -> None:
    if as_json:
        print_json(version)
        return
    delimiter = f"delimiter {version.delimiter!r}" if version.delimiter else ""
    print_fields(
        {
            "version": version.name,
            "rows": str(version.row_count),
            "read as": f"{version.format} {version.encoding} {delimiter}".strip(),
            "size": size(version.size_bytes),
            "duplicate rows": str(version.duplicate_row_count),
        }
    )
    print_table(
        ("COLUMN", "TYPE", "ROLE", "MISSING", "DISTINCT", "MIN", "MAX"),
        (
            (column.name, str(column.type))
            + (f"{column.role} ({column.ignored_because})",) * bool(column.ignored_because)
            + (str(column.role),) * (not column.ignored_because)
            + (str(column.missing_count), str(column.distinct_count))
            + (number(column.minimum), number(column.maximum))
            for column in version.columns
        ),
    )
    for warning in version.warnings:
        print(f"warning: {warning.message}")
