"""How a local system is started."""

import sys
from pathlib import Path

import pytest

from allotment_embedded.__main__ import main


def test_what_a_private_one_may_remove_has_to_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["up", "--dir", str(tmp_path / "state"), "--private"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert "--scratch" in capsys.readouterr().err
    assert tmp_path.exists()
