"""Hook of ``mkdocs.yml``: drawings become part of their page, so that a reader finds and copies their text.

On GitHub they stay files beside the page. A drawing names its rules after its class, so that none reaches the page.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

_IMAGE = re.compile(r'<img alt="([^"]*)" src="([^"]+\.svg)"[^>]*>')
# A file follows the system's scheme; within a page the reader has a switch.
_OF_THE_SYSTEM, _OF_THE_PAGE = "@media (prefers-color-scheme:dark){", "[data-md-color-scheme=slate]{"


def on_page_content(html: str, page: Any, config: Any, **_: Any) -> str:
    """Put each SVG in the place of the image that names it; what the page says of it describes it."""

    def drawing(image: re.Match[str]) -> str:
        file = posixpath.normpath(posixpath.join(posixpath.dirname(page.url), image[2]))
        svg = Path(config.docs_dir, file).read_text(encoding="utf-8")
        return svg.replace("<svg ", f'<svg aria-label="{image[1]}" ', 1).replace(_OF_THE_SYSTEM, _OF_THE_PAGE)

    return _IMAGE.sub(drawing, html)
