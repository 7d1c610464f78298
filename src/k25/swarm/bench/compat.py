"""What browsers support of the web's interfaces: the interfaces, their members, and the browsers' releases.

From MDN's browser-compat-data; its schema says what a support statement may hold.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from k25.swarm.bench.packages import PackageFiles

# Browsers that pages tell of, in this order, by their names in the data.
BROWSERS = ("chrome", "edge", "firefox", "opera", "safari", "safari_ios", "samsunginternet_android")
NO, NOT_BY_DEFAULT = "no", "not by default"
_NAME = re.compile(r"[A-Za-z0-9_]+")


@dataclass(frozen=True)
class Release:
    """A release of a browser; an empty text where the data state nothing."""

    browser: str
    version: str
    date: str
    engine: str
    engine_version: str


@dataclass(frozen=True)
class Browser:
    """A browser and its releases by version, the earliest first."""

    key: str
    name: str
    releases: dict[str, Release]


@dataclass(frozen=True)
class Support:
    """Since when a browser supports a feature: what pages say, and the version, where it is supported now."""

    text: str
    version: str | None


@dataclass(frozen=True)
class Feature:
    """An interface, or a member of one; `members` are those of an interface, by name."""

    name: str
    standard: bool
    experimental: bool
    deprecated: bool
    support: dict[str, Support]
    members: "dict[str, Feature]"


@dataclass(frozen=True)
class Compat:
    """Browsers by their keys, in the order of `BROWSERS`, and interfaces by their names."""

    browsers: dict[str, Browser]
    interfaces: dict[str, Feature]

    def release(self, browser: str, support: Support) -> Release | None:
        """The release with which a feature came, if the data have it."""
        return None if support.version is None else self.browsers[browser].releases.get(support.version)


def load_compat(files: PackageFiles) -> Compat:
    """Browsers and interfaces; members whose names are no identifiers, such as @@iterator, are left out."""
    data = files.read_json("@mdn/browser-compat-data", "data.json")
    browsers = {key: _browser(key, data["browsers"][key]) for key in BROWSERS if key in data["browsers"]}
    interfaces = {
        name: _feature(name, node, browsers) for name, node in sorted(data["api"].items()) if _is_feature(name, node)
    }
    return Compat(browsers, interfaces)


def support_of(statements: Any) -> Support:
    """What the statements of one browser come to: the first without a flag, a prefix or another name counts."""
    listed = statements if isinstance(statements, list) else [statements]
    plain = [one for one in listed if not {"flags", "prefix", "alternative_name"} & one.keys()]
    if not plain:
        return Support(NOT_BY_DEFAULT, None)
    first = plain[0]
    added, removed = first["version_added"], first.get("version_removed")
    if added == "preview" or not isinstance(added, str):
        return Support(NO if added != "preview" else "preview", None)
    if removed:
        return Support(f"{added}, removed in {removed}" if isinstance(removed, str) else f"{added}, removed", None)
    # A version such as \N{LESS-THAN OR EQUAL TO}79 means this one or an earlier one.
    version = added.removeprefix("\N{LESS-THAN OR EQUAL TO}")
    return Support(f"{added} (partly)" if first.get("partial_implementation") else added, version)


def _browser(key: str, node: Mapping[str, Any]) -> Browser:
    releases = [
        Release(key, version, one.get("release_date", ""), one.get("engine", ""), one.get("engine_version", ""))
        for version, one in node["releases"].items()
        if one.get("release_date")
    ]
    ordered = sorted(releases, key=lambda release: (release.date, release.version))
    return Browser(key, node["name"], {release.version: release for release in ordered})


def _is_feature(name: str, node: Mapping[str, Any]) -> bool:
    return "__compat" in node and _NAME.fullmatch(name) is not None


def _feature(name: str, node: Mapping[str, Any], browsers: Mapping[str, Browser], *, members: bool = True) -> Feature:
    stated = node["__compat"]
    status = stated.get("status", {})
    below = sorted(node.items()) if members else []
    return Feature(
        name,
        status.get("standard_track", False),
        status.get("experimental", False),
        status.get("deprecated", False),
        {key: support_of(stated["support"].get(key, {"version_added": False})) for key in browsers},
        {one: _feature(one, child, browsers, members=False) for one, child in below if _is_feature(one, child)},
    )
