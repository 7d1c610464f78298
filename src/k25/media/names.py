"""How sources are named in messages."""


def printable(text: str, length: int = 160) -> str:
    """`text` on one line, with control characters escaped and its middle cut out beyond `length`."""
    text = text if len(text) <= length else f"{text[: length // 2]}...{text[-length // 2 :]}"
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
