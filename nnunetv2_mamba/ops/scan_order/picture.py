"""Pictures of scan orders: ``python -m nnunetv2_mamba.ops.scan_order.picture FOLDER`` draws the documentation's.

SVG is text, so that a picture is the same wherever it is drawn. Steps to a neighbour are thick, jumps are thin; a ring
walks along the path unless the reader wants less motion. A path and its reversal share a panel. Colours follow the
reader's light or dark scheme, and a picture is no wider than a phone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from .named_paths import paths

# By file: the table, and the grids that it is drawn for.
PICTURES = {
    **{name: (name, ((8, 8), (4, 4, 4))) for name in ("raster", "bidirectional", "tri_oriented", "six_axes")},
    "serpentine": ("ss3d", ((8, 8), (4, 4, 4))),
    **{name: (name, ((8, 8), (4, 4, 4))) for name in ("morton", "hilbert", "random")},
    "hilbert_odd": ("hilbert", ((7, 10), (5, 3, 4), (3, 5, 5))),
}
_STEP = 22, 38  # pixels between neighbours in a plane, in a volume
_BEHIND = 15, 11  # pixels to the right and upwards from a slice of a volume to the one behind it
_MARGIN, _TITLE = 14, 18
_WIDTH = 376  # pixels, at most
_SECONDS = 0.15  # for a token
# From dark to light, told apart by everybody: viridis without its yellow end (van der Walt & Smith, 2015); the same
# raised, for a dark ground.
_COLOURS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98))
_COLOURS_ON_DARK = ((134, 108, 226), (74, 144, 222), (58, 190, 170), (190, 226, 96))
_SHADES = 16


def _style() -> str:
    light = _scheme("#404040", "#fff", "#d1365b", _COLOURS)
    dark = _scheme("#e6e8ee", "#1c1e26", "#ff8fa8", _COLOURS_ON_DARK)
    return f"""<style>
.scan text{{font:11px system-ui,sans-serif}}.scan path{{fill:none;stroke-linecap:round}}
.scan .edge{{stroke-width:6;stroke-linecap:butt}}.scan .near{{stroke-width:3}}.scan .jump{{stroke-width:.7}}
.scan .end{{stroke-width:8;stroke-linecap:butt}}.scan .start{{stroke-width:9}}
.scan .walker{{display:none;fill:none;stroke-width:2.5}}
{light}
@media (prefers-color-scheme:dark){{
{dark}
}}
@media (prefers-reduced-motion:no-preference){{
.scan .walker{{display:inline;offset-rotate:0deg;animation:walk linear infinite}}
.scan .both{{animation-direction:alternate}}
@keyframes walk{{from{{offset-distance:0}}to{{offset-distance:100%}}}}
}}
</style>"""


def _scheme(ink: str, paper: str, walker: str, colours: Sequence[tuple[int, int, int]]) -> str:
    """Rules of the colours, named after the drawing, so that they stay in it where it is part of a page."""
    rules = {
        "text": f"fill:{ink}",
        ".paper": f"fill:{paper}",
        ".edge": f"stroke:{paper}",
        ".walker": f"stroke:{walker}",
        **{f".s{shade}": f"stroke:{_colour(colours, shade)}" for shade in range(_SHADES)},
    }
    return "".join(f".scan {which}{{{rule}}}" for which, rule in rules.items())


def picture(name: str, grids: Sequence[Sequence[int]]) -> str:
    """An SVG document: a row of panels for each grid, a panel for each path of the table of this name.

    What has one path only is one row of all grids.

    Args:
        name: See `table`.
        grids: Sizes, of two or three axes each.
    """
    rows = [list(_panels(name, grid)) for grid in grids]
    if all(len(row) == 1 for row in rows):
        rows = [[panel for row in rows for panel in row]]
    width, height, content = 0, 0, []
    for row in rows:
        x = row_height = 0
        for panel_width, panel_height, panel in row:
            if x + panel_width > _WIDTH and x:
                x, height, row_height = 0, height + row_height, 0
            content.append(f'<g transform="translate({x} {height})">\n{panel}\n</g>')
            x, row_height = x + panel_width, max(row_height, panel_height)
            width = max(width, x)
        height += row_height
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'class="scan" role="img">\n<title>{name}</title>\n{_style()}\n'
        f'<rect class="paper" width="{width}" height="{height}" rx="6"/>\n' + "\n".join(content) + "\n</svg>\n"
    )


def _panels(name: str, grid: Sequence[int]) -> Iterator[tuple[int, int, str]]:
    """Width, height and content of each panel."""
    forward: dict[bytes, tuple[np.ndarray, bool]] = {}
    for path in paths(name, grid):
        back = path[::-1].tobytes()
        forward[back if back in forward else path.tobytes()] = (
            path[::-1] if back in forward else path,
            back in forward,
        )
    for path, both_ways in forward.values():
        yield _panel(path, grid, both_ways)


def _panel(path: np.ndarray, grid: Sequence[int], both_ways: bool) -> tuple[int, int, str]:
    voxels = np.stack(np.unravel_index(path, grid), axis=-1)
    volume = np.concatenate([np.zeros((len(voxels), 3 - len(grid)), dtype=int), voxels], axis=1)
    slices, height, width = (1,) * (3 - len(grid)) + tuple(grid)
    step, right, up = _STEP[slices > 1], (slices - 1) * _BEHIND[0], (slices - 1) * _BEHIND[1]
    x = _MARGIN + volume[:, 2] * step + volume[:, 0] * _BEHIND[0]
    y = _TITLE + _MARGIN + volume[:, 1] * step + up - volume[:, 0] * _BEHIND[1]
    points = list(zip(x.tolist(), y.tolist(), strict=True))
    title = " × ".join(map(str, grid)) + (", there and back" if both_ways else "")
    lines = [f'<text x="{_MARGIN - 4}" y="{_TITLE}">{title}</text>']
    lines += _steps(points, volume)
    (x1, y1), (x2, y2) = points[0], points[-1]
    lines.append(f'<path class="s0 start" d="M{x1} {y1}h0"/>')
    lines.append(f'<path class="s{_SHADES - 1} end" d="M{x2 - 4} {y2}h8"/>')
    way = "M" + "L".join(f"{x} {y}" for x, y in points)
    walk = f"offset-path:path('{way}');animation-duration:{len(points) * _SECONDS:g}s"
    lines.append(f'<circle class="walker{" both" if both_ways else ""}" r="6" style="{walk}"/>')
    size = (width - 1) * step + right + 2 * _MARGIN, (height - 1) * step + up + _TITLE + 2 * _MARGIN
    return max(size[0], 6 * len(title) + _MARGIN), size[1], "\n".join(lines)


def _steps(points: list[tuple[int, int]], volume: np.ndarray) -> Iterator[str]:
    """The lines of a path; those in front are drawn later and, in a volume, with a white edge around them."""
    last = len(points) - 1
    paths = [f"M{x1} {y1}L{x2} {y2}" for (x1, y1), (x2, y2) in pairwise(points)]
    near = np.abs(np.diff(volume, axis=0)).sum(axis=1) == 1
    depths = volume[:-1, 0] + volume[1:, 0]
    for depth in sorted(set(depths.tolist()), reverse=True):
        here = np.flatnonzero(depths == depth).tolist()
        if volume[:, 0].any():
            edges = "".join(paths[index] for index in here if near[index])
            yield f'<path class="edge" d="{edges}"/>'
        for index in here:
            shade = index * _SHADES // (last + 1)
            yield f'<path class="s{shade} {"near" if near[index] else "jump"}" d="{paths[index]}"/>'


def _colour(colours: Sequence[tuple[int, int, int]], shade: int) -> str:
    last = _SHADES - 1
    place = shade * (len(colours) - 1)
    low = min(place // last, len(colours) - 2)
    rest = place - low * last
    return "#" + "".join(
        f"{(start * (last - rest) + end * rest) // last:02x}"
        for start, end in zip(colours[low], colours[low + 1], strict=True)
    )


def main(folder: str) -> None:
    """Draw every one of ``PICTURES`` into a folder."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for file, (name, grids) in PICTURES.items():
        Path(folder, f"{file}.svg").write_text(picture(name, grids), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
