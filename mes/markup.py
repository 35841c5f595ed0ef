"""HTML and SVG as text: whatever stands between tags is escaped, unless it is markup already."""

from __future__ import annotations

import html
from collections.abc import Iterable

Child = object
"""Text, numbers, markup, or iterables of them; None is nothing."""

_VOID = frozenset({"meta", "br", "link"})


class Safe(str):
    """Markup: not to be escaped again."""

    __slots__ = ()


def tag(name: str, /, *children: Child, **attributes: object) -> Safe:
    """An element. Names of attributes: class_ is class, data_x is data-x; None and False leave one out, True has no value."""
    written = "".join(_attribute(key, value) for key, value in attributes.items() if value is not None and value is not False)
    end = "" if name in _VOID else f"{joined(children)}</{name}>"
    return Safe(f"<{name}{written}>{end}")


def joined(children: Iterable[Child]) -> Safe:
    """Children one after the other."""
    return Safe("".join(map(_child, children)))


def _child(child: Child) -> str:
    if isinstance(child, Safe):
        return child
    if child is None:
        return ""
    if isinstance(child, str) or not isinstance(child, Iterable):
        return html.escape(str(child))
    return joined(child)


def _attribute(key: str, value: object) -> str:
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{html.escape(str(value))}"'
