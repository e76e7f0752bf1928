"""Words of text cells, as a graph can find them too.

A cell is cut at each space, at most WORD_LIMIT times, and each piece at line breaks, at most
LINE_LIMIT times; what is left stays one piece. A piece stands for a term when it is one of the
term's spellings (`spellings`): as it is, capitalised or in capitals, with a mark of punctuation
behind it or a quote or bracket before it. Any other piece is no word; two words are neighbours only
with nothing between them. Spellings are strings that a graph compares: no lower-casing happens
there, which onnxruntime does by the machine's locale and refuses where that is not installed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from allotment_learn.table import Array
from allotment_learn.task import Integers

WORD_LIMIT = 256
LINE_LIMIT = 3
MOST_PIECES = (WORD_LIMIT + 1) * (LINE_LIMIT + 1)
"""Of a cell."""
LONGEST_TERM = 40
_ROWS_AT_ONCE = 20_000
_STRIPPED = ".,;:!?\"'()[]{}<>*_-`\u2026\u201c\u201d\u2018\u2019\u00ab\u00bb"
_BEHIND = ("", ".", ",", "!", "?", ":", ";", "...", ")", '"')
_BEFORE = ('"', "(")


def term_of(piece: str) -> str:
    """The term that a piece would be a spelling of: in lower case, without marks around it."""
    folded = piece.lower()
    return folded.strip(_STRIPPED) or folded


def spellings(term: str) -> list[str]:
    """The pieces that stand for a term. No piece stands for two of them."""
    forms = [term, term.capitalize(), term.upper()]
    candidates = [form + mark for form in forms for mark in _BEHIND]
    candidates += [mark + form for form in forms for mark in _BEFORE]
    return [piece for piece in dict.fromkeys(candidates) if term_of(piece) == term]


@dataclass(frozen=True, slots=True, eq=False)
class Words:
    """The pieces of all cells, one behind the other: places in `terms`, -1 for what is no word.

    `starts` [rows + 1]: where each cell's pieces begin.
    """

    terms: tuple[str, ...]
    places: npt.NDArray[np.int32]
    starts: Integers

    @classmethod
    def of(cls, cells: Array) -> "Words":
        known: dict[str, int] = {}
        places, counts = [np.empty(0, dtype=np.int32)], [np.zeros(1, dtype=np.int64)]
        for start in range(0, len(cells), _ROWS_AT_ONCE):
            of_piece, of_cell = _pieces(cells[start : start + _ROWS_AT_ONCE], known)
            places.append(of_piece)
            counts.append(of_cell)
        starts = np.cumsum(np.concatenate(counts))
        return cls(tuple(known), np.concatenate(places), starts)

    @property
    def row_count(self) -> int:
        return len(self.starts) - 1

    def take(self, rows: Integers) -> "Words":
        """The given rows, in the given order."""
        lengths = self.starts[rows + 1] - self.starts[rows]
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        shift = np.repeat(self.starts[rows] - starts[:-1], lengths)
        return Words(self.terms, self.places[shift + np.arange(starts[-1])], starts)

    def grams(self, places: Integers, size: int, longest: int) -> tuple[Integers, Integers]:
        """Rows and numbers of all terms, and for `longest` 2 of all neighbours.

        `places`: the number, below `size`, of each of `terms`; -1 for those that are left out. The
        number of neighbours (a, b) is (a + 1) x size + b.
        """
        numbers = np.append(places, -1)[self.places]
        rows = np.repeat(np.arange(self.row_count), np.diff(self.starts))
        found, of_row = [numbers[numbers >= 0]], [rows[numbers >= 0]]
        if longest == 2 and len(numbers) > 1:
            first, second = numbers[:-1], numbers[1:]
            joined = (first >= 0) & (second >= 0) & (rows[:-1] == rows[1:])
            found.append((first[joined] + 1) * size + second[joined])
            of_row.append(rows[:-1][joined])
        return np.concatenate(of_row), np.concatenate(found)


def _pieces(cells: Array, known: dict[str, int]) -> tuple[npt.NDArray[np.int32], Integers]:
    """Places in `known`, which grows, of the cells' pieces; and how many each cell has."""
    pieces = pc.split_pattern(pa.array(cells, type=pa.large_string()), " ", max_splits=WORD_LIMIT)
    rows = pc.list_parent_indices(pieces)
    lines = pc.split_pattern(pc.list_flatten(pieces), "\n", max_splits=LINE_LIMIT)
    rows = rows.take(pc.list_parent_indices(lines))
    flat = pc.list_flatten(lines)
    there = pc.not_equal(flat, "")
    coded = flat.filter(there).dictionary_encode()
    of_row = rows.filter(there).to_numpy(zero_copy_only=False)
    counts = np.bincount(of_row, minlength=len(cells))
    found = [_place(piece, known) for piece in coded.dictionary.to_pylist()]
    codes = coded.indices.to_numpy(zero_copy_only=False)
    return np.array([*found, -1], dtype=np.int32)[codes], counts


def _place(piece: str, known: dict[str, int]) -> int:
    term = term_of(piece)
    if len(term) > LONGEST_TERM or piece not in spellings(term):
        return -1
    return known.setdefault(term, len(known))


def places_of(terms: Sequence[str], words: Words) -> Integers:
    """The place in `terms` of each of the words' own terms; -1 for those that are not there."""
    known = {term: place for place, term in enumerate(terms)}
    return np.array([known.get(term, -1) for term in words.terms], dtype=np.int64)
