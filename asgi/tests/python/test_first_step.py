"""The first step of a handler, which runs at once and without a task until one is needed, is as any other."""

import sys

from harness import RUN_BY_NAME, TestCase, eventually
from test_sending import DISPATCH

FEATURES = """
    import contextvars, gc, inspect

    variable = contextvars.ContextVar("variable", default="unset")

    # What a handler can do before it waits for anything, and what must be true after.

    async def timeout_that_runs_out():
        task = None
        try:
            async with asyncio.timeout(0.01):
                task = asyncio.current_task()
                await asyncio.sleep(60)
        except TimeoutError:
            return task is asyncio.current_task(), task.cancelling()

    async def timeout_at_once():
        try:
            async with asyncio.timeout(-1):
                await asyncio.sleep(60)
        except TimeoutError:
            return asyncio.current_task().cancelling()

    async def timeout_not_needed():
        async with asyncio.timeout(60):
            pass
        await asyncio.sleep(0)
        return asyncio.current_task().cancelling()

    async def wait_for_something_done():
        async def done():
            return "done"
        return await asyncio.wait_for(done(), 60)

    async def group_that_fails():
        async def fail():
            raise KeyError("gone")
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(fail())
                await asyncio.sleep(60)
        except BaseExceptionGroup as group:
            return repr(group.exceptions[0]), asyncio.current_task().cancelling()

    async def empty_group():
        async with asyncio.TaskGroup():
            pass
        return "empty"

    async def group_left_by_an_error():
        cancelled = []
        async def wait():
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.append(True)
                raise
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(wait())
                await asyncio.sleep(0)
                raise KeyError("gone")
        except BaseExceptionGroup as group:
            return repr(group.exceptions[0]), cancelled

    async def cancelled_and_uncancelled():
        task = asyncio.current_task()
        task.cancel()
        task.uncancel()
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            return task.cancelling()

    async def cancelled_by_its_child():
        task = asyncio.current_task()
        async def cancel():
            task.cancel("by its child")
        child = asyncio.create_task(cancel())
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError as error:
            return child.done()

    async def one_task_throughout():
        seen, task = [], asyncio.current_task()
        for _ in range(3):
            seen += [asyncio.current_task() is task, task in asyncio.all_tasks(), len(asyncio.all_tasks()) == 1]
            await asyncio.sleep(0.001)
        return all(seen), task.get_name(), task.done()

    async def one_task_found_by_all_tasks():
        [task] = asyncio.all_tasks()
        seen = [asyncio.current_task() is task]
        await asyncio.sleep(0)
        return seen + [asyncio.current_task() is task, asyncio.all_tasks() == {task}]

    ended = []

    async def done_callback(scope, receive, send):
        task = asyncio.current_task()
        task.add_done_callback(lambda it: ended.append((it is task, it.done(), it.cancelled(), asyncio.current_task())))
        if scope["query_string"] == b"later":
            await asyncio.sleep(0.001)
        await hello(scope, receive, send)

    async def what_ended():
        while not ended:
            await asyncio.sleep(0)
        return ended.pop()

    async def context_is_one():
        token = variable.set("first")
        before = contextvars.copy_context()
        await asyncio.sleep(0)
        after = variable.get()
        variable.reset(token)
        return after, before[variable], variable.get()

    async def context_of_the_task():
        task = asyncio.current_task()
        variable.set("first")
        await asyncio.sleep(0)
        return task.get_context()[variable]

    async def how_it_is_shown():
        task = asyncio.current_task()
        return "coro=<pounce.request() running at " in repr(task) and "/app.py:" in repr(task)

    async def state_of_its_coroutine():
        task = asyncio.current_task()
        first = inspect.getcoroutinestate(task.get_coro())
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(lambda: future.set_result(inspect.getcoroutinestate(task.get_coro())))
        return first, await future

    async def context_of_what_it_starts():
        variable.set("first")
        loop, future = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()
        loop.call_soon(lambda: future.set_result(variable.get()))
        async def read():
            return variable.get()
        task = asyncio.create_task(read())
        thread = asyncio.to_thread(variable.get)
        return await future, await task, await thread

    async def context_is_new():
        return variable.get()

    async def asyncgen_left_alone():
        closed = asyncio.Event()
        async def generate():
            try:
                yield 1
            finally:
                await asyncio.sleep(0)
                closed.set()
        async for _ in generate():
            break
        gc.collect()
        await asyncio.wait_for(closed.wait(), 10)
        return closed.is_set()

    async def handled_by_the_loop():
        loop, seen = asyncio.get_running_loop(), []
        loop.set_exception_handler(lambda loop, context: seen.append((context["message"], type(context["exception"]).__name__)))
        async def fail():
            raise KeyError("gone")
        task = asyncio.create_task(fail())
        loop.call_exception_handler({"message": "ours", "exception": KeyError()})
        await asyncio.sleep(0.001)
        del task
        gc.collect()
        loop.set_exception_handler(None)
        return seen

    async def no_loop_in_the_loop():
        coroutine = asyncio.sleep(0)
        try:
            asyncio.run(coroutine)
        except RuntimeError as error:
            return "running event loop" in str(error)
        finally:
            coroutine.close()

    async def gathered():
        async def number(n):
            await asyncio.sleep(0)
            return n
        return await asyncio.gather(*map(number, range(3)))

    async def gathered_nothing():
        return await asyncio.gather()

    async def gathered_with_an_error():
        async def fail():
            raise KeyError("gone")
        return repr(await asyncio.gather(fail(), return_exceptions=True))

    async def done_already():
        future = asyncio.get_running_loop().create_future()
        future.set_result(7)
        return await future

    async def failed_already():
        future = asyncio.get_running_loop().create_future()
        future.set_exception(KeyError("gone"))
        try:
            await future
        except KeyError:
            return asyncio.current_task() is not None

    async def shielded():
        return await asyncio.shield(asyncio.sleep(0.001, 3))

    async def locks():
        lock, order = asyncio.Lock(), []
        async def other():
            async with lock:
                order.append("other")
        async with lock:
            task = asyncio.create_task(other())
            await asyncio.sleep(0)
            order.append("first")
        await task
        return order

    async def awaits_what_is_no_future():
        class Odd:
            def __await__(self):
                yield 5
        try:
            await Odd()
        except RuntimeError as error:
            return "bad yield" in str(error), asyncio.current_task() is not None

    async def awaits_itself():
        task = asyncio.current_task()
        try:
            await task
        except RuntimeError as error:
            return "await on itself" in str(error)

    async def awaits_a_future_of_another_loop():
        other = asyncio.new_event_loop()
        future = other.create_future()
        try:
            await future
        except RuntimeError as error:
            return "attached to a different loop" in str(error)
        finally:
            other.close()
"""

EXPECTED = {
    "wait_for_something_done": "done",
    "cancelled_by_its_child": True,
    "one_task_throughout": (True, "pounce-request", False),
    "one_task_found_by_all_tasks": [True, True, True],
    "context_is_one": ("first", "first", "unset"),
    "context_of_what_it_starts": ("first", "first", "first"),
    "context_is_new": "unset",
    "asyncgen_left_alone": True,
    "handled_by_the_loop": [("ours", "KeyError"), ("Task exception was never retrieved", "KeyError")],
    "no_loop_in_the_loop": True,
    "gathered": [0, 1, 2],
    "gathered_nothing": [],
    "how_it_is_shown": True,
    "state_of_its_coroutine": ("CORO_RUNNING", "CORO_SUSPENDED"),
    "gathered_with_an_error": "[KeyError('gone')]",
    "done_already": 7,
    "failed_already": True,
    "shielded": 3,
    "locks": ["first", "other"],
    "awaits_what_is_no_future": (True, True),
    "awaits_itself": True,
    "awaits_a_future_of_another_loop": True,
}
if sys.version_info >= (3, 12):
    EXPECTED |= {"context_of_the_task": "first"}
if sys.version_info >= (3, 11):
    EXPECTED |= {
        "timeout_that_runs_out": (True, 0),
        "timeout_at_once": 0,
        "timeout_not_needed": 0,
        "group_that_fails": ("KeyError('gone')", 0),
        "empty_group": "empty",
        "group_left_by_an_error": ("KeyError('gone')", [True]),
        # From 3.13 on it is then not cancelled at all.
        "cancelled_and_uncancelled": 0 if sys.version_info < (3, 13) else None,
    }


class FirstStep(TestCase):
    def check(self, **kwargs):
        worker = self.serve(DISPATCH + RUN_BY_NAME + FEATURES, **kwargs)
        for name, expected in EXPECTED.items():
            with self.subTest(name):
                self.assertEqual(worker.request(f"/run?{name}").body.decode(), repr(expected))
        for when in ("at_once", "later"):
            with self.subTest("done_callback", when=when):
                self.assertEqual(worker.request(f"/done_callback?{when}").body, b"hello")
                self.assertEqual(worker.request("/run?what_ended").body.decode(), repr((True, True, False, None)))
        worker.drain()
        self.assertEqual(worker.exit_code(), 0)
        return worker.read_log()

    def test_everything_can_be_done_in_it(self):
        self.assertEqual(self.check(), "")

    def test_everything_can_be_done_in_it_in_debug_mode(self):
        self.assertNotIn("Traceback", self.check(env={"PYTHONASYNCIODEBUG": "1"}))

    def test_it_is_made_in_the_turn_in_which_the_request_is_read(self):
        worker = self.serve(
            DISPATCH
            + """
    selecting = False

    async def watch(scope, receive, send):
        selector = asyncio.get_running_loop()._selector
        plain = selector.select
        def select(timeout=None):
            global selecting
            selecting = True
            try:
                return plain(timeout)
            finally:
                selecting = False
        selector.select = select
        # The next turn is watched.
        await asyncio.sleep(0)
        await hello(scope, receive, send)

    async def seen(scope, receive, send):
        first = selecting
        await asyncio.sleep(0)
        await start(send)
        await body(send, b"%d %d" % (first, selecting))
"""
        )
        worker.request("/watch")
        self.assertEqual(worker.request("/seen").body, b"1 0")

    def test_a_handler_that_waits_for_nothing_has_no_task(self):
        worker = self.serve(
            DISPATCH
            + """
    import gc, pounce._extension

    async def tasks(scope, receive, send):
        made = [it for it in gc.get_objects() if type(it) is asyncio.Task and not it.done()]
        await start(send, (b"built-for", pounce._extension.load().BUILT_FOR.encode()))
        await body(send, b"%d" % len(made))
"""
        )
        response = worker.request("/tasks")
        # See `late_tasks` in worker.rs.
        late = sys.version_info >= (3, 11) and not response.header("built-for").startswith("abi3")
        self.assertEqual(response.body, b"0" if late else b"1")

    # Before that, the first step is caught in `call_soon`.
    if sys.version_info >= (3, 12):

        def test_a_task_is_started_eagerly(self):
            worker = self.serve(
                DISPATCH
                + """
    async def calls(scope, receive, send):
        loop, called = asyncio.get_running_loop(), []
        plain = loop.call_soon
        def call_soon(callback, *args, **kwargs):
            called.append(type(callback).__name__)
            return plain(callback, *args, **kwargs)
        loop.call_soon = call_soon
        future = loop.create_future()
        loop.call_later(0.01, future.set_result, None)
        await future
        del loop.call_soon
        await start(send)
        await body(send, " ".join(called).encode())
"""
            )
            # Only what goes on with it when it has what it waited for.
            self.assertNotIn(b" ", worker.request("/calls").body)

    def test_an_application_that_is_no_coroutine_function_is_called_as_a_part_of_it(self):
        worker = self.serve(
            """
    import asyncio, contextvars

    variable = contextvars.ContextVar("variable", default="unset")

    def app(scope, receive, send):
        before, task = variable.get(), scope["type"] == "http" and asyncio.current_task()
        variable.set("set")
        return handle(send, before, task) if scope["type"] == "http" else asyncio.sleep(0)

    async def handle(send, before, task):
        said = before, variable.get(), task is asyncio.current_task()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": repr(said).encode()})
"""
        )
        for _ in range(2):
            self.assertEqual(worker.request("/").body, b"('unset', 'set', True)")

    def test_whatever_it_raises_ends_only_its_own_request(self):
        worker = self.serve(
            DISPATCH
            + """
    async def raises(scope, receive, send):
        error, _, later = scope["query_string"].decode().partition("&")
        if later:
            await asyncio.sleep(0)
        raise getattr(__builtins__, error, None) or __builtins__[error]
"""
        )
        errors = ("ValueError", "SystemExit", "KeyboardInterrupt", "GeneratorExit", "StopIteration", "BaseException")
        for number, query in enumerate((error + later for error in errors for later in ("", "&later")), 1):
            with self.subTest(query):
                self.assertEqual(worker.request(f"/raises?{query}").status, 500)
                logged = lambda: worker.read_log().count("GET /raises: exception in the application\nTraceback")
                eventually(lambda: logged() == number, f"{query} is not in the log")
                self.assertEqual(worker.request("/hello").body, b"hello")
        worker.drain()
        self.assertEqual(worker.exit_code(), 0)

    def test_a_generator_is_closed_when_the_client_is_gone(self):
        worker = self.serve(
            DISPATCH
            + """
    async def stream(scope, receive, send):
        async def parts():
            try:
                while True:
                    yield bytes(65536)
            finally:
                await asyncio.sleep(0)
                print("closed", flush=True)
        await start(send)
        async for part in parts():
            await body(send, part, True)
"""
        )
        with worker.connect() as client:
            client.sendall(b"GET /stream HTTP/1.1\r\nhost: test\r\n\r\n")
            client.recv(1000)
        worker.wait_for_log("closed")
