"""Seats: who may be given work."""

from allotment_controller.domain.messages import Alive, Hello, OfferedFamily
from allotment_controller.domain.seat import Seat
from allotment_core.names import ExperimentName, LeaseName


def seated() -> Seat:
    hello = Hello(
        lease=LeaseName.parse("tenants/t/leases/l"),
        lease_epoch=1,
        families=(OfferedFamily("constant"),),
        library_versions={},
        threads=1,
        memory_bytes=1,
        running=(),
    )
    return Seat(hello, ExperimentName.parse("tenants/t/experiments/e"))


def test_a_trainer_that_has_just_connected_gets_no_work_before_it_is_known_what_it_has() -> None:
    seat = seated()
    line = seat.connect()
    assert not seat.is_free
    seat.unsure = False
    assert seat.is_free
    assert seat.disconnect(line, 1.0)
    seat.connect()
    assert not seat.is_free, "it may have finished something since"


async def test_the_stream_of_a_trainer_that_does_not_read_ends() -> None:
    seat = seated()
    line = seat.connect()
    for _ in range(1000):
        seat.send(Alive())
    read = [order async for order in line.orders()]
    assert 0 < len(read) < 1000


async def test_a_seat_that_hangs_up_gets_no_work_before_its_trainer_has_said_what_it_has() -> None:
    seat = seated()
    line = seat.connect()
    seat.unsure = False
    seat.hang_up()
    assert not seat.is_free
    assert [order async for order in line.orders()] == []
