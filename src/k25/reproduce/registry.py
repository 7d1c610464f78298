"""The table of claims: name on the command line to module of this package, in the order of the report's sections."""

import difflib
from importlib import import_module

from k25.errors import InputError
from k25.reproduce.claim import Claim

CLAIMS = {
    "muon-vs-adamw": "muon_vs_adamw",
    "qk-clip": "qk_clip",
    "fusion": "fusion",
    "zero-vision-sft": "zero_vision_sft",
    "parl": "parl",
    "nano": "nano",
    "policy-optimisation": "policy_optimisation",
    "toggle": "toggle",
    "visual-rl": "visual_rl",
}


def find_claim(name: str) -> Claim:
    """The claim of that name. Raises InputError for an unknown one."""
    if name not in CLAIMS:
        near = difflib.get_close_matches(name, CLAIMS, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(CLAIMS)}"
        raise InputError(f"there is no claim {name!r}; {hint}")
    claim: Claim = import_module(f"k25.reproduce.{CLAIMS[name]}").CLAIM
    return claim
