"""The event loop is asyncio's to the application."""

import sys

from harness import RUN_BY_NAME, TestCase
from test_sending import DISPATCH

FEATURES = """
    import concurrent.futures, contextvars, signal, socket, threading, warnings

    variable = contextvars.ContextVar("variable", default="unset")

    async def current_task():
        task = asyncio.current_task()
        await asyncio.sleep(0)
        assert asyncio.current_task() is task
        await asyncio.sleep(0.001)
        return asyncio.current_task() is task and task in asyncio.all_tasks() and isinstance(task, asyncio.Task)

    async def context():
        before = variable.get()
        variable.set("set")
        await asyncio.sleep(0)
        return before, variable.get(), await asyncio.create_task(read_variable())

    async def read_variable():
        return variable.get()

    async def one_context():
        token = variable.set("first step")
        await asyncio.sleep(0)
        variable.reset(token)
        return variable.get()

    async def all_tasks():
        return asyncio.current_task() in asyncio.all_tasks() and len(asyncio.all_tasks())

    async def all_tasks_first():
        return len(asyncio.all_tasks())

    async def tasks_seen_from_a_thread():
        loop, seen = asyncio.get_running_loop(), []
        thread = threading.Thread(target=lambda: seen.append(asyncio.current_task(loop)))
        thread.start()
        thread.join()
        # Nothing while the request has no task yet.
        task = asyncio.current_task()
        return seen in ([None], [task]), task is asyncio.current_task(loop)

    async def no_task_in_callbacks():
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.call_soon(lambda: future.set_result(asyncio.current_task()))
        return await future

    async def cancelled_while_it_waits():
        # In its first step, before it waits for anything.
        asyncio.current_task().cancel("message")
        inner = asyncio.create_task(asyncio.sleep(60))
        try:
            await inner
        except asyncio.CancelledError as error:
            return inner.cancelled(), error.args

    async def cancelled_at_a_sleep():
        asyncio.current_task().cancel()
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            return "cancelled"

    async def timeout():
        try:
            await asyncio.wait_for(asyncio.sleep(60), 0.01)
        except asyncio.TimeoutError:
            return "timeout"

    async def timeout_block():
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(60)
        except TimeoutError:
            return "timeout"

    async def group():
        async with asyncio.TaskGroup() as tasks:
            made = [tasks.create_task(asyncio.sleep(0.001 * n, n)) for n in range(5)]
        return [task.result() for task in made]

    async def executor():
        return await asyncio.get_running_loop().run_in_executor(None, lambda: 42)

    async def thread():
        return await asyncio.to_thread(lambda: threading.current_thread() is threading.main_thread())

    async def subprocess():
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "print(input()[::-1])", stdin=-1, stdout=-1)
        out, _ = await process.communicate(b"abc\\n")
        return out, process.returncode

    async def loop_signal():
        loop, event = asyncio.get_running_loop(), asyncio.Event()
        loop.add_signal_handler(signal.SIGUSR1, event.set)
        os.kill(os.getpid(), signal.SIGUSR1)
        await asyncio.wait_for(event.wait(), 10)
        return loop.remove_signal_handler(signal.SIGUSR1)

    async def plain_signal():
        # A handler set by signal.signal() runs although the loop waits in native code.
        future = asyncio.get_running_loop().create_future()
        signal.signal(signal.SIGUSR2, lambda number, frame: future.set_result(number))
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR2)).start()
        return await asyncio.wait_for(future, 10) == signal.SIGUSR2

    async def sockets():
        async def serve(reader, writer):
            writer.write((await reader.readline()).upper())
            await writer.drain()
            writer.close()
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello\\n")
        data = await reader.read()
        writer.close()
        server.close()
        return data

    async def much_data():
        async def serve(reader, writer):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            writer.close()
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        async def write():
            writer.write(bytes(4 << 20))
            writer.write_eof()
        task = asyncio.create_task(write())
        data = await reader.read(-1)
        await task
        server.close()
        return len(data)

    async def reader():
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        loop, future = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()
        loop.add_reader(ours, lambda: future.done() or future.set_result(ours.recv(100)))
        threading.Timer(0.01, theirs.send, (b"data",)).start()
        data = await future
        removed = loop.remove_reader(ours)
        ours.close(), theirs.close()
        return data, removed

    async def many_descriptors():
        loop, pairs = asyncio.get_running_loop(), [socket.socketpair() for _ in range(200)]
        seen, done = set(), loop.create_future()
        def ready(number, end):
            end.recv(1)
            seen.add(number)
            if len(seen) == len(pairs):
                done.set_result(None)
        for number, (end, other) in enumerate(pairs):
            loop.add_reader(end, ready, number, end)
        for end, other in pairs:
            other.send(b"x")
        await asyncio.wait_for(done, 10)
        for end, other in pairs:
            loop.remove_reader(end)
            end.close(), other.close()
        return len(seen)

    async def threadsafe():
        loop = asyncio.get_running_loop()
        def work():
            return asyncio.run_coroutine_threadsafe(asyncio.sleep(0.01, 7), loop).result(10)
        return await asyncio.to_thread(work)

    async def idle_threadsafe():
        # The loop waits for nothing else.
        future = asyncio.get_running_loop().create_future()
        loop = asyncio.get_running_loop()
        threading.Timer(0.05, loop.call_soon_threadsafe, (future.set_result, 8)).start()
        return await future

    async def timers():
        loop, start, seen = asyncio.get_running_loop(), time.monotonic(), []
        future = loop.create_future()
        for delay in (0.03, 0.01, 0.02):
            loop.call_later(delay, seen.append, delay)
        loop.call_later(0.04, future.set_result, None)
        loop.call_later(0.005, seen.append, "cancelled").cancel()
        await future
        return seen, time.monotonic() - start >= 0.04

    async def other_loop():
        return await asyncio.to_thread(lambda: asyncio.run(asyncio.sleep(0.01, 9)))

    async def stack():
        task = asyncio.current_task()
        return [frame.f_code.co_name for frame in task.get_stack()] != [], "pounce request" in repr(task.get_coro())
"""

EXPECTED = {
    "current_task": True,
    "context": ("unset", "set", "set"),
    "one_context": "unset",
    "all_tasks": 1,
    "all_tasks_first": 1,
    "tasks_seen_from_a_thread": (True, True),
    "no_task_in_callbacks": None,
    "cancelled_while_it_waits": (True, ("message",)),
    "cancelled_at_a_sleep": "cancelled",
    "timeout": "timeout",
    "executor": 42,
    "thread": False,
    "subprocess": (b"cba\n", 0),
    "loop_signal": True,
    "plain_signal": True,
    "sockets": b"HELLO\n",
    "much_data": 4 << 20,
    "reader": (b"data", True),
    "many_descriptors": 200,
    "threadsafe": 7,
    "idle_threadsafe": 8,
    "timers": ([0.01, 0.02, 0.03], True),
    "other_loop": 9,
    "stack": (True, True),
}
if sys.version_info >= (3, 11):
    EXPECTED |= {"timeout_block": "timeout", "group": [0, 1, 2, 3, 4]}
else:
    # There asyncio does not pass on the message of a cancellation.
    EXPECTED |= {"cancelled_while_it_waits": (True, ())}


DEBUG = """
    import threading

    async def slow(scope, receive, send):
        time.sleep(0.3)
        await hello(scope, receive, send)

    async def slow_later(scope, receive, send):
        await asyncio.sleep(0)
        await slow(scope, receive, send)

    async def debug(scope, receive, send):
        how = scope["query_string"].decode()
        asyncio.get_running_loop().set_debug(how == "on")
        # What belongs to it is done in the next turn.
        await asyncio.sleep(0.001)
        print("debug", how, flush=True)
        await hello(scope, receive, send)

    async def run(scope, receive, send):
        error = None
        try:
            error = globals()[scope["query_string"].decode()]()
        except Exception as raised:
            error = raised
        await start(send)
        await body(send, str(error).encode())

    def wrong_thread():
        loop, raised = asyncio.get_running_loop(), [None]
        def call():
            try:
                loop.call_soon(int)
            except RuntimeError as error:
                raised.append(error)
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        return raised[-1]

    def no_callback():
        async def coroutine():
            pass
        asyncio.get_running_loop().call_soon(coroutine).cancel()

    def origin():
        return sys.get_coroutine_origin_tracking_depth()
"""


class Loop(TestCase):
    def check(self, **kwargs):
        worker = self.serve(DISPATCH + RUN_BY_NAME + FEATURES, **kwargs)
        for name, expected in EXPECTED.items():
            with self.subTest(name):
                self.assertEqual(worker.request(f"/run?{name}").body.decode(), repr(expected))
        worker.drain()
        self.assertEqual(worker.exit_code(), 0)
        return worker.read_log()

    def test_asyncio_works_as_ever(self):
        self.assertEqual(self.check(), "")

    def test_a_handler_that_cancels_itself_and_ends_has_answered(self):
        worker = self.serve(
            DISPATCH
            + """
    async def cancels(scope, receive, send):
        asyncio.current_task().cancel()
        await hello(scope, receive, send)

    async def raises(scope, receive, send):
        asyncio.current_task()
        raise asyncio.CancelledError

    async def raises_without_a_task(scope, receive, send):
        raise asyncio.CancelledError
"""
        )
        self.assertEqual(worker.request("/cancels").body, b"hello")
        for path in ("/raises", "/raises_without_a_task"):
            self.assertEqual(worker.request(path).status, 500)
            worker.wait_for_log(f"GET {path}: the application's handler was cancelled")
        worker.drain()
        self.assertEqual(worker.exit_code(), 0)

    def test_asyncio_works_as_ever_in_debug_mode(self):
        log = self.check(env={"PYTHONASYNCIODEBUG": "1"})
        self.assertNotIn("Traceback", log)

    def test_a_handler_that_is_slow_is_reported_in_debug_mode(self):
        worker = self.serve(DISPATCH + DEBUG, env={"PYTHONASYNCIODEBUG": "1"})
        worker.request("/slow_later")
        worker.wait_for_log(" took ")

    def test_a_first_step_that_is_slow_is_reported_in_debug_mode_with_its_request(self):
        worker = self.serve(DISPATCH + DEBUG, env={"PYTHONASYNCIODEBUG": "1"})
        worker.request("/slow")
        worker.wait_for_log("Executing <pounce request GET /slow> (first step) took ")

    def test_debug_mode_can_be_switched_at_run_time(self):
        worker = self.serve(DISPATCH + DEBUG)
        checks = ("wrong_thread", "no_callback", "origin")
        for _ in range(2):
            self.assertEqual([worker.request(f"/run?{name}").body for name in checks], [b"None", b"None", b"0"])
            worker.request("/slow")
            self.assertNotIn(" took ", worker.read_log().partition("debug off\n")[2])
            worker.request("/debug?on")
            said = [worker.request(f"/run?{name}").body for name in checks]
            self.assertIn(b"Non-thread-safe operation", said[0])
            self.assertIn(b"coroutines cannot be used with call_soon()", said[1])
            self.assertEqual(said[2], b"10")
            worker.request("/slow")
            worker.wait_for_log("Executing <pounce request GET /slow>")
            worker.request("/debug?off")
        worker.drain()
        self.assertEqual(worker.exit_code(), 0)

    def test_a_closed_loop_says_so(self):
        worker = self.serve(
            DISPATCH
            + """
    import atexit

    async def keep(scope, receive, send):
        loop = asyncio.get_running_loop()
        # Also by who took the function before.
        for call_soon in (loop.call_soon, lambda callback: loop.call_soon(callback)):
            atexit.register(use, call_soon)
        await hello(scope, receive, send)

    def use(call_soon):
        try:
            call_soon(print)
        except RuntimeError as error:
            print(error, flush=True)
"""
        )
        worker.request("/keep")
        worker.drain()
        worker.exit_code()
        self.assertEqual(worker.read_log(), "Event loop is closed\n" * 2)
