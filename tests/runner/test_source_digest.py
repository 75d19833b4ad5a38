"""Digests of sources: no wording changes them, every change of what the code does changes them."""

from __future__ import annotations

import ast
import copy
import io
import tokenize
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bi_harness.runner.source_digest import ANY, python_digest, yaml_digest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    *sorted((ROOT / "suites").rglob("*.py")),
    *sorted((ROOT / "bi_harness" / "compare").glob("*.py")),
    *sorted((ROOT / "bi_harness" / "workload").glob("*.py")),
    ROOT / "bi_harness" / "runner" / "suite_session.py",
]
TEXTS = [path.read_text(encoding="utf-8") for path in SOURCES]
texts = st.sampled_from(TEXTS)
words = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"]), max_size=20)


def digest(source: str | bytes) -> str:
    return python_digest(ast.parse(source))


def commented(source: str, comment: str) -> str:
    """``source`` with a comment at the end of every logical line."""
    lines = source.splitlines(keepends=True)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NEWLINE:
            row, column = token.start
            lines[row - 1] = f"{lines[row - 1][:column]}  # {comment}\n"
    return "".join(lines)


def spaced(source: str) -> str:
    """``source`` with an empty line before every statement."""
    lines = source.splitlines(keepends=True)
    starts = {node.lineno for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt)}
    # A line that begins inside a string of several lines belongs to it.
    inside = {
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant | ast.JoinedStr)
        for line in range(node.lineno + 1, (node.end_lineno or node.lineno) + 1)
    }
    return "".join(f"\n{line}" if n in starts - inside else line for n, line in enumerate(lines, start=1))


def reworded(source: str, text: str) -> str:
    """``source`` reformatted, with ``text`` as the docstring of everything that can have one."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.Expr(ast.Constant(text))
            node.body = [docstring, *(node.body[1:] if ast.get_docstring(node) is not None else node.body)]
    return ast.unparse(ast.fix_missing_locations(tree))


@given(texts, words)
def test_comments_do_not_change_the_digest(source: str, comment: str) -> None:
    assert digest(commented(source, comment)) == digest(source)


@given(texts)
def test_formatting_does_not_change_the_digest(source: str) -> None:
    assert digest(spaced(source)) == digest(source)
    assert digest(ast.unparse(ast.parse(source))) == digest(source)
    assert digest(source.encode("utf-8")) == digest("\n\n" + source.replace("\n", "\r\n"))


@given(texts, words)
def test_docstrings_do_not_change_the_digest(source: str, text: str) -> None:
    assert digest(reworded(source, text)) == digest(source)


SAME = [
    ("x = 1\n", "x = 1\n'''About x.'''\n"),
    ("def f(): pass\n", "def f():\n    '''Do nothing.'''\n"),
    ("class A:\n    x: int\n", "class A:\n    x: int\n    '''Of A.'''\n    pass\n"),
    ("x = 'a'\n", 'x = "a"\n'),
    ("x = u'a'\n", "x = 'a'\n"),
    ("x = 'ab'\n", "x = 'a' 'b'\n"),
    ("x = 16\n", "x = 0x10\n"),
    ("x = (1, 2)\n", "x = 1, 2,\n"),
    ("x = a + (b * c)\n", "x = a + b * c\n"),
    ("x = f'{a:>{b}}c'\n", "x = f'{a:>{b}}' 'c'\n"),
    ("x = f'{a}'\n", "x = f'{a:}'\n"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_other_wordings_of_the_same_code_have_its_digest(one: str, other: str) -> None:
    assert digest(one) == digest(other)


DIFFERENT = [
    ("x = 1\n", "x = 2\n"),
    ("x = 1\n", "x = 1.0\n"),
    ("x = 1\n", "x = True\n"),
    ("x = 1\n", "y = 1\n"),
    ("x = 'a'\n", "x = b'a'\n"),
    ("x = 'a'\n", "x = a\n"),
    ("x = None\n", "x = ...\n"),
    ("x = 0.0\n", "x = -0.0\n"),
    ("x = a < b\n", "x = a <= b\n"),
    ("x = a or b\n", "x = a and b\n"),
    ("x = a + b * c\n", "x = (a + b) * c\n"),
    ("x = [1, 2]\n", "x = [1, [2]]\n"),
    ("x = [1, 2]\n", "x = [2, 1]\n"),
    ("x = {**a, b: c}\n", "x = {b: c, **a}\n"),
    ("x = f'{a}'\n", "x = f'{a!r}'\n"),
    ("x = f'{a}'\n", "x = f'{a:1}'\n"),
    ("x = f'{a}b'\n", "x = f'b{a}'\n"),
    ("x = '\\ud800'\n", "x = '\\ud801'\n"),
    ("def f(a, b=1): pass\n", "def f(a, b=2): pass\n"),
    ("def f(a, b): pass\n", "def f(a, *, b): pass\n"),
    ("def f(a, /, b): pass\n", "def f(a, b): pass\n"),
    ("def f(): return 1\n", "def f(): 1\n"),
    ("def f(): f()\n", "async def f(): f()\n"),
    ("class A:\n    x: int\n", "class A:\n    x: float\n"),
    ("if a:\n    b()\nc()\n", "if a:\n    b()\n    c()\n"),
    ("assert a\n", "assert a, 'a'\n"),
    ("a()\n", "await_()\n"),
    ("from a import b\n", "from .a import b\n"),
    ("from a import b\n", "from a import b as c\n"),
    ("", "x = 1\n"),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_other_code_has_another_digest(one: str, other: str) -> None:
    assert digest(one) != digest(other)


OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}


def other_constant(value: Any) -> Any:
    """A value that differs from ``value`` as little as one of its type can."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return value + " " if isinstance(value, str) else value + b" "


@given(texts, st.data())
def test_a_changed_constant_operator_or_name_changes_the_digest(source: str, data: st.DataObject) -> None:
    tree = ast.parse(source)
    words = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    places = [
        node
        for node in ast.walk(tree)
        if (isinstance(node, ast.Constant) and node.value not in (None, ...) and id(node) not in words)
        or isinstance(node, ast.Name | ast.arg | ast.Attribute | ast.keyword | ast.alias)
        or type(node) in OPERATORS
    ]
    if not places:
        return
    before = python_digest(tree)
    index = data.draw(st.integers(0, len(places) - 1))
    # Operators are one object for the whole process: change them where they are used.
    chosen = places[index]
    if type(chosen) in OPERATORS:
        (parent,) = [
            node for node in ast.walk(tree) if any(chosen is child for child in ast.iter_child_nodes(node))
        ][:1]
        replace_child(parent, chosen, OPERATORS[type(chosen)]())
    elif isinstance(chosen, ast.Constant):
        chosen.value = other_constant(chosen.value)
    else:
        field = {"Name": "id", "Attribute": "attr", "alias": "name"}.get(type(chosen).__name__, "arg")
        setattr(chosen, field, f"{getattr(chosen, field)}x")
    assert python_digest(tree) != before


def replace_child(parent: ast.AST, child: ast.AST, other: ast.AST) -> None:
    for name, value in ast.iter_fields(parent):
        if value is child:
            setattr(parent, name, other)
            return
        if isinstance(value, list) and any(item is child for item in value):
            setattr(parent, name, [other if item is child else item for item in value])
            return


EVERYTHING = '''\
"""A module."""
from __future__ import annotations
import a.b as c
from .. import d
type_ = 0x1F, 1_000, 1e-300, 2j, b"\\xff", "\\u00e9\\U0001F600\\ud800", ..., None, True
@e(1, *f, **g)
class H(I, metaclass=J):
    """A class."""
    k: int = 1
    def l(self, m, /, n=2, *o: p, q, r=3, **s) -> t:
        global u
        nonlocal_ = lambda v=4, *w: (yield)
        if (x := y) and not z or -1 < 2 <= 3 != 4: return [*x, {**y, 1: 2}, {3}]
        elif x @ y // z ** 2 % 3 ^ 4: raise E from F
        else: del x.y, z[1:2, ::3, ...]
        for i, *j in k: continue
        else: break
        while True: assert x, f"{x!r:>{y}.{z}}b{a=}" "c"
    async def n(self):
        async with o as p, q: await r
        return [s async for t in u if v if w for x in y]
try: pass
except (A, B) as e: ...
finally: x += 1
try: y
except* C: z
match x:
    case {"a": 1, **b} | [c, *_] if d: e
    case F(g, h=None) | -1 | True: i
    case _: j
'''


def test_digest_is_the_same_on_every_version_of_python() -> None:
    assert digest(EVERYTHING) == "7aea84955339df71bf1b9b57e6720efb6b59876725930162f68823aa44be982c"


def test_digest_of_a_deep_expression() -> None:
    # More than Python's own stack takes; the parser takes it.
    assert digest("x = " + " + ".join("1" * 2000) + "\n") != digest("x = " + " + ".join("1" * 2001) + "\n")


def test_digest_of_a_number_that_python_does_not_print() -> None:
    assert digest(f"x = 0x{'f' * 10_000}\n") != digest(f"x = 0x{'f' * 9_999}e\n")


# One document, with everything that a suite's YAML has.
DOCUMENT: dict[str, Any] = {
    "title": "A title",
    "limits": {"start_s": 60, "part": 0.5, "on": True, "none": None},
    "checks": [{"id": "a", "summary": "One."}, {"id": "b", "summary": "Two.", "title": "kept"}],
}
IGNORED = (("title",), ("checks", ANY, "summary"))


def test_ignored_values_do_not_change_a_yaml_digest() -> None:
    other = copy.deepcopy(DOCUMENT)
    other["title"] = "Another"
    other["checks"][1]["summary"] = "Three."
    del other["checks"][0]["summary"]
    assert yaml_digest(other, IGNORED) == yaml_digest(DOCUMENT, IGNORED)
    assert yaml_digest(other) != yaml_digest(DOCUMENT)


def test_order_of_keys_does_not_change_a_yaml_digest() -> None:
    assert yaml_digest(dict(reversed(DOCUMENT.items())), IGNORED) == yaml_digest(DOCUMENT, IGNORED)


@pytest.mark.parametrize(
    ("route", "value"),
    [
        (("limits", "start_s"), 61),
        (("limits", "start_s"), "60"),
        (("limits", "part"), 0.25),
        (("limits", "on"), False),
        (("limits", "none"), 0),
        (("limits", "title"), "new"),
        (("checks", 0, "id"), "c"),
        (("checks", 1, "title"), "another"),
        (("checks",), []),
    ],
)
def test_every_other_value_changes_a_yaml_digest(route: tuple[str | int, ...], value: Any) -> None:
    other: Any = copy.deepcopy(DOCUMENT)
    parent = other
    for key in route[:-1]:
        parent = parent[key]
    parent[route[-1]] = value
    assert yaml_digest(other, IGNORED) != yaml_digest(DOCUMENT, IGNORED)


def test_order_of_a_list_changes_a_yaml_digest() -> None:
    other = {**DOCUMENT, "checks": DOCUMENT["checks"][::-1]}
    assert yaml_digest(other, IGNORED) != yaml_digest(DOCUMENT, IGNORED)


@pytest.mark.parametrize("data", [None, 1, "text", [], [[1]], {}, {"checks": None}, {"checks": {"a": 1}}])
def test_routes_that_a_document_does_not_have_are_ignored(data: Any) -> None:
    assert yaml_digest(data, IGNORED) == yaml_digest(data)
