"""The extension module, installed beside this file or named by ``$POUNCE_EXTENSION`` (in a checkout)."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
from types import ModuleType

NAME = "pounce._pounce"


def load() -> ModuleType:
    """The module. Raises ``ImportError`` with what to do when it does not fit this interpreter."""
    loaded = sys.modules.get(NAME)
    if loaded is not None:
        return loaded
    path = os.environ.get("POUNCE_EXTENSION")
    if not path:
        from . import _pounce  # type: ignore[attr-defined]

        return _pounce
    loader = importlib.machinery.ExtensionFileLoader(NAME, path)
    spec = importlib.util.spec_from_file_location(NAME, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    sys.modules[NAME] = module
    sys.modules["pounce"]._pounce = module  # type: ignore[attr-defined]
    return module
