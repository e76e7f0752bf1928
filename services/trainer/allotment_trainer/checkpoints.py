"""Fitted folds between attempts: the files of a trial's folder as one archive, and back.

The archive's bytes depend on its files alone: the same folds are the same blob.
"""

import zipfile
from pathlib import Path

from allotment_core.names import CheckpointName, TrialName

FOLDS_DIR = "folds"
"""Within a trial's folder: what `allotment_learn` keeps of fitted folds and of a fit's state."""
ARCHIVE_FILE = "checkpoint.zip"
ARCHIVE_LIMIT_BYTES = 1 << 30
"""What is larger takes longer to store than to fit again."""
_LONGEST_NAME = 100
_EPOCH = (1980, 1, 1, 0, 0, 0)


def owner_of(trial: str) -> str:
    """What holds a trial's archive: it goes before the trial does."""
    name = TrialName.parse(trial)
    return str(CheckpointName(name.experiment, name.trial_id))


def pack(folder: Path) -> Path | None:
    """An archive of the folds that lie whole in a trial's folder; None: there is nothing worth
    keeping."""
    files = sorted((folder / FOLDS_DIR).glob("*.npz"))
    if not files or sum(file.stat().st_size for file in files) > ARCHIVE_LIMIT_BYTES:
        return None
    archive = folder / ARCHIVE_FILE
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:
        for file in files:
            entry = zipfile.ZipInfo(file.name, date_time=_EPOCH)
            with file.open("rb") as source, packed.open(entry, "w", force_zip64=True) as target:
                while data := source.read(1 << 20):
                    target.write(data)
    return archive


def count(folder: Path) -> tuple[int, int]:
    """The number of the last fold that lies whole in a trial's folder, and of how many steps of the
    first fold's fit a state does."""
    folds, steps = (
        max((int(file.stem.removeprefix(kind)) for file in files), default=0)
        for kind in ("fold-", "fit-")
        for files in [(folder / FOLDS_DIR).glob(f"{kind}*.npz")]
    )
    return folds, steps


def unpack(archive: Path, folder: Path) -> None:
    """Lays the archive's folds into a trial's folder. One that is damaged leaves what can be
    read."""
    folds = folder / FOLDS_DIR
    folds.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(archive) as packed:
            if sum(entry.file_size for entry in packed.infolist()) > ARCHIVE_LIMIT_BYTES:
                return
            for entry in packed.infolist():
                if _is_fold(entry.filename):
                    packed.extract(entry, folds)
    except (zipfile.BadZipFile, EOFError, ValueError):
        return


def _is_fold(name: str) -> bool:
    return len(name) <= _LONGEST_NAME and Path(name).name == name and name.endswith(".npz")
