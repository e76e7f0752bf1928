"""How a trial can end without a model.

DeadlineExceeded
+- DeadlineReached     out of time before the last fold
FailedPrecondition
+- TrainingRefused     the library does not take this configuration with these rows
+- NotANumber          a prediction or the score is not a finite number
ResourceExhausted
+- GraphTooLarge       the model would not fit in a file that can be served
Unimplemented
+- FamilyUnavailable   this machine can't train the family
"""

from typing import ClassVar

from allotment_core.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    ResourceExhausted,
    Unimplemented,
)


class DeadlineReached(DeadlineExceeded):
    default_reason: ClassVar[str] = "DEADLINE"


class TrainingRefused(FailedPrecondition):
    default_reason: ClassVar[str] = "TRAINING_REFUSED"


class NotANumber(FailedPrecondition):
    default_reason: ClassVar[str] = "NOT_A_NUMBER"


class GraphTooLarge(ResourceExhausted):
    default_reason: ClassVar[str] = "GRAPH_TOO_LARGE"


class FamilyUnavailable(Unimplemented):
    default_reason: ClassVar[str] = "FAMILY_UNAVAILABLE"
