"""The signature in an artefact's metadata: what goes in, what comes out, how cells are read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from allotment_core.errors import clip
from allotment_exporter.domain.exports import Task

SIGNATURE_KEY = "allotment.signature"
METADATA_PREFIX = "allotment."
INPUT_TYPES = ("double", "string")


class BadSignature(Exception):
    """The signature is absent, can't be read, or says something else than the model's source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """One input or output of a graph."""

    name: str
    type: str
    column: str = ""
    """Inputs alone: the source column, where an output has taken its name; else empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """A signature whose shape is known to be right."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    task: Task
    classes: tuple[str, ...]
    target: str
    document: Mapping[str, object]
    """All of it, as written."""


def expected_outputs(task: Task) -> tuple[Port, ...]:
    """What a graph of this task gives, in this order."""
    if task is Task.REGRESSION:
        return (Port(name="prediction", type="double"),)
    return (Port(name="label", type="string"), Port(name="probabilities", type="double"))


def parse_signature(text: str) -> Signature:
    """Raises: BadSignature."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadSignature(f"{SIGNATURE_KEY} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise BadSignature(f"{SIGNATURE_KEY} is not a JSON object")
    task = document.get("task")
    if task not in {known.value for known in Task}:
        raise BadSignature(f"signature's task is {clip(repr(task))}")
    classes = document.get("classes") or []
    target = document.get("target")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise BadSignature("signature's classes are not a list of strings")
    if not isinstance(target, str):
        raise BadSignature("signature's target is not a string")
    signature = Signature(
        inputs=_ports(document, "inputs"),
        outputs=_ports(document, "outputs"),
        task=Task(task),
        classes=tuple(classes),
        target=target,
        document=document,
    )
    names = [port.name for port in signature.inputs]
    if not names or len(set(names)) != len(names):
        raise BadSignature("signature names no input, or one twice")
    if any(port.type not in INPUT_TYPES for port in signature.inputs):
        raise BadSignature(f"signature's inputs have other types than {', '.join(INPUT_TYPES)}")
    if signature.outputs != expected_outputs(signature.task):
        raise BadSignature(f"signature's outputs are not those of a {task} task")
    return signature


def _ports(document: Mapping[str, object], key: str) -> tuple[Port, ...]:
    entries = document.get(key)
    if not isinstance(entries, list):
        raise BadSignature(f"signature's {key} are not a list")
    ports = []
    for entry in entries:
        name = entry.get("name") if isinstance(entry, dict) else None
        kind = entry.get("type") if isinstance(entry, dict) else None
        column = entry.get("column", "") if isinstance(entry, dict) else None
        if not (isinstance(name, str) and isinstance(kind, str) and isinstance(column, str)):
            raise BadSignature(f"signature's {key} have an entry without name and type")
        ports.append(Port(name=name, type=kind, column=column))
    return tuple(ports)


def check_agreement(
    signature: Signature, *, task: Task, classes: tuple[str, ...], target: str
) -> None:
    """Raises: BadSignature when signature and source speak of different models."""
    for what, said, wanted in (
        ("task", signature.task.value, task.value),
        ("classes", signature.classes, classes),
        ("target", signature.target, target),
    ):
        if said != wanted:
            raise BadSignature(
                f"signature's {what} are {clip(repr(said))}, the model's are {clip(repr(wanted))}"
            )
