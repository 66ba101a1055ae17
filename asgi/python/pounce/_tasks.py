"""`asyncio.current_task` and `asyncio.all_tasks` for requests that get their task only when it is needed."""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Callable
from typing import Any


def make_on_demand(task_of_first_step: Callable[..., asyncio.Task[Any] | None]) -> None:
    """Have asyncio ask ``task_of_first_step(loop)`` before it says that there is no current task, or which tasks there are.

    Modules that have the functions by name already (a ``.pth`` file may have imported them) get the new ones too.
    """
    plain_current_task, plain_all_tasks = asyncio.current_task, asyncio.all_tasks

    @functools.wraps(plain_current_task)
    def current_task(loop: asyncio.AbstractEventLoop | None = None) -> asyncio.Task[Any] | None:
        task = plain_current_task(loop)
        return task_of_first_step(loop) if task is None else task

    @functools.wraps(plain_all_tasks)
    def all_tasks(loop: asyncio.AbstractEventLoop | None = None) -> set[asyncio.Task[Any]]:
        # Another task may be the current one: one that the first step makes can begin inside it (eager start).
        task_of_first_step(loop, enter=False)
        return plain_all_tasks(loop)

    for plain, ours in ((plain_current_task, current_task), (plain_all_tasks, all_tasks)):
        name = ours.__name__
        for module in list(sys.modules.values()):
            if getattr(module, "__dict__", {}).get(name) is plain:
                setattr(module, name, ours)
