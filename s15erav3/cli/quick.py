"""Import large libraries in less time, without taking anything from code that uses them."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


@contextmanager
def importing() -> Iterator[None]:
    """Import many modules without collecting garbage meanwhile, and defer torchmetrics' metrics until they are used.

    Modules live as long as the process, so searching them for garbage over and over takes time and frees nothing.
    """
    if "torchmetrics" not in sys.modules and not any(isinstance(finder, Torchmetrics) for finder in sys.meta_path):
        sys.meta_path.insert(0, Torchmetrics())
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # later collections leave these modules out as well
        gc.enable()


class Torchmetrics(MetaPathFinder):
    """Find torchmetrics, with a loader that defers most of it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find the package itself; its modules are found as usual."""
        if fullname != "torchmetrics":
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = BaseClassesFirst(spec.loader)
        return spec


class BaseClassesFirst(Loader):
    """Load the classes that Lightning needs; execute the rest of the package when something else is asked of it.

    All that ``torchmetrics/__init__.py`` imports, down to transformers and SciPy, takes longer than torch itself.

    Args:
        loader: the package's own loader.
    """

    BASE = ("__about__", "utilities", "metric", "collections")
    """Modules with the classes and the version, in the order in which the package imports them."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Create the module as its own loader does."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its base classes, and a ``__getattr__`` that loads all others."""

        def whole(name: str) -> Any:
            deferred = vars(module).pop("__getattr__", None)
            try:
                self.loader.exec_module(module)
            except BaseException:
                vars(module)["__getattr__"] = deferred
                raise
            return getattr(module, name)

        vars(module)["_logger"] = logging.getLogger("torchmetrics")  # its utilities import it from here
        vars(module)["__getattr__"] = whole
        for name in self.BASE:
            part = import_module(f"torchmetrics.{name}")
            names = ("__version__", "Metric", "MetricCollection")
            vars(module).update({name: value for name, value in vars(part).items() if name in names})
