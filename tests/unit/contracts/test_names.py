"""Every resource of the protos has its name type."""

import re
from pathlib import Path

import pytest

from allotment_core import names
from allotment_core.names import ResourceName

PROTOS = Path(__file__).parents[3] / "protos"
_PATTERN = re.compile(r"(?:tenants|pools|families)/\*(?:/[a-z]+/(?:\*|\{[^}]*\}))*")
_MESSAGE = re.compile(r"^message (\w+) \{\n(.*?)^\}", re.DOTALL | re.MULTILINE)
_GET = re.compile(r"rpc Get(\w+)\(")
_NAME = re.compile(r"((?:\s*//[^\n]*\n)*)\s*string name = 1;")

TEXTS = {proto.name: proto.read_text() for proto in sorted(PROTOS.rglob("*.proto"))}
MESSAGES = {name: body for text in TEXTS.values() for name, body in _MESSAGE.findall(text)}
# DatasetService speaks of a version, its message is a DatasetVersion.
MESSAGE_OF_NOUN = {"Version": "DatasetVersion"}


def patterns(text: str) -> set[str]:
    """Name patterns in the comments of a text; "{sha256 in hex}" is one segment like any other."""
    comments = " ".join(line for line in text.splitlines() if line.strip().startswith("//"))
    return {re.sub(r"\{[^}]*\}", "*", found) for found in _PATTERN.findall(comments)}


def name_types() -> dict[str, type[ResourceName]]:
    found = [value for value in vars(names).values() if isinstance(value, type)]
    return {
        value.PATTERN: value
        for value in found
        if issubclass(value, ResourceName) and "PATTERN" in vars(value)
    }


@pytest.mark.parametrize("proto", TEXTS)
def test_every_pattern_has_a_name_type(proto: str) -> None:
    assert patterns(TEXTS[proto]) <= set(name_types())


def test_every_name_type_is_in_a_proto() -> None:
    assert set(name_types()) == set().union(*map(patterns, TEXTS.values()))


@pytest.mark.parametrize("noun", sorted({n for text in TEXTS.values() for n in _GET.findall(text)}))
def test_resource_says_its_pattern(noun: str) -> None:
    body = MESSAGES[MESSAGE_OF_NOUN.get(noun, noun)]
    found = _NAME.search(body)
    assert found, "a resource's first field is its name"
    assert len(patterns(found.group(1))) == 1


@pytest.mark.parametrize("pattern", sorted(name_types()))
def test_name_of_a_pattern_reads_back(pattern: str) -> None:
    text = pattern.replace("blobs/*", f"blobs/{'0a' * 32}").replace("*", "some-id1")
    name_type = name_types()[pattern]
    assert str(name_type.parse(text)) == text
