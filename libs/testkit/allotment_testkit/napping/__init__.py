"""A model family that only tests and benchmarks register: it sleeps, and then knows one answer.

Needs nothing of the testkit, so that a trainer's image can have it alone.
"""

import time
from pathlib import Path

from allotment_learn.errors import DeadlineReached
from allotment_learn.families import constant
from allotment_learn.families.offered import ModelFamily
from allotment_learn.families.training import Training
from allotment_learn.forms import Fitted

PRODUCTIONS = Path(__file__).with_name("napping.json")
_WINK_S = 0.05


def fit(training: Training) -> Fitted:
    """Each fit takes `seconds`. Raises: DeadlineReached."""
    awake_at = time.monotonic() + training.number("seconds", 1.0)
    while (left_s := awake_at - time.monotonic()) > 0:
        if training.out_of_time():
            raise DeadlineReached("the deadline came during a nap")
        time.sleep(min(_WINK_S, left_s))
    return constant.fit(training)


FAMILIES = (
    ModelFamily(
        name="napping",
        module=__name__,
        takes_missing=True,
        grammar=PRODUCTIONS.read_text(encoding="utf-8"),
    ),
)
