"""Errors, states, etags, configuration, logs."""

import dataclasses
import enum
import io
import json
import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest

from allotment_core import config, errors, events
from allotment_core.errors import (
    CLASS_OF_KIND,
    Aborted,
    ErrorKind,
    FailedPrecondition,
    InvalidArgument,
    clip,
)
from allotment_core.etags import check_etag, etag_of
from allotment_core.states import Moves
from allotment_testkit.clock import ManualClock


def test_every_kind_has_its_class() -> None:
    assert set(CLASS_OF_KIND) == set(ErrorKind)
    for kind, error_class in CLASS_OF_KIND.items():
        assert error_class.kind is kind
        assert error_class("text").reason == error_class.default_reason


def test_a_clipped_value_is_short_and_printable() -> None:
    assert clip("x" * 81) == "x" * 77 + "..."
    assert clip("x" * 80) == "x" * 80
    assert clip("a\nb\x1b[31m") == "a\ufffdb\ufffd[31m"


def test_a_foreign_resource_and_a_missing_one_read_the_same() -> None:
    assert str(errors.not_found("tenants/a/leases/b")).startswith("tenants/a/leases/b does not")


class Light(enum.Enum):
    RED = 1
    GREEN = 2
    BROKEN = 3


LIGHTS = Moves(
    {
        Light.RED: frozenset({Light.GREEN, Light.BROKEN}),
        Light.GREEN: frozenset({Light.RED, Light.BROKEN}),
        Light.BROKEN: frozenset(),
    }
)


def test_only_moves_of_the_table_are_legal() -> None:
    assert LIGHTS.check(Light.RED, Light.GREEN) is Light.GREEN
    assert LIGHTS.final == {Light.BROKEN}
    with pytest.raises(FailedPrecondition, match=r"the light is BROKEN .* final") as caught:
        LIGHTS.check(Light.BROKEN, Light.RED, what="the light")
    assert caught.value.reason == "ILLEGAL_MOVE"
    with pytest.raises(FailedPrecondition, match="it can become BROKEN, GREEN"):
        LIGHTS.check(Light.RED, Light.RED)


def test_a_table_names_every_state() -> None:
    with pytest.raises(ValueError, match="BROKEN"):
        Moves({Light.RED: frozenset(), Light.GREEN: frozenset()})


def test_an_etag_that_moved_on_aborts() -> None:
    current = etag_of(b"content")
    check_etag("", current, what="it")
    check_etag(current, current, what="it")
    with pytest.raises(Aborted) as caught:
        check_etag(etag_of(b"older"), current, what="tenants/a")
    assert caught.value.reason == "ETAG_MISMATCH"


class Tone(enum.Enum):
    HIGH = "high"
    LOW = "low"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    work_dir: Path
    slots: int = 2
    ratio: float = 0.5
    loud: bool = False
    names: tuple[str, ...] = ()
    limit_s: float | None = None
    tone: Tone = Tone.HIGH


def test_settings_are_read_from_the_environment() -> None:
    env = {
        "X_WORK_DIR": "/tmp/x",
        "X_SLOTS": "4",
        "X_LOUD": "true",
        "X_NAMES": "a, b",
        "X_LIMIT_S": "1.5",
        "X_TONE": "low",
        "OTHER": "1",
    }
    assert config.load(Settings, env, "X_") == Settings(
        work_dir=Path("/tmp/x"), slots=4, loud=True, names=("a", "b"), limit_s=1.5, tone=Tone.LOW
    )


@pytest.mark.parametrize(
    ("env", "told"),
    [
        ({}, "X_WORK_DIR"),
        ({"X_WORK_DIR": "/", "X_SLOT": "1"}, "X_SLOTS"),
        ({"X_WORK_DIR": "/", "X_SLOTS": "two"}, "'two'"),
        ({"X_WORK_DIR": "/", "X_LOUD": "maybe"}, "'maybe'"),
        ({"X_WORK_DIR": "/", "X_TONE": "shrill"}, "'shrill'.*high, low"),
    ],
)
def test_bad_settings_are_named(env: dict[str, str], told: str) -> None:
    with pytest.raises(InvalidArgument, match=told) as caught:
        config.load(Settings, env, "X_")
    assert caught.value.reason == "INVALID_CONFIG"


def test_logs_are_events_with_fields() -> None:
    stream = io.StringIO()
    logger = logging.getLogger("allotment.test")
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        events.configure_logging("dataset", "INFO", stream)
        logger.info("lease granted", extra={"lease": "tenants/a/leases/b", "slots": 2})
        logger.debug("not this")
        try:
            raise ValueError("broken")
        except ValueError:
            logger.exception("failed")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert first["event"] == "lease granted"
    assert (first["service"], first["slots"]) == ("dataset", 2)
    assert "ValueError: broken" in second["exception"]


def test_a_manual_clock_moves_by_hand() -> None:
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    began, since = clock.now(), clock.monotonic()
    clock.advance(1.5)
    assert (clock.now() - began).total_seconds() == clock.monotonic() - since == 1.5
