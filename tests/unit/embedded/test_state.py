"""The state folder of a local system."""

import json
import stat
from pathlib import Path

import pytest

from allotment_core.errors import FailedPrecondition, InvalidArgument
from allotment_embedded.state import locked


def test_a_fresh_folder_is_made_and_used_again(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path / "d" / "state") as state:
            assert json.loads((state.path / "version").read_text(encoding="utf-8")) == {"form": 1}
            state.write("token", "secret")
        assert state.read_token() == "secret"
    assert stat.S_IMODE((state.path / "token").stat().st_mode) == 0o600


def test_a_second_server_is_refused(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(FailedPrecondition, match="process id") as caught:
        locked(tmp_path).__enter__()
    assert caught.value.reason == "STATE_IN_USE"


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x", encoding="utf-8")
    with pytest.raises(FailedPrecondition, match=r"thesis\.txt") as caught:
        locked(tmp_path).__enter__()
    assert caught.value.reason == "STATE_FOREIGN"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("text", "reason"), [('{"form": 99}', "STATE_TOO_NEW"), ("garbage", "STATE_FOREIGN")]
)
def test_a_folder_of_another_form_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "version").write_text(text, encoding="utf-8")
    with pytest.raises(FailedPrecondition) as caught:
        locked(tmp_path).__enter__()
    assert caught.value.reason == reason


def test_a_path_that_can_be_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(InvalidArgument) as caught:
        locked(tmp_path / "file").__enter__()
    assert caught.value.reason == "STATE_UNWRITABLE"
