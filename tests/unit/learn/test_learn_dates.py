"""Dates as numbers, in numpy and in graphs."""

from datetime import datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from allotment_core.errors import InvalidArgument
from allotment_learn.dates import DatePattern, epoch_days, read_parts
from allotment_learn.graph.builder import GraphBuilder
from allotment_learn.graph.dates import write_date_parts
from allotment_testkit.trials import session_of

PATTERNS = [
    "%Y-%m-%d",
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%dT%H:%M:%S",
    "%Y-%m-%dT%H:%M:%S.%fZ",
    "%Y-%m-%d %H:%M",
    "%d/%m/%Y",
    "%m/%d/%Y %H:%M",
    "%d.%m.%Y",
    "%Y/%m/%d",
    "%Y%m%d",
    "%Y%m%d%H%M%S",
    "%Y-%m",
    "am %d-%m-%Y um %H Uhr",
]
ODD = [
    "",
    "x",
    "2020-13-01",
    "2020-00-10",
    "2020-01-00",
    "2021-02-29",
    "2020-02-29",
    "1900-02-29",
    "2000-02-29",
    "0000-01-01",
    "0001-01-01",
    "9999-12-31",
    "2020-1-2",
    "2020-01-01 24:00:00",
    "2020-01-01 23:60:00",
    "2020-01-01 23:59:60",
    " 2020-01-01",
    "2020-01-01\n",
    "\u0662\u0660\u0662\u0660-01-01",
    "20200101",
    "20201301",
    "99999999",
    "29/02/2020",
    "31.04.2020",
    "-020-01-01",
    "+020-01-01",
    "am 3-4-2020 um 7 Uhr",
]


def graph_parts(cells: list[str], pattern: DatePattern) -> np.ndarray:
    build = GraphBuilder(["x"])
    out = write_date_parts(build, "x", pattern)
    model = build.model(
        [helper.make_tensor_value_info("x", TensorProto.STRING, ["N", 1])],
        [helper.make_tensor_value_info(out, TensorProto.DOUBLE, ["N", len(pattern.parts)])],
        {},
    )
    column = np.array(cells, dtype=np.object_).reshape(-1, 1)
    found: np.ndarray = session_of(model.SerializeToString()).run(None, {"x": column})[0]
    return found


@pytest.mark.parametrize("text", PATTERNS)
def test_graph_reads_what_numpy_reads(text: str) -> None:
    pattern = DatePattern.parse(text)
    rng = np.random.default_rng(1)
    seconds = rng.integers(0, 300_000_000_000, 300)
    days = [datetime(1, 1, 1) + timedelta(seconds=int(s)) for s in seconds]
    cells = [day.strftime(text).replace(" 0", " ") for day in days]
    # strftime leaves out the leading zeros of years before 1000.
    cells += [day.strftime(text) for day in days if day.year >= 1000] + ODD
    expected = read_parts(cells, pattern)
    assert np.isfinite(expected).any()
    assert np.isnan(expected).any()
    assert np.array_equal(graph_parts(cells, pattern), expected, equal_nan=True)
    assert graph_parts([], pattern).shape == (0, len(pattern.parts))
    assert np.isnan(graph_parts([""], pattern)).all()


@given(st.datetimes(min_value=datetime(1000, 1, 1)))
def test_parts_are_the_calendars(moment: datetime) -> None:
    pattern = DatePattern.parse("%Y-%m-%d %H:%M:%S")
    (row,) = read_parts([f"{moment:%Y-%m-%d %H:%M:%S}"], pattern)
    parts = dict(zip(pattern.parts, row, strict=True))
    whole = moment.replace(microsecond=0)
    assert parts == {
        "year": moment.year,
        "month": moment.month,
        "day": moment.day,
        "weekday": moment.weekday(),
        "day_of_year": moment.timetuple().tm_yday,
        "epoch_days": pytest.approx((whole - datetime(1970, 1, 1)) / timedelta(days=1), rel=1e-15),
        "hour": moment.hour,
        "minute": moment.minute,
    }


@given(st.lists(st.text(alphabet="0123456789-: T/.", max_size=20), max_size=20))
def test_no_text_is_an_accident(cells: list[str]) -> None:
    for text in ("%Y-%m-%d", "%Y%m%d"):
        assert read_parts(cells, DatePattern.parse(text)).shape == (len(cells), 6)


def test_times_order_rows() -> None:
    found = epoch_days(["02.01.1970", "", "01.01.1970"], DatePattern.parse("%d.%m.%Y"))
    assert np.array_equal(found, [1.0, np.nan, 0.0], equal_nan=True)


@pytest.mark.parametrize("text", ["", "%Y", "%d.%m.%y", "%Y-%m-%d %p", "%Y-%Y-%m", "%Y-1-%m", "%"])
def test_patterns_that_can_not_be_read_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        DatePattern.parse(text)
    assert caught.value.reason == "DATE_PATTERN"
