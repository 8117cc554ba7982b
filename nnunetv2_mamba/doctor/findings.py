"""What an examination finds, line by line."""

from collections.abc import Iterator
from dataclasses import dataclass

OK, NOTE, WARNING, PROBLEM = "ok", "note", "WARNING", "PROBLEM"
AFTER_THE_ABOVE = "first what is said above; if that does not help, report this output"
FOR_IMPORTS = "first what is said above; pip install nnunetv2-mamba installs what is missing"


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        subject, text: what was looked at, and what was seen.
        remedy: what to do, where there is something to do.
        verdict: ``OK``: looked at and right. ``NOTE``: information. ``WARNING``: works, not as well as it could.
            ``PROBLEM``: does not work; by default, where there is a remedy.
    """

    subject: str
    text: str
    remedy: str | None = None
    verdict: str = ""

    def __post_init__(self) -> None:
        if not self.verdict:
            object.__setattr__(self, "verdict", OK if self.remedy is None else PROBLEM)


def guarded(subject: str, findings: Iterator[Finding]) -> Iterator[Finding]:
    """Hand on the findings; an exception on the way is a finding, too, and ends them."""
    try:
        yield from findings
    except ImportError as error:
        yield Finding(subject, f"cannot be examined: {error}", FOR_IMPORTS)
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        yield Finding(subject, text, AFTER_THE_ABOVE)
