"""The catalogue of model families: the shipped grammar and what was registered beside it."""

from pathlib import Path

from allotment_core.errors import InvalidArgument
from allotment_search import Grammar

_LIMIT_BYTES = 1 << 20


def load_grammar(folder: Path | None) -> Grammar:
    """The shipped grammar with the families of a folder's *.json files, in their names' order.

    Raises: InvalidArgument (INVALID_CONFIG) for a folder that is not there, or a file that does not
        fit.
    """
    grammar = Grammar.load("tabular")
    if folder is None:
        return grammar
    if not folder.is_dir():
        raise _bad(f"{folder}: there is no such folder")
    for file in sorted(folder.glob("*.json")):
        try:
            if file.stat().st_size > _LIMIT_BYTES:
                raise ValueError(f"it is larger than {_LIMIT_BYTES >> 20} MiB")
            grammar = grammar.with_family(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise _bad(f"{file}: {error}") from error
    return grammar


def _bad(problem: str) -> InvalidArgument:
    return InvalidArgument(
        f"a model family can't be registered: {problem}; mend the file or take it out of "
        "ALLOTMENT_CONTROLLER_FAMILIES_DIR",
        reason="INVALID_CONFIG",
    )
