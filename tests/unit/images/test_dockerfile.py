"""The images: one for each service, with what the service needs and nothing heavy beside it."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LEARNING = {"torch", "scikit-learn", "lightgbm", "scipy", "onnxscript", "safetensors"}
SERVICES = {
    folder.name
    for folder in (ROOT / "services").iterdir()
    if folder.is_dir() and folder.name != "embedded"
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def stages() -> dict[str, tuple[str, str]]:
    """By name: the stage that it is built on, and its lines."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    found = re.split(r"^FROM (\S+) AS (\S+)$", text, flags=re.MULTILINE)[1:]
    return {found[i + 1]: (found[i], found[i + 2]) for i in range(0, len(found), 3)}


def lines_of(target: str) -> str:
    """Everything that goes into the image, its parents' lines first."""
    known = stages()
    parent, lines = known[target]
    return (lines_of(parent) if parent in known else "") + lines


def packages(extras: str) -> set[str]:
    """What pip is asked for by these extras, by their names alone."""
    wanted: set[str] = set()
    for extra in extras.split(","):
        for requirement in PROJECT["optional-dependencies"][extra]:
            name, _, more = re.match(r"([\w-]+)(\[(.*?)\])?", requirement).groups()  # type: ignore[union-attr]
            wanted |= packages(more) if name == "allotment" else {name}
    return wanted


def installed(target: str) -> set[str]:
    """Without what an argument of the build adds."""
    always = re.sub(r"^ARG TORCH=$.*?; fi$", "", lines_of(target), flags=re.DOTALL | re.MULTILINE)
    extras = re.findall(r"\*\.whl\)\[([\w,]+)\]", always)
    return set().union(*(packages(found) for found in extras))


def test_there_is_a_target_for_each_service_and_make_builds_each() -> None:
    targets = {name for name, (_, lines) in stages().items() if "ENTRYPOINT" in lines}
    assert targets == SERVICES
    made = re.search(r"^IMAGES := (.*)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert made is not None
    assert set(made[1].split()) == SERVICES


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_an_image_starts_its_service_as_an_ordinary_user(service: str) -> None:
    lines = lines_of(service)
    assert f'ENTRYPOINT ["python", "-P", "-m", "allotment_{service}"]' in lines
    users = re.findall(r"^USER (.*)$", lines, re.MULTILINE)
    # A number: the cluster can't tell whether a name is root.
    assert users[-1:] == ["10001"]
    assert "ORT_DISABLE_TELEMETRY=1" in lines
    assert "signal.signal(signal.SIGTERM" in lines


@pytest.mark.parametrize("service", sorted(SERVICES - {"trainer"}))
def test_no_image_of_the_control_plane_has_learning_libraries(service: str) -> None:
    assert not installed(service) & LEARNING


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_an_image_has_what_its_service_asks_for(service: str) -> None:
    assert packages(service) <= installed(service)


def test_a_trainer_has_no_database_and_torch_only_when_it_is_asked_for() -> None:
    assert not installed("trainer") & {"sqlalchemy", "psycopg", "minio", "torch"}
    assert "ARG TORCH=\n" in lines_of("trainer")


def test_dependencies_are_installed_before_the_code_is_there() -> None:
    for service in SERVICES:
        before, code, after = lines_of(service).partition("COPY --from=code")
        assert code
        assert "pip install" in before
        assert "pip" not in after
