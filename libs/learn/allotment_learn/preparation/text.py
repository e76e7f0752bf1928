"""Text columns: counts of words and of neighbours, weighed (`tfidf`), as a few numbers (`svd`) or
as they are (`words`).

`tfidf`: count, or 1 + log(count), times log((1 + rows) / (1 + rows with it)) + 1, each row scaled
to length 1; a cell without a known word is a row of zeros. `svd`: the same times the strongest axes
of the training rows (Halko, Martinsson, Tropp 2011), scaled to variance 1 and rounded to GRID, so
that sums in another order end at the same number. `words`: counts of the terms that say most of the
target by themselves.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from scipy import sparse

from allotment_learn.preparation.components import unknown_component
from allotment_learn.preparation.labelled import Labelled
from allotment_learn.task import Floats, Integers
from allotment_learn.words import Words, places_of
from allotment_search.pipeline import Component

GRID = 2.0**20
"""Steps for each 1.0 that projected values are rounded to."""
_PIECES_AT_ONCE = 2_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Vocabulary:
    """What is counted: numbers as `Words.grams` gives them for `terms`, ascending."""

    terms: tuple[str, ...]
    numbers: Integers

    @property
    def width(self) -> int:
        return len(self.numbers)

    def grams(self) -> list[tuple[str, ...]]:
        """The terms of each column."""
        size = len(self.terms)
        return [
            (self.terms[number],)
            if number < size
            else (self.terms[number // size - 1], self.terms[number % size])
            for number in self.numbers.tolist()
        ]

    def counts(self, words: Words) -> Any:
        """A CSR matrix [rows, width] of float64."""
        places, size = places_of(self.terms, words), len(self.terms)
        longest = 2 if self.width and self.numbers[-1] >= size else 1
        blocks = []
        for rows in _chunks(words):
            part = words.take(rows)
            of_row, numbers = part.grams(places, size, longest)
            columns = np.searchsorted(self.numbers, numbers)
            known = columns < self.width
            known[known] = self.numbers[columns[known]] == numbers[known]
            ones = np.ones(int(known.sum()))
            shape = (len(rows), self.width)
            # Equal places are added up.
            blocks.append(sparse.coo_matrix((ones, (of_row[known], columns[known])), shape).tocsr())
        if not blocks:
            return sparse.csr_matrix((0, self.width), dtype=np.float64)
        counted = sparse.vstack(blocks, format="csr")
        counted.sort_indices()
        return counted


def _chunks(words: Words) -> list[Integers]:
    """Rows, so that each piece of them has a bounded number of words."""
    if not words.row_count:
        return []
    number = words.starts[:-1] // _PIECES_AT_ONCE
    return np.split(np.arange(words.row_count), np.flatnonzero(np.diff(number)) + 1)


class TextBlock(Protocol):
    """One text column as a fold reads it."""

    @property
    def column(self) -> str: ...

    @property
    def vocabulary(self) -> Vocabulary: ...

    @property
    def width(self) -> int: ...

    def transform(self, words: Words) -> Any:
        """[rows, width]: an array, or a CSR matrix."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class TfIdf:
    """Sparse: a column for each entry of the vocabulary, `idf` is its weight."""

    column: str
    vocabulary: Vocabulary
    idf: Floats
    sublinear: bool

    @property
    def width(self) -> int:
        return self.vocabulary.width

    def transform(self, words: Words) -> Any:
        counted = self.vocabulary.counts(words)
        if self.sublinear:
            counted.data = np.log(counted.data) + 1.0
        counted.data = counted.data * self.idf[counted.indices]
        rows = np.repeat(np.arange(counted.shape[0]), np.diff(counted.indptr))
        lengths = np.sqrt(np.bincount(rows, counted.data**2, minlength=counted.shape[0]))
        counted.data = counted.data / lengths[rows]
        return counted


@dataclass(frozen=True, slots=True, eq=False)
class Projected:
    """`axes` [vocabulary, width]."""

    weighted: TfIdf
    axes: Floats

    @property
    def column(self) -> str:
        return self.weighted.column

    @property
    def vocabulary(self) -> Vocabulary:
        return self.weighted.vocabulary

    @property
    def width(self) -> int:
        return int(self.axes.shape[1])

    def transform(self, words: Words) -> Floats:
        return np.asarray(np.rint((self.weighted.transform(words) @ self.axes) * GRID) / GRID)


@dataclass(frozen=True, slots=True, eq=False)
class WordCounts:
    """How often each entry of the vocabulary stands in the cell."""

    column: str
    vocabulary: Vocabulary

    @property
    def width(self) -> int:
        return self.vocabulary.width

    def transform(self, words: Words) -> Floats:
        return np.asarray(self.vocabulary.counts(words).toarray())


def fit_text(component: Component, name: str, labelled: Labelled) -> TextBlock | None:
    """None for `drop`, and when no word is frequent enough."""
    if component.name == "drop":
        return None
    if component.name not in ("tfidf", "svd", "words"):
        raise unknown_component("text", component.name)
    params, words = component.params, labelled.features.texts[name].words
    if component.name == "words":
        limit = int(params.get("max_features", 50))
        vocabulary = _vocabulary(words, params, limit, labelled.outputs)
        return WordCounts(name, vocabulary) if vocabulary.width else None
    vocabulary = _vocabulary(words, params, int(params.get("max_features", 2_000)), None)
    if not vocabulary.width:
        return None
    counted = vocabulary.counts(words)
    with_it = np.bincount(counted.indices, minlength=vocabulary.width)
    idf = np.log((1.0 + words.row_count) / (1.0 + with_it)) + 1.0
    weighted = TfIdf(name, vocabulary, idf, bool(params.get("sublinear", False)))
    if component.name == "tfidf":
        return weighted
    return _project(weighted, words, int(params.get("components", 16)), labelled.seed)


def _vocabulary(
    words: Words,
    params: Mapping[str, str | float | int | bool],
    limit: int,
    outputs: Floats | None,
) -> Vocabulary:
    """The entries of at least `min_count` cells: the most frequent ones, or with outputs those that
    say most of them."""
    longest, least = int(params.get("ngrams", 1)), int(params.get("min_count", 2))
    size = len(words.terms)
    rows, numbers = words.grams(np.arange(size), size, longest)
    there, entry = np.unique(numbers, return_inverse=True)
    once = np.unique(entry * max(1, words.row_count) + rows)
    entry, rows = once // max(1, words.row_count), once % max(1, words.row_count)
    with_it = np.bincount(entry, minlength=len(there))
    rank = with_it.astype(np.float64)
    if outputs is not None:
        rank = _told(entry, rows, with_it, outputs - outputs.mean(axis=0))
    usable = np.flatnonzero(with_it >= least)
    chosen = usable[np.lexsort((there[usable], -rank[usable]))][:limit]
    grams = [(n,) if n < size else (n // size - 1, n % size) for n in there[chosen].tolist()]
    used = sorted({place for gram in grams for place in gram})
    again = {place: number for number, place in enumerate(used)}
    renumbered = [
        again[gram[0]] if len(gram) == 1 else (again[gram[0]] + 1) * len(used) + again[gram[1]]
        for gram in grams
    ]
    return Vocabulary(
        tuple(words.terms[place] for place in used), np.array(sorted(renumbered), dtype=np.int64)
    )


def _told(entry: Integers, rows: Integers, with_it: Integers, outputs: Floats) -> Floats:
    """How much of the (centred) outputs' variance lies between cells with and without an entry."""
    share = with_it / max(1, len(outputs))
    sums = np.stack(
        [np.bincount(entry, out[rows], minlength=len(with_it)) for out in outputs.T], axis=1
    )
    scale = np.where(outputs.std(axis=0) > 0, outputs.std(axis=0), 1.0)
    between: Floats = ((sums / scale) ** 2).sum(axis=1) / np.maximum(with_it * (1.0 - share), 1e-9)
    return np.where(share < 1.0, between, 0.0)


def _project(weighted: TfIdf, words: Words, components: int, seed: int) -> TextBlock | None:
    matrix = weighted.transform(words)
    count = min(components, min(matrix.shape) - 1)
    if count < 1:
        return None
    # Slow to import, and few tables have texts.
    from sklearn.utils.extmath import randomized_svd  # noqa: PLC0415

    _, _, axes = randomized_svd(matrix, count, random_state=seed % 2**32)
    spread = np.asarray(matrix @ axes.T).std(axis=0)
    axes = axes.T / np.where(spread > 1e-9, spread, 1.0)
    return Projected(weighted, np.ascontiguousarray(axes))
