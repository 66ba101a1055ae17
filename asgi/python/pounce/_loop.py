"""The event loop of a worker: asyncio's own, on a selector that serves requests while it waits."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from . import _signals


class Selector(selectors.BaseSelector):
    """asyncio's descriptors; waiting for them is done by the extension module, which serves meanwhile."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._keys: dict[int, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        if not events or events & ~(selectors.EVENT_READ | selectors.EVENT_WRITE):
            raise ValueError(f"Invalid events: {events!r}")
        fd = _fileno(fileobj)
        if fd in self._keys:
            raise KeyError(f"{fileobj!r} (FD {fd}) is already registered")
        self._worker.add(fd, events)
        key = self._keys[fd] = selectors.SelectorKey(fileobj, fd, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        key = self._keys.pop(self._lookup(fileobj), None)
        if key is None:
            raise KeyError(f"{fileobj!r} is not registered")
        try:
            self._worker.remove(key.fd)
        except OSError:
            # It was closed before, which took it out.
            pass
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        fd = self._lookup(fileobj)
        key = self._keys.get(fd)
        if key is None:
            raise KeyError(f"{fileobj!r} is not registered")
        if events != key.events:
            self._worker.modify(fd, events)
        key = self._keys[fd] = key._replace(events=events, data=data)
        return key

    def select(self, timeout: float | None = None) -> Any:
        return self._worker.select(self._keys, timeout)

    def close(self) -> None:
        self._keys.clear()
        self._worker.close()

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        key = self._keys.get(self._lookup(fileobj))
        if key is None:
            raise KeyError(f"{fileobj!r} is not registered")
        return key

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return _Map(self)

    def _lookup(self, fileobj: Any) -> int:
        try:
            return _fileno(fileobj)
        except ValueError:
            # Closed already: it is found by identity.
            for key in self._keys.values():
                if key.fileobj is fileobj:
                    return key.fd
            raise


class _Map(Mapping[Any, selectors.SelectorKey]):
    """What ``get_map()`` returns: keys by file object or descriptor."""

    def __init__(self, selector: Selector) -> None:
        self._selector = selector

    def __getitem__(self, fileobj: Any) -> selectors.SelectorKey:
        return self._selector.get_key(fileobj)

    def __iter__(self) -> Iterator[int]:
        return iter(self._selector._keys)

    def __len__(self) -> int:
        return len(self._selector._keys)


def _fileno(fileobj: Any) -> int:
    if isinstance(fileobj, int):
        fd = fileobj
    else:
        try:
            fd = int(fileobj.fileno())
        except (AttributeError, TypeError, ValueError):
            raise ValueError(f"Invalid file object: {fileobj!r}") from None
    if fd < 0:
        raise ValueError(f"Invalid file descriptor: {fd}")
    return fd


class Loop(asyncio.SelectorEventLoop):
    """asyncio's loop, except that signals always wake it, and that native code knows what it needs to know of it."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        super().__init__(Selector(worker))

    def set_debug(self, enabled: bool) -> None:
        super().set_debug(enabled)
        self._worker.set_debug(bool(enabled))

    def set_task_factory(self, factory: Callable[..., Any] | None) -> None:
        """Set what makes tasks, also those of requests."""
        super().set_task_factory(factory)
        # Eagerly is how requests start without one, too.
        eager = getattr(asyncio, "eager_task_factory", None)
        self._worker.use_task_factory(factory is not None and factory is not eager)

    def close(self) -> None:
        if not self.is_closed() and not self.is_running():
            # Its descriptor will soon be something else's.
            signal.set_wakeup_fd(-1)
        super().close()

    def wake_by_signals(self) -> None:
        # So that handlers set by signal.signal() run at once: the C handler writes here, which ends select().
        signal.set_wakeup_fd(self._csock.fileno(), warn_on_full_buffer=False)  # type: ignore[attr-defined]

    def add_signal_handler(self, sig: int, callback: Callable[..., Any], *args: Any) -> None:
        try:
            super().add_signal_handler(sig, callback, *args)
        finally:
            # When it fails, asyncio may have taken the descriptor away. In other threads both are errors, and asyncio's is
            # the one that is known.
            with contextlib.suppress(ValueError):
                self.wake_by_signals()

    def remove_signal_handler(self, sig: int) -> bool:
        """Have the signal mean to the worker what it meant before ``add_signal_handler``."""
        before = _signals.of_worker(sig)
        if before is None:
            removed = super().remove_signal_handler(sig)
            # With the last handler asyncio takes the descriptor away.
            if not self.is_closed():
                self.wake_by_signals()
            return removed
        # Not by way of asyncio's, which sets SIG_DFL: the signal may come in that moment, and it is deadly.
        if self._signal_handlers.pop(sig, None) is None:  # type: ignore[attr-defined]
            return False
        signal.signal(sig, before)
        return True

    def _handle_signal(self, sig: int) -> None:
        # Python had the signal: the application may have set a handler, which took the place of the worker's own. Asking
        # twice is the same as once.
        if sig == signal.SIGTERM:
            self._worker.retire_me()
        super()._handle_signal(sig)  # type: ignore[misc]


def new(worker: Any) -> Loop:
    """A loop on the worker's selector, set as this thread's."""
    loop = Loop(worker)
    asyncio.set_event_loop(loop)
    loop.wake_by_signals()
    return loop


def close(loop: asyncio.AbstractEventLoop, *, patience: float = 1.5) -> None:
    """End what still runs, as ``asyncio.run`` does, but not for longer than ``patience`` seconds each."""
    # The application's is for what the application starts.
    loop.set_task_factory(None)
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=patience))
    for task in tasks:
        if task.done() and not task.cancelled() and task.exception() is not None:
            loop.call_exception_handler(
                {"message": "unhandled exception during shutdown", "exception": task.exception(), "task": task}
            )
    for ending in (loop.shutdown_asyncgens(), loop.shutdown_default_executor()):
        loop.run_until_complete(asyncio.wait({loop.create_task(ending)}, timeout=patience))
    asyncio.set_event_loop(None)
    loop.close()
