"""Text columns as graphs: `words` and `preparation.text` with operators of the standard alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from onnx import TensorProto

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
from allotment_learn.words import LINE_LIMIT, MOST_PIECES, WORD_LIMIT, spellings

Gram = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CountedText:
    """Counts [N, entries] (floats, exact) of everything that some fold counts."""

    counts: str
    entries: tuple[Gram, ...]
    written: dict[bool, tuple[str, str]] = field(default_factory=dict)
    """What all folds share, by whether counts are taken as logarithms."""

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
    return CountedText(build.node("Slice", counts, *ends), entries)


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
        taken = build.double(build.node("Gather", counted.counts, build.constant(places), axis=1))
        return taken if weights is None else _times(build, taken, weights)
    if isinstance(block, Projected):
        steps = _weighed(build, block.weighted, counted, places, block.axes)
        rounded = build.node("Round", build.node("Mul", steps, build.constant(GRID)))
        values = build.node("Div", rounded, build.constant(GRID))
        return values if weights is None else _times(build, values, weights)
    assert isinstance(block, TfIdf)
    wanted = np.eye(block.width) if weights is None else weights
    return _weighed(build, block, counted, places, wanted)


def _weighed(
    build: GraphBuilder, block: TfIdf, counted: CountedText, places: Integers, weights: Floats
) -> str:
    """Rows of length 1, times the weights: the sum first, then the length, so that what is as long
    as the vocabulary is written once for all folds."""
    count = len(counted.entries)
    wide, squared_idf = np.zeros((count, weights.shape[1])), np.zeros((count, 1))
    wide[places], squared_idf[places, 0] = block.idf[:, None] * weights, block.idf**2
    values, squares = _values(build, counted, block.sublinear)
    length = build.node("Sqrt", _times(build, squares, squared_idf))
    nothing = build.node("Equal", length, build.constant(0.0))
    safe = build.node("Where", nothing, build.constant(1.0), length)
    return build.node("Div", _times(build, values, wide), safe)


def _values(build: GraphBuilder, counted: CountedText, sublinear: bool) -> tuple[str, str]:
    """Counts, or 1 + their logarithms, and their squares."""
    if sublinear not in counted.written:
        values = counted.counts
        if sublinear:
            whole = np.arange(1, MOST_PIECES + 1)
            table = build.constant(np.concatenate([[0.0], np.log(whole) + 1.0]))
            values = build.node("Gather", table, build.node("Cast", values, to=TensorProto.INT32))
        else:
            values = build.double(values)
        counted.written[sublinear] = (values, build.node("Mul", values, values))
    return counted.written[sublinear]


def _times(build: GraphBuilder, matrix: str, weights: Floats) -> str:
    # One column is scaled by one number, which onnxruntime would pull into a matrix product in
    # single precision.
    return build.node("MatMul" if len(weights) > 1 else "Mul", matrix, build.constant(weights))
