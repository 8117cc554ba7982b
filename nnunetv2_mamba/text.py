"""Names that strangers chose, shown and written so that neither a terminal nor a spreadsheet obeys them."""

from collections.abc import Iterable, Sequence

_EXCERPT = 100  # characters
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "'")


def printable(text: object) -> str:
    """Write control characters, line breaks and marks of direction as Python escapes."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in str(text)
    )


def short_reason(error: BaseException, limit: int = 200) -> str:
    """Write an error on one line: its type, and the message up to its first empty line."""
    text = first_paragraph(error) or "no message"
    cut = text if len(text) <= limit else text[:limit].rsplit(" ", 1)[0] + " ..."
    return f"{type(error).__name__}: {cut}"


def first_paragraph(text: object) -> str:
    """Write a text up to its first empty line on one line."""
    return " ".join(str(text).strip().split("\n\n")[0].split())


def last_line(text: object, otherwise: str | None = None) -> str:
    """Take the last line of a text or an error: ITK and tracebacks say there what is wrong, after where in the code.

    Args:
        otherwise: for a text that is empty; None for the name of its type, which says something of an error.
    """
    lines = str(text).strip().splitlines()
    return lines[-1].strip() if lines else otherwise or type(text).__name__


def times(numbers: Iterable[float]) -> str:
    """Write sizes as ``96 x 96 x 64``."""
    return " x ".join(f"{number:g}" for number in numbers)


def excerpt(value: object) -> str:
    """Write a value as Python does, cut where it is long: for messages that show what a file says."""
    text = repr(value)
    return text if len(text) <= _EXCERPT else f"{text[:_EXCERPT]}..."


def joined_by_and(names: Sequence[str]) -> str:
    """Write ``a``, ``a and b`` or ``a, b and c``."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def first_few(items: Iterable[object], most: int = 10, separator: str = ", ") -> str:
    """Write ``a, b and 3 more``: a list for a message, cut where it is long."""
    texts = [str(item) for item in items]
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return f"{separator.join(texts[:most])}{more}"


def listed(values: Sequence[object], most: int = 10) -> str:
    """Write ``1, 2, ...``: values for a message with all their digits, as 0.9999999 must not read as 1."""
    return ", ".join(str(value) for value in values[:most]) + (", ..." if len(values) > most else "")


def as_cell(text: str) -> str:
    """Write text for a cell of a CSV file: with an apostrophe before it where a spreadsheet would compute it.

    :func:`from_cell` takes it away again, so an apostrophe before such a character is doubled, too.
    """
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def from_cell(text: str) -> str:
    """Give back what :func:`as_cell` was given."""
    return text[1:] if text.startswith("'") and text[1:].startswith(_FORMULA_STARTS) else text
