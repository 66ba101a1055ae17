"""What the application gave to ``loop.set_task_factory`` makes the tasks of requests, too."""

import sys

from harness import Response, TestCase, eventually, read_all
from test_sending import DISPATCH


class TaskFactories(TestCase):
    def served(self, factory: str):
        return self.serve(
            DISPATCH
            + factory
            + """
    made = []

    async def install(scope, receive, send):
        asyncio.get_running_loop().set_task_factory(factory)
        await hello(scope, receive, send)

    async def uninstall(scope, receive, send):
        asyncio.get_running_loop().set_task_factory(None)
        await hello(scope, receive, send)

    async def said(scope, receive, send):
        await start(send)
        await body(send, repr(made).encode())

    async def nap(scope, receive, send):
        task = asyncio.current_task()
        await asyncio.sleep(0.001)
        assert task is asyncio.current_task()
        await hello(scope, receive, send)
"""
        )

    def test_a_factory_sees_requests_until_it_is_taken_away(self):
        worker = self.served(
            """
    def factory(loop, coroutine, **kwargs):
        made.append(repr(coroutine))
        return asyncio.Task(coroutine, loop=loop, **kwargs)
"""
        )
        for path in ("/hello", "/install", "/nap", "/hello", "/uninstall", "/nap"):
            self.assertEqual(worker.request(path).body, b"hello")
        seen = [f"<pounce request GET {path}>" for path in ("/nap", "/hello", "/uninstall")]
        self.assertEqual(worker.request("/said").body.decode(), repr(seen))
        worker.drain()
        self.assertEqual((worker.exit_code(), worker.read_log()), (0, ""))

    def test_a_factory_may_wrap_what_it_is_given(self):
        worker = self.served(
            """
    def factory(loop, coroutine, **kwargs):
        async def wrapper():
            made.append("before")
            try:
                return await coroutine
            finally:
                made.append("after")
        return asyncio.Task(wrapper(), loop=loop, **kwargs)
"""
        )
        for path in ("/install", "/nap", "/uninstall"):
            self.assertEqual(worker.request(path).body, b"hello")
        self.assertEqual(worker.request("/said").body, b"['before', 'after', 'before', 'after']")

    def test_a_factory_that_fails_is_a_failed_request(self):
        worker = self.served(
            """
    def factory(loop, coroutine, **kwargs):
        raise KeyError("no task today")
"""
        )
        worker.request("/install")
        self.assertEqual(worker.request("/hello").status, 500)
        worker.wait_for_log("no task today")
        worker.drain()
        self.assertEqual(worker.exit_code(), 0)

    def test_a_factory_that_forgets_a_request_is_a_failed_request(self):
        worker = self.served(
            """
    import gc

    def factory(loop, coroutine, **kwargs):
        if "/hello" in repr(coroutine):
            made.append("forgotten")
            return asyncio.Task(asyncio.sleep(0), loop=loop, **kwargs)
        gc.collect()
        return asyncio.Task(coroutine, loop=loop, **kwargs)
"""
        )
        worker.request("/install")
        with worker.connect() as client:
            client.sendall(b"GET /hello HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
            eventually(lambda: b"forgotten" in worker.request("/said").body, "the factory was not asked")
            worker.request("/said")
            self.assertEqual(Response(read_all(client)).status, 500)
        worker.drain()
        self.assertEqual(worker.exit_code(), 0)

    def test_a_request_that_is_cancelled_before_it_begins_is_answered(self):
        worker = self.served(
            """
    def factory(loop, coroutine, **kwargs):
        task = asyncio.Task(coroutine, loop=loop, **kwargs)
        task.cancel()
        return task
"""
        )
        worker.request("/install")
        self.assertEqual(worker.request("/hello").status, 500)
        worker.wait_for_log("GET /hello: the application's handler was cancelled")
        worker.drain()
        self.assertEqual(worker.exit_code(), 0)

    # Before that, there are no eager tasks.
    if sys.version_info >= (3, 12):

        def test_a_task_that_begins_inside_the_first_step_sees_itself_and_the_request(self):
            for factory in ("asyncio.eager_task_factory", "asyncio.create_eager_task_factory(asyncio.Task)"):
                with self.subTest(factory):
                    worker = self.served(
                        f"""
    factory = {factory}

    async def nested(scope, receive, send):
        async def look():
            return asyncio.current_task(), asyncio.all_tasks()
        child = asyncio.create_task(look())
        current, seen = child.result()
        task = asyncio.current_task()
        # One that ended in its first step was never in the list of those that wait.
        first = current is child, seen - {{child}} == {{task}}, task in asyncio.all_tasks()
        await asyncio.sleep(0)
        await start(send)
        await body(send, repr([*first, task is asyncio.current_task()]).encode())
"""
                    )
                    for path in ("/install", "/nap"):
                        self.assertEqual(worker.request(path).body, b"hello")
                    self.assertEqual(worker.request("/nested").body, b"[True, True, True, True]")
                    worker.drain()
                    self.assertEqual((worker.exit_code(), worker.read_log()), (0, ""))
