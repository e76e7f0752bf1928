"""Makes what is absent and renews what ends; cut off, it goes on in the next run."""

import logging

from allotment_allocator.install import plan
from allotment_allocator.install.config import InstallConfig
from allotment_allocator.install.objects import ReleaseObjects
from allotment_core.clock import Clock
from allotment_core.errors import Aborted, AlreadyExists

log = logging.getLogger(__name__)

_TRIES = 10


async def install(objects: ReleaseObjects, config: InstallConfig, clock: Clock) -> None:
    """Before an install or an upgrade. Raises: FailedPrecondition for what doesn't fit together."""
    await _repeated(objects, config, clock, certificates_alone=False)


async def rotate(objects: ReleaseObjects, config: InstallConfig, clock: Clock) -> None:
    """Certificates alone, from time to time."""
    await _repeated(objects, config, clock, certificates_alone=True)


async def _repeated(
    objects: ReleaseObjects, config: InstallConfig, clock: Clock, *, certificates_alone: bool
) -> None:
    for tried in range(1, _TRIES + 1):
        try:
            return await _once(objects, config, clock, certificates_alone)
        except (Aborted, AlreadyExists) as e:
            # Somebody wrote at the same time: what is there now counts.
            if tried == _TRIES:
                raise
            log.info("somebody else was first", extra={"error": e.message})


async def _once(
    objects: ReleaseObjects, config: InstallConfig, clock: Clock, certificates_alone: bool
) -> None:
    found = await objects.secrets()
    if certificates_alone:
        wanted = plan.renewal(config, found, clock.now())
    else:
        kept = await objects.kept(found)
        wanted = plan.whole(config, found, kept, clock.now())
    for note in wanted.notes:
        log.warning(note)
    for name, secret in wanted.writes.items():
        before = found[name].data if name in found else {}
        await objects.write(name, secret, before)
    if config.ca_config_map and wanted.bundle:
        await objects.publish(wanted.bundle)
