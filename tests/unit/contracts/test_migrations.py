"""What migrations may do: the version before goes on working while a service is upgraded."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
LATER = sorted(
    file
    for file in ROOT.glob("services/*/*/adapters/migrations/versions/0*.py")
    if not file.name.startswith("0001_")
)
TAKES_AWAY = re.compile(r"\b(drop_|rename_|DROP |RENAME )")


@pytest.mark.parametrize("file", LATER, ids=lambda file: f"{file.parts[-5]}-{file.stem}")
def test_a_migration_only_adds_and_says_so(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert re.search(r"^is_additive = True$", text, re.MULTILINE)
    assert not TAKES_AWAY.search(text.partition("def downgrade")[0])
    for column in re.findall(r"add_column\(.*?\n    \)|add_column\(.*?\)\)\n", text, re.DOTALL):
        assert "nullable=False" not in column or "server_default" in column, column
