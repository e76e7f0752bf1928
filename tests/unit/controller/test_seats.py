"""Seats: who may be given work."""

from allotment_controller.domain.messages import Hello, OfferedFamily
from allotment_controller.domain.seat import Seat
from allotment_core.names import ExperimentName, LeaseName


def test_a_trainer_that_has_just_connected_gets_no_work_before_it_is_known_what_it_has() -> None:
    hello = Hello(
        lease=LeaseName.parse("tenants/t/leases/l"),
        lease_epoch=1,
        families=(OfferedFamily("constant"),),
        library_versions={},
        threads=1,
        memory_bytes=1,
        running=(),
    )
    seat = Seat(hello, ExperimentName.parse("tenants/t/experiments/e"))
    line = seat.connect()
    assert not seat.is_free
    seat.unsure = False
    assert seat.is_free
    assert seat.disconnect(line, 1.0)
    seat.connect()
    assert not seat.is_free, "it may have finished something since"
