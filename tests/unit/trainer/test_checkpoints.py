"""Fitted folds between attempts: the same folds are the same bytes, and a bad archive harms
nothing."""

import zipfile
from pathlib import Path

from allotment_trainer import checkpoints


def _folder(path: Path, folds: dict[str, bytes]) -> Path:
    (path / checkpoints.FOLDS_DIR).mkdir(parents=True)
    for name, content in folds.items():
        (path / checkpoints.FOLDS_DIR / name).write_bytes(content)
    return path


def _folds(folder: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in (folder / checkpoints.FOLDS_DIR).iterdir()}


def test_folds_come_back_as_they_were(tmp_path: Path) -> None:
    folds = {"fold-001.npz": b"one" * 100_000, "fold-003.npz": b"three"}
    archive = checkpoints.pack(_folder(tmp_path / "a", {**folds, "fold-004.tmp": b"half"}))
    assert archive is not None
    assert checkpoints.count(tmp_path / "a") == (3, 0)
    checkpoints.unpack(archive, tmp_path / "b")
    assert _folds(tmp_path / "b") == folds


def test_the_state_of_a_fit_comes_back_too(tmp_path: Path) -> None:
    archive = checkpoints.pack(_folder(tmp_path / "a", {"fit-000012.npz": b"state"}))
    assert archive is not None
    assert checkpoints.count(tmp_path / "a") == (0, 12)
    checkpoints.unpack(archive, tmp_path / "b")
    assert _folds(tmp_path / "b") == {"fit-000012.npz": b"state"}


def test_the_same_folds_are_the_same_bytes(tmp_path: Path) -> None:
    folds = {"fold-001.npz": b"one", "fold-002.npz": b"two"}
    first = checkpoints.pack(_folder(tmp_path / "a", folds))
    second = checkpoints.pack(_folder(tmp_path / "b", dict(reversed(folds.items()))))
    assert first is not None
    assert second is not None
    assert first.read_bytes() == second.read_bytes()


def test_without_folds_there_is_no_checkpoint(tmp_path: Path) -> None:
    assert checkpoints.pack(tmp_path) is None
    assert checkpoints.count(tmp_path) == (0, 0)
    assert checkpoints.pack(_folder(tmp_path / "a", {})) is None


def test_an_archive_writes_nothing_outside_its_folder(tmp_path: Path) -> None:
    archive = tmp_path / "bad.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("../../escaped.npz", b"x")
        packed.writestr("/escaped.npz", b"x")
        packed.writestr("run.sh", b"x")
        packed.writestr("fold-001.npz", b"fine")
    checkpoints.unpack(archive, tmp_path / "deep" / "folder")
    assert _folds(tmp_path / "deep" / "folder") == {"fold-001.npz": b"fine"}
    assert not list(tmp_path.rglob("*escaped*"))


def test_a_damaged_archive_is_as_none(tmp_path: Path) -> None:
    archive = tmp_path / "bad.zip"
    archive.write_bytes(b"PK\x03\x04 not really")
    checkpoints.unpack(archive, tmp_path / "folder")
    assert _folds(tmp_path / "folder") == {}
