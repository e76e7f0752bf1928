"""Reports until they are acknowledged, and how long a lease's holder may go on."""

from allotment_trainer.domain.job import Attempt
from allotment_trainer.domain.lease import LeaseClock
from allotment_trainer.domain.reports import Cause, Failure, Outbox, Progress, ReportKey, Started

A, B = (
    Attempt("tenants/t/experiments/e/trials/1", 1),
    Attempt("tenants/t/experiments/e/trials/1", 2),
)
FAILURE = Failure(cause=Cause.CRASH, reason="CRASH", message="it died")


def test_sequences_count_from_one_for_each_attempt() -> None:
    outbox = Outbox()
    keys = [outbox.add(A, Started()), outbox.add(A, FAILURE), outbox.add(B, Started())]
    assert [k.sequence for k in keys] == [1, 2, 1]


def test_what_is_acknowledged_is_not_sent_again() -> None:
    outbox = Outbox()
    first = outbox.add(A, Started())
    second = outbox.add(A, Progress(finished_folds=1, fold_count=5, score=None))
    assert outbox.acknowledge(first) == Started()
    assert outbox.acknowledge(first) is None
    assert [key for key, _ in outbox.after(None)] == [second]


def test_a_stream_sends_what_came_after_its_last_report() -> None:
    outbox = Outbox()
    first, second = outbox.add(A, Started()), outbox.add(A, FAILURE)
    assert [key for key, _ in outbox.after(first)] == [second]
    assert list(outbox.after(second)) == []


def test_an_attempt_is_in_hand_until_its_end_is_acknowledged() -> None:
    outbox = Outbox()
    outbox.add(A, Started())
    assert outbox.finals() == ()
    key = outbox.add(A, FAILURE)
    assert outbox.finals() == (A,)
    outbox.acknowledge(key)
    assert outbox.finals() == ()


def test_an_unknown_acknowledgement_changes_nothing() -> None:
    outbox = Outbox()
    outbox.add(A, Started())
    assert outbox.acknowledge(ReportKey(B, 9)) is None
    assert not outbox.is_empty()


def test_the_holder_goes_on_for_two_thirds_of_the_lease() -> None:
    lease = LeaseClock(100.0, ttl_s=60.0)
    assert lease.remaining_s(100.0) == 40.0
    assert not lease.is_over(139.9)
    assert lease.is_over(140.0)


def test_a_holder_that_outlives_its_server_goes_on_for_longer() -> None:
    lease = LeaseClock(100.0, ttl_s=60.0, outlives_s=90.0)
    assert not lease.is_over(189.9)
    assert lease.is_over(190.0)
    lease.answered(150.0, ttl_s=600.0)
    assert lease.remaining_s(150.0) == 400.0


def test_every_answer_starts_the_wait_anew() -> None:
    lease = LeaseClock(0.0)
    lease.answered(30.0, ttl_s=30.0)
    assert lease.remaining_s(30.0) == 20.0
    lease.answered(10.0)  # an older one does not
    assert lease.remaining_s(30.0) == 20.0
