"""A hook of mkdocs: roles of docstrings (``:func:`name```) are shown as plain code."""

import re


def on_page_content(html: str, **_: object) -> str:
    """The page without the names of roles."""
    return re.sub(r":(?:attr|class|data|func|meth|mod):(<code>)~?", r"\1", html)
