"""What scripted readers understand of a page that the tool `fetch` shows them: facts, lists and links."""

import re
from dataclasses import dataclass, field

_LINK = re.compile(r" ?\[#(\d+)\]")


@dataclass
class Page:
    """A page as `fetch` shows it.

    facts: values by label, of lines `label | value`; fact_links: the addresses that a fact links to; listed: the first
    link of each list item; following: the next page of a list.
    """

    heading: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    fact_links: dict[str, list[str]] = field(default_factory=dict)
    listed: list[str] = field(default_factory=list)
    following: str | None = None


def read_page(text: str) -> Page:
    """What the text of a page states."""
    body, _, tail = text.partition("\n\nLinks:\n")
    links = dict(re.findall(r"^\[#(\d+)\] (\S+)", tail, re.MULTILINE))
    page = Page()
    for line in body.splitlines():
        targets = [links[number] for number in _LINK.findall(line) if number in links]
        plain = _LINK.sub("", line).strip()
        label, bar, value = plain.partition(" | ")
        if plain.startswith("# "):
            page.heading = plain[2:]
        elif plain.startswith("- "):
            page.listed += targets[:1]
        elif bar:
            page.facts[label.strip()] = value.strip()
            page.fact_links[label.strip()] = targets
        elif "Next page" in plain and targets:
            page.following = targets[-1]
    return page
