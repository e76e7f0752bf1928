"""Components by name."""

from allotment_core.errors import InvalidArgument, clip


def unknown_component(slot: str, name: str) -> InvalidArgument:
    """The error for a component that is not known here."""
    return InvalidArgument(
        f"there is no {slot} component '{clip(name)}'", reason="NO_SUCH_COMPONENT"
    )
