"""The fenced blocks of the documentation."""

import re
import shlex
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<body>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"<!--((?:(?!-->).)*)-->\s*\Z", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block and the HTML comment right before it."""

    page: str
    line: int
    language: str
    body: str
    comment: str

    @property
    def commands(self) -> list[list[str]]:
        """The words of every command, without variables set before it, prompts and comments."""
        joined = self.body.replace("\\\n", " ")
        commands = [shlex.split(line.removeprefix("$ "), comments=True) for line in joined.splitlines()]
        variable = re.compile(r"[A-Za-z_]\w*=")
        for words in commands:
            while words and variable.match(words[0]):
                del words[0]
        return [words for words in commands if words and words[0] not in ("export", "unset")]


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    blocks = []
    for match in FENCE.finditer(text):
        before = text[: match.start()]
        comment = COMMENT.search(before)
        blocks.append(
            Block(
                page.relative_to(ROOT).as_posix(),
                before.count("\n") + 1,
                match["language"],
                textwrap.dedent(match["body"]),
                " ".join(comment[1].split()) if comment else "",
            )
        )
    return blocks


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
