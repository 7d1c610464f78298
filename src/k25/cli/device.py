"""The option --device, the same for every command."""

import torch

from k25.errors import InputError


def chosen_device(name: str | None) -> torch.device:
    """The device called `name`; by default CUDA where there is one. Raises InputError for one that cannot be used."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"--device {name}: cannot be used ({reason})") from None
    return device
