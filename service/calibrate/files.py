"""Where prompts come from and artefacts go to."""

import tempfile
from pathlib import Path

from service.calibrate.driver import CalibrationError

FOLDER = "features"
PROMPTS = "prompts.txt"


def read_prompts(path: Path | None, model: str) -> tuple[str, ...]:
    """Return the lines of a file that are not empty; without one, of the file that ships with the model.

    Raises:
        CalibrationError: there is none, or it cannot be read, or is empty.
    """
    shipped = Path(model) / FOLDER / PROMPTS
    if path is None and not shipped.is_file():
        raise CalibrationError("this model ships no prompts to calibrate on: give a file with --prompts, one a line")
    chosen = path or shipped
    try:
        lines = [line.strip() for line in chosen.read_text("utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise CalibrationError(f"cannot read prompts from {chosen}: {why}") from error
    prompts = tuple(line for line in lines if line)
    if not prompts:
        raise CalibrationError(f"there is no prompt in {chosen}")
    return prompts


def writable_folder(out: Path | None, model: str) -> Path:
    """Return the folder artefacts go to, made if need be; without a choice it lies beside the model.

    Raises:
        CalibrationError: it cannot be written to, or the model is no local folder and none was chosen.
    """
    if out is None and not Path(model).is_dir():
        raise CalibrationError(f"{model!r} is not a local folder: say where to write with --out")
    folder = out or Path(model) / FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise CalibrationError(f"cannot write to {folder}: {error.strerror}") from error
    return folder
