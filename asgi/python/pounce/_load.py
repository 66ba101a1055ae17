"""Finding the application: ``module:attribute``."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from types import ModuleType, TracebackType
from typing import Any

#: How many names a message about a missing attribute lists.
NAMES_LISTED = 20


class LoadError(Exception):
    """The application cannot be served. ``str()`` is the message; the cause, if any, is part of it."""


def load(target: str, *, app_dir: str | None = None) -> Any:
    """Import and return the application that ``target`` names.

    ``target`` is ``module:attribute``, ``module:nested.attribute`` or ``module:factory()``. ``app_dir`` goes first in
    ``sys.path``.
    """
    if app_dir is not None:
        directory = os.path.abspath(app_dir)
        if not os.path.isdir(directory):
            raise LoadError(f"the application directory {app_dir!r} (--app-dir) is not a directory")
        if directory in sys.path:
            sys.path.remove(directory)
        sys.path.insert(0, directory)

    module_name, attributes, call = _parse(target)
    module = _import(target, module_name)
    found = _attribute(target, module, attributes)
    if call:
        found = _call(target, found)
    _check(target, found)
    return found


def _parse(target: str) -> tuple[str, list[str], bool]:
    module, colon, path = target.partition(":")
    call = path.endswith("()")
    if call:
        path = path[:-2]
    if not colon or not module or not path:
        hint = ""
        if target.endswith(".py") or "/" in target:
            name = target.partition(":")[0].removesuffix(".py").strip("./").replace("/", ".")
            hint = f"; for the file it would be {name + ':' + (path or 'app')!r}"
        elif not colon:
            hint = f"; did you mean {target + ':app'!r}?"
        raise LoadError(f"{target!r} does not name an application: the form is 'module:attribute'{hint}")
    attributes = path.split(".")
    parts = [*module.split("."), *attributes]
    if module.endswith(".py") or "/" in module:
        name = module.removesuffix(".py").strip("./").replace("/", ".")
        raise LoadError(
            f"{target!r} names a file; the form is 'module:attribute', here {name + ':' + path!r}"
        )
    for part in parts:
        if not part.isidentifier():
            raise LoadError(
                f"{target!r} does not name an application: {part!r} is not a Python name "
                "(the form is 'module:attribute', 'module:attribute.attribute' or 'module:factory()')"
            )
    return module, attributes, call


def _import(target: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")) and _is_ours(error):
            raise LoadError(_module_not_found(name, error.name)) from None
        raise LoadError(_failed(f"{name!r} cannot be imported", error)) from error
    except SystemExit as error:
        raise LoadError(_failed(f"{name!r} left the interpreter while it was imported", error)) from error
    except BaseException as error:
        raise LoadError(_failed(f"{name!r} cannot be imported", error)) from error


def _is_ours(error: BaseException) -> bool:
    """Whether the import itself found nothing, rather than an import inside of what it found."""
    return _trimmed(error.__traceback__) is None


def _module_not_found(name: str, missing: str) -> str:
    directory = sys.path[0] or os.getcwd()
    message = f"there is no module {missing!r}"
    if missing != name:
        message += f" (for {name!r})"
    message += f" in {directory} or elsewhere on sys.path"
    parent, _, last = name.rpartition(".")
    if parent and missing == name:
        where = [os.path.join(entry or ".", *parent.split(".")) for entry in sys.path]
    else:
        last = missing.rpartition(".")[2]
        where = [directory]
    names = set()
    for path in where:
        try:
            entries = sorted(os.listdir(path))
        except OSError:
            continue
        for entry in entries:
            stem, extension = os.path.splitext(entry)
            if extension == ".py" or (
                not extension and os.path.isfile(os.path.join(path, entry, "__init__.py"))
            ):
                names.add(stem)
    close = difflib.get_close_matches(last, sorted(names - {"__init__"}), n=3)
    if close:
        message += "; did you mean " + " or ".join(repr(match) for match in close) + "?"
    else:
        message += "; the directory of the application is set with --app-dir"
    return message


def _attribute(target: str, module: ModuleType, attributes: list[str]) -> Any:
    found: Any = module
    path = module.__name__
    for name in attributes:
        try:
            found = getattr(found, name)
        except AttributeError as error:
            if found is module and _trimmed(error.__traceback__) is not None:
                # A module __getattr__ of the application that failed.
                raise LoadError(_failed(f"{path + ':' + name!r} cannot be had", error)) from error
            raise LoadError(_no_attribute(module, found, path, name)) from None
        except BaseException as error:
            raise LoadError(_failed(f"{path + ':' + name!r} cannot be had", error)) from error
        path += ("." if ":" in path else ":") + name
    return found


def _no_attribute(module: ModuleType, found: Any, path: str, name: str) -> str:
    kind = f"module {path!r}" if found is module else f"{path!r} ({type(found).__name__})"
    where = getattr(module, "__file__", None)
    message = f"{kind} has no attribute {name!r}"
    if found is module and where:
        message += f" (it is {where})"
    names = [each for each in dir(found) if not each.startswith("_")]
    if found is module:
        # What is only imported is not what was meant.
        own = [each for each in names if not isinstance(getattr(module, each, None), ModuleType)]
        names = own or names
    close = difflib.get_close_matches(name, names, n=3)
    if close:
        return message + "; did you mean " + " or ".join(repr(match) for match in close) + "?"
    if not names:
        return message + "; it has none at all"
    listed = ", ".join(names[:NAMES_LISTED]) + (", ..." if len(names) > NAMES_LISTED else "")
    return f"{message}; it has: {listed}"


def _call(target: str, factory: Any) -> Any:
    if not callable(factory):
        raise LoadError(
            f"{target.removesuffix('()')!r} is to be called to make the application, but it is {_described(factory)}, "
            "which cannot be called"
        )
    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        raise LoadError(
            f"{target.removesuffix('()')!r} is to be called without arguments to make the application, "
            f"but it takes some ({error}); is it the application itself, without '()' or --factory?"
        ) from None
    except ValueError:
        # No signature is known (built in): calling it will tell.
        pass
    try:
        made = factory()
    except BaseException as error:
        raise LoadError(_failed(f"the factory {target!r} failed", error)) from error
    if inspect.iscoroutine(made):
        made.close()
        raise LoadError(f"the factory {target!r} is async; a factory is a plain function that returns the application")
    return made


def _check(target: str, app: Any) -> None:
    """Say what is wrong with something that is not an ASGI 3 application, as far as can be told."""
    if not callable(app):
        hint = ""
        if isinstance(app, ModuleType):
            hint = f"; name an attribute of it, as in {target + '.app'!r}"
        raise LoadError(f"{target!r} is {_described(app)}, not an ASGI application: it cannot be called{hint}")
    try:
        signature = inspect.signature(app)
    except (TypeError, ValueError):
        return

    def takes(count: int) -> bool:
        try:
            signature.bind(*[None] * count)
        except TypeError:
            return False
        return True

    if takes(3):
        return
    what = f"{target!r} is {_described(app)}"
    if takes(0):
        raise LoadError(
            f"{what} that takes no arguments; an ASGI application takes (scope, receive, send). "
            f"If it makes the application, name it as {target + '()'!r} or use --factory"
        )
    if takes(2) and not _is_async(app):
        raise LoadError(
            f"{what} that takes two arguments, so it seems to be a WSGI application; pounce serves ASGI. "
            "An adapter such as asgiref's WsgiToAsgi or a2wsgi's WSGIMiddleware makes one of it"
        )
    if takes(1):
        raise LoadError(
            f"{what} that takes one argument, so it seems to be an ASGI 2 application; pounce serves ASGI 3. "
            "asgiref.compatibility.guarantee_single_callable makes one of it"
        )
    raise LoadError(f"{what} with the arguments {signature}; an ASGI application takes (scope, receive, send)")


def _is_async(app: Any) -> bool:
    return inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(getattr(app, "__call__", None))


def _described(thing: Any) -> str:
    if inspect.ismodule(thing):
        return "a module"
    if inspect.isclass(thing):
        return "a class"
    if inspect.isfunction(thing):
        return "a function"
    return f"an object of type {type(thing).__name__!r}"


def _failed(message: str, error: BaseException) -> str:
    """``message``, what was raised, and the traceback without the frames that only got there."""
    cut = _trimmed(error.__traceback__)
    lines = traceback.format_exception(type(error), error, cut)
    text = "".join(lines).rstrip()
    return f"{message}: {_one_line(error)}\n{text}"


def _one_line(error: BaseException) -> str:
    return " ".join(traceback.format_exception_only(type(error), error)[-1].split())


def _trimmed(trace: TracebackType | None) -> TracebackType | None:
    """The traceback from the first frame that is the application's."""
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        ours = name == __file__ or name.startswith("<frozen importlib") or name == importlib.__file__
        if not ours:
            return trace
        trace = trace.tb_next
    return None
