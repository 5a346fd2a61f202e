"""For the API pages: docstrings name things as ``:class:`Name```, which Markdown would show as it is written."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc):`~?([^`]+)`")


class Roles(griffe.Extension):
    """Turn the roles of docstrings into code."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """See the class; of every class, function, module and attribute, once it is read."""
        if obj.docstring:
            obj.docstring.value = ROLE.sub(lambda found: f"`{found[1].rsplit('.', 1)[-1]}`", obj.docstring.value)
