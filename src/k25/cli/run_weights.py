"""Wherever a checkpoint is asked for, the folder of a finished training run stands for its last weights."""

from k25.checkpoint.source import user_path
from k25.errors import InputError
from k25.model import PRESETS

# Where a training run leaves its last weights, inside the run's folder.
_MODEL = "model"


def weights_of(source: str) -> str:
    """The folder of a run's weights, or the source as it is. Raises InputError for a run that is not finished."""
    if source in PRESETS:
        return source
    folder = user_path(source)
    if (folder / "config.json").is_file():
        return source
    if (folder / _MODEL / "config.json").is_file():
        return str(folder / _MODEL)
    if (folder / "checkpoints").is_dir():
        raise InputError(f"{source}: this run is not finished; resume it, or give a checkpoint folder")
    return source
