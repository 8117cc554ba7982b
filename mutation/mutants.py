"""Which mutants there are: cosmic-ray's operators on the sources of a room, and a seeded sample of the places."""

from __future__ import annotations

import ast
import hashlib
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import parso
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Example, Operator
from cosmic_ray.operators.provider import OperatorProvider

# A decorator that only saves time or checks nothing: without it the program does the same.
HARMLESS_DECORATORS = ("lru_cache", "cache", "dataclass", "override", "abstractmethod", "runtime_checkable")
WITHOUT_MEANING = ("strict",)  # zip's: an assertion


class DropKeywordArgument(Operator):
    """``f(a, key=value)`` becomes ``f(a)``: the default of what is called takes over. Not among cosmic-ray's."""

    def mutation_positions(self, node):
        if _is_keyword_argument(node):
            yield node.start_pos, node.end_pos

    def mutate(self, node, index):
        """Empty the argument; a comma after it goes too."""
        following = node.get_next_sibling()
        if following is not None and following.type == "operator" and following.value == ",":
            following.value = following.prefix = ""
        return parso.python.tree.Name("", node.start_pos)

    @classmethod
    def examples(cls):
        return (Example("f(a, b=1)", "f(a, )"), Example("f(b=1, c=2)", "f( c=2)"))


OPERATORS: dict[str, Operator] = {
    name: operator()
    for name, operator in ((name, OperatorProvider()[name]) for name in OperatorProvider())
    if not operator.arguments()
} | {"DropKeywordArgument": DropKeywordArgument()}


@dataclass(frozen=True)
class Mutant:
    """One change to one file.

    Attributes:
        path: the file, relative to the checkout.
        operator, occurrence: cosmic-ray's names of the change.
        line: where it is, counted from 1.
        before, after: that line and what it becomes.
    """

    path: str
    operator: str
    occurrence: int
    line: int
    before: str
    after: str

    @property
    def key(self) -> str:
        """Name of the mutant that outlives changes elsewhere in the file."""
        return hashlib.sha256("\0".join((self.path, self.before, self.after)).encode()).hexdigest()[:8]

    def source(self, root: Path) -> str:
        """The whole file with the change."""
        return mutate_code((root / self.path).read_text(encoding="utf-8"), OPERATORS[self.operator], self.occurrence)


def sample(root: Path, paths: list[str], number: int, seed: int) -> list[Mutant]:
    """``number`` places of the files drawn by ``seed``, and one of each place's mutants; all places if there are fewer.

    What is no Python is left out: cosmic-ray takes the stars of ``f(**options)`` for a power.

    One mutant per place: a ``+`` has eleven, a keyword one, and to draw among mutants would be to draw among pluses.
    """
    chooser = random.Random(seed)
    places = [place for path in sorted(paths) for place in _places(root, path)]
    chosen = chooser.sample(places, min(number, len(places)))
    mutants = [_mutant(root, *chooser.choice(variants)) for variants in chosen]
    return [mutant for mutant in mutants if _compiles(mutant.source(root))]


def _places(root: Path, path: str) -> Iterator[list[tuple[str, str, int, int]]]:
    source = (root / path).read_text(encoding="utf-8")
    skipped = _without_meaning(source)
    nodes = list(ast_nodes(get_ast(source)))
    places = defaultdict(list)
    for name, operator in OPERATORS.items():
        occurrence = 0
        for node in nodes:
            for start, end in operator.mutation_positions(node):
                if not any(first <= start and end <= last for first, last in skipped):
                    places[start, end].append((path, name, occurrence, start[0]))
                occurrence += 1
    yield from (places[place] for place in sorted(places))


def _mutant(root: Path, path: str, operator: str, occurrence: int, line: int) -> Mutant:
    source = (root / path).read_text(encoding="utf-8")
    old = source.splitlines()
    new = mutate_code(source, OPERATORS[operator], occurrence).splitlines()
    changed = [number for number, (before, after) in enumerate(zip(old, new, strict=False)) if before != after]
    if changed:
        line = changed[0] + 1
    return Mutant(path, operator, occurrence, line, old[line - 1].strip(), new[line - 1].strip())


def _compiles(source: str) -> bool:
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


def _without_meaning(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Places where a change is none, or stops the import: annotations, ``zip``'s ``strict``, decorators that cache."""
    nodes = []
    for node in ast.walk(ast.parse(source)):
        nodes += [getattr(node, name, None) for name in ("annotation", "returns")]
        if isinstance(node, ast.Call):
            nodes += [keyword for keyword in node.keywords if keyword.arg in WITHOUT_MEANING]
        for decorator in getattr(node, "decorator_list", []):
            if any(name in ast.unparse(decorator) for name in HARMLESS_DECORATORS):
                nodes.append(decorator)
    return [((n.lineno, n.col_offset), (n.end_lineno, n.end_col_offset)) for n in nodes if n is not None]


def _is_keyword_argument(node) -> bool:
    return (
        node.type == "argument"
        and len(node.children) == 3
        and node.children[1].type == "operator"
        and node.children[1].value == "="
    )
