"""The extension module, installed beside this file or named by ``$POUNCE_EXTENSION`` (in a checkout)."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import os
import shlex
import sys
from types import ModuleType

NAME = "pounce._pounce"


def load() -> ModuleType:
    """The module. Raises ``ImportError`` with what to do when it is not there or does not fit this interpreter."""
    loaded = sys.modules.get(NAME)
    if loaded is not None:
        return loaded
    path = os.environ.get("POUNCE_EXTENSION")
    try:
        return _load_file(path) if path else importlib.import_module(NAME)
    except ImportError as error:
        raise ImportError(_what_to_do(path, error), name=NAME, path=path) from error


def _load_file(path: str) -> ModuleType:
    loader = importlib.machinery.ExtensionFileLoader(NAME, path)
    spec = importlib.util.spec_from_file_location(NAME, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    sys.modules[NAME] = module
    sys.modules["pounce"]._pounce = module  # type: ignore[attr-defined]
    return module


def _what_to_do(path: str | None, error: ImportError) -> str:
    # As the executable says it (cli/src/interpreter.rs), which looks before it starts a worker.
    python = shlex.quote(sys.executable)
    version = ".".join(map(str, sys.version_info[:3]))
    return (
        f"pounce's extension module {path or NAME} cannot be loaded by Python {version} ({sys.executable}): "
        f"{error}\n"
        f"  in a checkout, build for it: PYO3_PYTHON={python} cargo build --release; then run target/release/pounce\n"
        f"  or install pounce there, in a checkout: {python} -m pip install ."
    )
