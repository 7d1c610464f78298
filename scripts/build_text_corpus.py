"""Build a corpus of real text from the documentation on a Debian or Ubuntu machine.

    sudo apt-get install --no-install-recommends python3-doc debian-reference-en     # or any other -doc packages
    python scripts/build_text_corpus.py corpus/                                       # corpus/corpus.jsonl.gz, manifest

Sources: /usr/share/doc (text, Markdown, reStructuredText, HTML; also .gz), manual pages, and further folders given with
--folder. Every text belongs to an installed package whose copyright file names its licences; texts of folders name the
folder instead. The manifest lists every file, package and licence, so that whoever passes the corpus on can see what it
is made of. Only this script comes with K25, never the texts.

Cleaning: markup removed, texts under --least characters and change logs and copyright files left out, long texts cut at
headings or paragraphs into documents of about --most characters, exact and near-exact duplicates (equal after removing
case, digits and white space) kept once.
"""

import gzip
import hashlib
import json
import re
import shutil
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

from cyclopts import App
from rich.console import Console

DOC, MAN = Path("/usr/share/doc"), Path("/usr/share/man")
SUFFIXES = {".txt", ".md", ".rst", ".html", ".htm", ""}
UNWANTED = re.compile(r"changelog|changes|copyright|licen[cs]e|copying|authors|genindex|searchindex|\.(css|js)$", re.I)


@dataclass(frozen=True)
class Found:
    """One text: where it lay, the package or folder that it belongs to, and its cleaned content."""

    file: Path
    origin: str
    text: str


def build(
    output: Path,
    /,
    *,
    folder: tuple[Path, ...] = (),
    man_pages: bool = True,
    documentation: bool = True,
    least: int = 200,
    most: int = 8000,
    limit_megabytes: float = 0,
) -> None:
    """Write corpus.jsonl.gz and manifest.json into a folder.

    Args:
        output: Folder of the results, made if needed.
        folder: Further folders of texts, such as the sources of a manual; with its licence in a LICENSE file.
        man_pages: Take the manual pages (needs groff).
        documentation: Take /usr/share/doc.
        least: Leave out shorter texts, in characters.
        most: Cut longer texts at headings or paragraphs, in characters.
        limit_megabytes: Stop after so much text; 0 takes everything.
    """
    console = Console(stderr=True)
    output.mkdir(parents=True, exist_ok=True)
    found = _everything(folder, man_pages=man_pages, documentation=documentation)
    aside = output / "corpus.jsonl.gz.new"
    seen: set[bytes] = set()
    counts, files = Counter[str](), list[dict[str, object]]()
    with gzip.open(aside, "wt", encoding="utf-8", compresslevel=6) as corpus:
        for text in found:
            documents = [one for one in _parts(text.text, most) if _new(one, least, seen, counts)]
            for document in documents:
                record = {"text": document, "origin": text.origin, "file": str(text.file)}
                corpus.write(json.dumps(record, ensure_ascii=False) + "\n")
            if documents:
                size = sum(map(len, documents))
                files.append({"file": str(text.file), "origin": text.origin, "characters": size})
                counts["documents"] += len(documents)
                counts["characters"] += size
            if limit_megabytes and counts["characters"] > limit_megabytes * 1e6:
                break
    if not files:
        aside.unlink()
        console.print("error: no text was found; install -doc packages or give --folder", style="bold red")
        sys.exit(2)
    aside.replace(output / "corpus.jsonl.gz")
    origins = sorted({str(file["origin"]) for file in files})
    licences = {origin: _licences(origin) for origin in origins}
    manifest = {"counts": dict(counts), "licences": licences, "files": files}
    (output / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    unclear = sum(not names for names in licences.values())
    console.print(
        f"{counts['documents']:,} documents with {counts['characters'] / 1e6:.1f} million characters, "
        f"from {len(files):,} files of {len(origins):,} packages and folders",
        f"left out: {counts['duplicates']:,} duplicates, {counts['short']:,} short texts",
        f"packages whose licences could not be read: {unclear:,}",
        sep="\n",
    )


def _everything(folders: Iterable[Path], *, man_pages: bool, documentation: bool) -> Iterator[Found]:
    for folder in folders:
        if not folder.is_dir():
            Console(stderr=True).print(f"error: {folder} is no folder", style="bold red")
            sys.exit(2)
        for file in sorted(folder.rglob("*")):
            yield from _text(file, f"folder {folder}")
    if documentation:
        for package in sorted(DOC.iterdir()) if DOC.is_dir() else ():
            for file in sorted(package.rglob("*")) if package.is_dir() and not package.is_symlink() else ():
                yield from _text(file, package.name)
    if man_pages and shutil.which("groff"):
        yield from _manual_pages()


def _text(file: Path, origin: str) -> Iterator[Found]:
    inner = file.with_suffix("") if file.suffix == ".gz" else file
    if UNWANTED.search(inner.name) or inner.suffix.lower() not in SUFFIXES or file.is_symlink() or not file.is_file():
        return
    text = _read(file)
    if text is None:
        return
    if inner.suffix.lower() in (".html", ".htm"):
        text = _from_html(text)
    yield Found(file, origin, _tidied(text))


def _read(file: Path) -> str | None:
    """The content, or None for what is unreadable or no UTF-8 text."""
    try:
        data = file.read_bytes()
        text = (gzip.decompress(data) if file.suffix == ".gz" else data).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError):
        return None
    return None if "\0" in text else text


def _manual_pages() -> Iterator[Found]:
    pages = [page for section in sorted(MAN.glob("man[1-8]")) for page in sorted(section.iterdir())]
    pages = [page for page in pages if page.is_file() and not page.is_symlink()]
    owners = _owners(pages)
    for page in pages:
        source = _read(page)
        if source is None or re.match(r"\s*\.so ", source) or page not in owners:
            continue
        command = ["groff", "-k", "-mandoc", "-Tutf8", "-P-cbou", "-rLL=100n", "-rHY=0"]
        ragged = ".na\n" + source
        done = subprocess.run(command, input=ragged.encode(), capture_output=True, check=False, timeout=60)
        yield Found(page, owners[page], _tidied(done.stdout.decode("utf-8", "replace")))


def _owners(files: list[Path]) -> dict[Path, str]:
    """The package of each file that belongs to one."""
    owners: dict[Path, str] = {}
    for listing in Path("/var/lib/dpkg/info").glob("*.list"):
        package = listing.name.removesuffix(".list").partition(":")[0]
        for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(str(MAN)):
                owners[Path(line)] = package
    wanted = set(files)
    return {file: package for file, package in owners.items() if file in wanted}


class _Words(HTMLParser):
    """The readable text of a page: block elements become lines; scripts, styles and navigation go."""

    BLOCKS = frozenset(
        re.findall(r"\w+", "p div section article li dt dd tr pre h1 h2 h3 h4 h5 h6 br table ul ol dl blockquote")
    )
    HIDDEN = frozenset({"script", "style", "nav", "header", "footer", "form", "title"})

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._hidden = 0
        self._literal = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002
        self._hidden += tag in self.HIDDEN
        self._literal += tag == "pre"
        if tag in self.BLOCKS:
            self.parts.append("\n\n" if tag in ("p", "pre") or tag.startswith("h") else "\n")

    def handle_endtag(self, tag: str) -> None:
        self._hidden = max(0, self._hidden - (tag in self.HIDDEN))
        self._literal = max(0, self._literal - (tag == "pre"))
        if tag in self.BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(data if self._literal else re.sub(r"\s+", " ", data))


def _from_html(page: str) -> str:
    words = _Words()
    words.feed(page)
    return "".join(words.parts).replace("¶", "")


def _tidied(text: str) -> str:
    text = re.sub(r".\x08|\x1b\[[0-9;]*m", "", text).replace("\r\n", "\n")
    lines = [line.rstrip() for line in text.expandtabs(8).splitlines()]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _parts(text: str, most: int) -> Iterator[str]:
    """Pieces of at most about `most` characters that end at an empty line, or at any line where there is none."""
    while len(text) > most:
        cut = text.rfind("\n\n", most // 2, most)
        if cut < 0:
            cut = text.rfind("\n", most // 2, most)
        if cut < 0:
            cut = most
        yield text[:cut].strip()
        text = text[cut:].lstrip("\n")
    yield text


def _new(document: str, least: int, seen: set[bytes], counts: Counter[str]) -> bool:
    if len(document) < least or not any(character.isalpha() for character in document):
        counts["short"] += 1
        return False
    core = re.sub(r"[\W\d_]+", "", document.lower())
    key = hashlib.blake2b(core.encode(), digest_size=16).digest()
    if key in seen:
        counts["duplicates"] += 1
        return False
    seen.add(key)
    return True


def _licences(origin: str) -> list[str]:
    """Names of licences in a package's copyright file, or the first line of a folder's licence file."""
    if origin.startswith("folder "):
        folder = Path(origin.removeprefix("folder "))
        texts = [_read(file) for file in sorted(folder.glob("LICEN[CS]E*")) + sorted(folder.glob("COPYING*"))]
        return [text.strip().partition("\n")[0].strip() for text in texts if text]
    text = _read(DOC / origin / "copyright") or ""
    named = {line.strip() for line in re.findall(r"^License:[ \t]*(\S.*)$", text, re.M)}
    common = {name.rstrip(".") for name in re.findall(r"/usr/share/common-licenses/([\w.+-]+)", text)}
    return sorted(named | common)


if __name__ == "__main__":
    App(default_command=build, version_flags=[])()
