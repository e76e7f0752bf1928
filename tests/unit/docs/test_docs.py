"""What the pages name is there: links, files, commands with their options, benches, extras."""

import importlib.util
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from allotment.cli.app import app

ROOT = Path(__file__).parents[3]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("services/*/README.md")],
)
FOLDERS = "bench|docs|examples|libs|protos|services|tests"
# What stands for something else, or goes on with words.
PLACEHOLDER = re.compile(r"[A-Z<\[(|.]")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def code(page: Path) -> Iterator[str]:
    """Lines of fenced blocks, and what stands between backticks elsewhere."""
    text = text_of(page)
    for block in re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield from (line.removeprefix("$ ").strip() for line in block.splitlines())
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    yield from re.findall(r"`([^`\n]+)`", prose)


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text_of(page)):
        if not target.startswith(("http:", "https:")):
            assert (page.parent / target).exists(), target


@each_page
def test_files_that_are_named_are_there(page: Path) -> None:
    for named in re.findall(rf"`((?:{FOLDERS})/[\w./-]+)`", text_of(page)):
        assert (ROOT / named).exists(), named


@each_page
def test_commands_have_the_options_that_are_named(page: Path) -> None:
    for line in code(page):
        if line.startswith("allotment "):
            command = typer.main.get_command(app)
            known = {"--help"}
            for word in shlex.split(line.replace("[", "").replace("]", ""))[1:]:
                children = getattr(command, "commands", {})
                if word in children:
                    command = children[word]
                elif word.startswith("--"):
                    known |= {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
                    assert word.partition("=")[0] in known, line
                elif children:
                    assert PLACEHOLDER.match(word), line


@each_page
def test_modules_that_are_run_are_there(page: Path) -> None:
    for line in code(page):
        for module in re.findall(r"\bpython -m (allotment_\w+)(?![\w<])", line):
            assert importlib.util.find_spec(f"{module}.__main__"), line
        for name, rest in re.findall(r"\bpython -m bench\.(\w+)(.*)", line):
            files = [ROOT / "bench" / f"{name}.py", *(ROOT / "bench" / name).glob("*.py")]
            program = "".join(text_of(file) for file in files if file.is_file())
            assert program, line
            for option in re.findall(r"--[\w-]+", rest):
                assert f'"{option}"' in program, line


@each_page
def test_verbs_of_make_are_there(page: Path) -> None:
    verbs = set(re.findall(r"^([a-z-]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    for line in code(page):
        if found := re.match(r"make ([a-z-]+)", line):
            assert found[1] in verbs, line


@each_page
def test_extras_are_there(page: Path) -> None:
    project = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]
    for named in re.findall(r"allotment\[([\w,]+)\]", text_of(page)):
        assert set(named.split(",")) <= set(project["optional-dependencies"]), named


def test_every_bench_is_on_its_page() -> None:
    folders = {path.parent.name for path in ROOT.glob("bench/*/__main__.py")}
    files = {path.stem for path in ROOT.glob("bench/*.py")} - {"__init__", "__main__", "sets"}
    told = set(re.findall(r"python -m bench\.(\w+)", text_of(ROOT / "docs" / "benchmarks.md")))
    assert told == folders | files
