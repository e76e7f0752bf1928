"""Writes the table of values into the chart's README, from values.yaml and its `# -- ` comments.

python helm/values_table.py [--check]       --check: fails where they differ, and writes nothing
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

CHART = Path(__file__).resolve().parent / "allotment"
BEGIN, END = "<!-- values -->\n", "<!-- end of values -->\n"
KEY = re.compile(r"( *)([A-Za-z0-9]+):(?: (.*))?")
SAME_IN_ALL = {
    "nodeSelector",
    "tolerations",
    "affinity",
    "priorityClassName",
    "topologySpread",
    "podAnnotations",
    "extraEnv",
}
"""Values that every service has; the README says so once."""


def rows(text: str) -> Iterator[tuple[str, str, str]]:
    """Path, default and description of each value that has a default of its own."""
    path: list[str] = []
    said: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("# -- "):
            said = [stripped.removeprefix("# -- ")]
            continue
        if stripped.startswith("#"):
            if said:
                said.append(stripped.removeprefix("#").strip())
            continue
        found = KEY.fullmatch(line)
        if found is None:
            said = []
            continue
        depth = len(found[1]) // 2
        path = [*path[:depth], found[2]]
        default = found[3] or ""
        if default or said:
            yield ".".join(path), default, " ".join(said)
        said = []


def table() -> str:
    lines = ["| value | default | |", "|---|---|---|"]
    for path, default, said in rows((CHART / "values.yaml").read_text(encoding="utf-8")):
        if path.rpartition(".")[2] in SAME_IN_ALL:
            continue
        shown = f"`{default}`" if default else ""
        lines.append(f"| `{path}` | {shown} | {said.replace('|', ',')} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    readme = CHART / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    wanted = before + BEGIN + table() + END + after
    if "--check" in sys.argv[1:]:
        if wanted != text:
            print(f"{json.dumps(readme.name)} lacks what values.yaml says: make chart-manifests")
            return 1
        return 0
    readme.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
