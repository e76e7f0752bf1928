"""Text columns as graphs: `words` and `preparation.text` with operators of the standard alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from allotment_learn.graph.builder import ML_DOMAIN, GraphBuilder
from allotment_learn.preparation.text import (
    GRID,
    Projected,
    TextBlock,
    TfIdf,
    Vocabulary,
    WordCounts,
)
from allotment_learn.task import Floats, Integers
from allotment_learn.words import LINE_LIMIT, WORD_LIMIT, spellings

Gram = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CountedText:
    """Counts [N, entries] in double precision of everything that some fold counts."""

    counts: str
    entries: tuple[Gram, ...]

    def places_of(self, vocabulary: Vocabulary) -> Integers:
        known = {gram: place for place, gram in enumerate(self.entries)}
        return np.array([known[gram] for gram in vocabulary.grams()], dtype=np.int64)


def write_counts(
    build: GraphBuilder, cells: str, vocabularies: Sequence[Vocabulary]
) -> CountedText:
    """From strings [N, 1]."""
    grams = dict.fromkeys(gram for vocabulary in vocabularies for gram in vocabulary.grams())
    # TfIdfVectorizer wants shorter ones first.
    entries = tuple(sorted(grams, key=lambda gram: (len(gram), gram)))
    terms = {term: place for place, term in enumerate(sorted({t for g in grams for t in g}))}
    # One row more that surely splits: nothing fails without any row.
    padded = build.node("Concat", cells, build.strings(["a b"], [1, 1]), axis=0)
    places = _compacted(build, _pieces(build, padded), terms)
    singles = sum(len(gram) == 1 for gram in entries)
    longest = len(entries[-1])
    counts = build.node(
        "TfIdfVectorizer",
        places,
        mode="TF",
        min_gram_length=1,
        max_gram_length=longest,
        max_skip_count=0,
        ngram_counts=[0, singles][:longest],
        ngram_indexes=list(range(len(entries))),
        pool_int64s=[terms[term] for gram in entries for term in gram],
    )
    ends = (build.constant(np.array([0])), build.constant(np.array([-1])))
    return CountedText(build.double(build.node("Slice", counts, *ends)), entries)


def _pieces(build: GraphBuilder, cells: str) -> str:
    """Strings [N, pieces], "" where a row has fewer."""
    words, lines = build.name(), build.name()
    build.split(cells, words, build.name(), " ", WORD_LIMIT)
    build.split(words, lines, build.name(), "\n", LINE_LIMIT)
    return build.node("Reshape", lines, build.constant(np.array([0, -1])))


def _compacted(build: GraphBuilder, pieces: str, terms: dict[str, int]) -> str:
    """Places of the terms [N, pieces], -1 for what is none; empty pieces moved to the end, so that
    words on both sides of them are neighbours."""
    forms = {piece: place for term, place in terms.items() for piece in spellings(term)}
    places = build.node(
        "LabelEncoder",
        pieces,
        domain=ML_DOMAIN,
        keys_strings=list(forms),
        values_int64s=list(forms.values()),
        default_int64=-1,
    )
    empty = build.node("Equal", pieces, build.strings([""], [1]))
    count = build.node("Shape", pieces, start=1, end=2)
    scalar = build.node("Squeeze", count)
    one, zero = build.constant(1), build.constant(0)
    order = build.node("Range", zero, scalar, one)
    behind = build.node("Where", empty, scalar, zero)
    key = build.node("Add", order, behind)
    source = build.top(key, count)
    return build.node("GatherElements", places, source, axis=1)


def write_weights(
    build: GraphBuilder, block: TextBlock, counted: CountedText, weights: Floats | None
) -> str:
    """The block's part of the matrix; with weights [width, outputs] its product with them."""
    places = counted.places_of(block.vocabulary)
    if isinstance(block, WordCounts):
        taken = build.node("Gather", counted.counts, build.constant(places), axis=1)
        return taken if weights is None else _times(build, taken, weights)
    if isinstance(block, Projected):
        steps = _weighed(build, block.weighted, counted, places, block.axes * 1.0)
        rounded = build.node("Round", build.node("Mul", steps, build.constant(GRID)))
        values = build.node("Div", rounded, build.constant(GRID))
        return values if weights is None else _times(build, values, weights)
    assert isinstance(block, TfIdf)
    wanted = np.eye(block.width) if weights is None else weights
    return _weighed(build, block, counted, places, wanted)


def _weighed(
    build: GraphBuilder, block: TfIdf, counted: CountedText, places: Integers, weights: Floats
) -> str:
    """Rows of length 1, times the weights; the sum first, the length after it."""
    count = len(counted.entries)
    idf, wide = np.zeros(count), np.zeros((count, weights.shape[1]))
    idf[places], wide[places] = block.idf, weights
    values = counted.counts
    if block.sublinear:
        one = build.constant(1.0)
        there = build.node("Min", values, one)
        values = build.node("Add", build.node("Log", build.node("Max", values, one)), there)
    values = build.node("Mul", values, build.constant(idf))
    axes = build.constant(np.array([1]))
    squares = build.node("ReduceSum", build.node("Mul", values, values), axes, keepdims=1)
    length = build.node("Sqrt", squares)
    nothing = build.node("Equal", length, build.constant(0.0))
    safe = build.node("Where", nothing, build.constant(1.0), length)
    return build.node("Div", _times(build, values, wide), safe)


def _times(build: GraphBuilder, matrix: str, weights: Floats) -> str:
    # One column is scaled by one number, which onnxruntime would pull into a matrix product in
    # single precision.
    return build.node("MatMul" if len(weights) > 1 else "Mul", matrix, build.constant(weights))


__all__ = ["CountedText", "write_counts", "write_weights"]
