"""The demonstration's checkpoint: a random nano network in the released INT4 layout, and the release's own counts."""

import torch

from k25.checkpoint import load_model, save_model
from k25.cli import inspect
from k25.cli.demo.course import Measured, Place, StageFailed
from k25.model import K25Model, initialise, parameter_counts, preset

FOLDER = "nano-int4"
_SEED = 0


def show(place: Place) -> Measured:
    """Build nano, save it with INT4 experts, read it back, save it again, and compare byte for byte."""
    console, out = place.console, place.out
    config = preset("nano")
    total, active = parameter_counts(config)
    console.print(f"nano has every part of K2.5's architecture: {total:,} parameters, {active:,} active per token.")
    model = K25Model(config)
    initialise(model, _SEED)
    save_model(model.to(torch.bfloat16), out / FOLDER, quantise=True, overwrite=True)
    save_model(load_model(out / FOLDER), out / f"{FOLDER}-again", overwrite=True)
    files = sorted(path.name for path in (out / FOLDER).glob("*.safetensors"))
    same = all((out / FOLDER / name).read_bytes() == (out / f"{FOLDER}-again" / name).read_bytes() for name in files)
    size = sum((out / FOLDER / name).stat().st_size for name in files)
    console.print(f"Saved to {out / FOLDER}: {size:,} bytes with 4-bit experts.")
    if not same:
        raise StageFailed(f"{out / FOLDER} changed when it was read back and saved again")
    console.print("Read back and saved again: every byte is the same.")
    inspect.main(str(out / FOLDER))
    return {}


def inspect_release(place: Place) -> Measured:
    """The table of `k25 inspect k2.5`."""
    place.console.print("k25 inspect k2.5", style="dim")
    inspect.main("k2.5")
    return {}
