"""The lifespan of an application."""

from harness import TestCase

HELLO = """
    async def hello(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"hello"})
"""

BOTH = (
    HELLO
    + """
    async def app(scope, receive, send):
        if scope["type"] == "http":
            return await hello(scope, receive, send)
        message = await receive()
        print("got", message, flush=True)
        await send({"type": "lifespan.startup.complete"})
        message = await receive()
        print("got", message, flush=True)
        await send({"type": "lifespan.shutdown.complete"})
        print("after", flush=True)
"""
)


class Lifespan(TestCase):
    def test_startup_before_ready_and_shutdown_before_the_end(self):
        worker = self.serve(BOTH)
        self.assertIn("lifespan.startup", worker.read_log())
        self.assertEqual(worker.request().body, b"hello")
        self.assertNotIn("lifespan.shutdown", worker.read_log())
        cut, requests, clean = worker.drain()
        self.assertEqual((cut, requests, clean), (0, 1, True))
        self.assertEqual(worker.exit_code(), 0)
        self.assertIn("lifespan.shutdown", worker.read_log())
        self.assertIn("after", worker.read_log())

    def test_an_application_without_it_is_served_under_auto(self):
        worker = self.serve(
            HELLO
            + """
    async def app(scope, receive, send):
        assert scope["type"] == "http", "no lifespan here"
        await hello(scope, receive, send)
"""
        )
        self.assertEqual(worker.request().body, b"hello")
        self.assertNotIn("no lifespan here", worker.read_log())
        worker.drain()
        self.assertEqual(worker.exit_code(), 0)

    def test_an_application_without_it_is_refused_under_on(self):
        source = """
            async def app(scope, receive, send):
                raise RuntimeError("no lifespan here")
        """
        worker = self.start(source, lifespan="on")
        message = worker.wait_for("start_failed")[1]
        self.assertIn("RuntimeError: no lifespan here", message)
        self.assertIn("app.py", message)
        self.assertEqual(worker.exit_code(), 3)

    def test_an_application_that_only_returns_is_refused_under_on(self):
        worker = self.start("async def app(scope, receive, send): pass", lifespan="on")
        self.assertIn("returned before it answered lifespan.startup", worker.wait_for("start_failed")[1])
        self.assertEqual(worker.exit_code(), 3)

    def test_it_is_left_alone_under_off(self):
        worker = self.serve(BOTH, lifespan="off")
        self.assertEqual(worker.request().body, b"hello")
        worker.drain()
        self.assertEqual(worker.exit_code(), 0)
        self.assertNotIn("lifespan", worker.read_log())

    def test_a_failed_startup_is_told_with_its_message(self):
        source = """
            async def app(scope, receive, send):
                await receive()
                await send({"type": "lifespan.startup.failed", "message": "no database"})
        """
        for mode in ("auto", "on"):
            worker = self.start(source, lifespan=mode)
            self.assertIn("no database", worker.wait_for("start_failed")[1])
            self.assertEqual(worker.exit_code(), 3)

    def test_a_failed_shutdown_is_logged_and_ends(self):
        for ending in (
            'await send({"type": "lifespan.shutdown.failed", "message": "not flushed"})',
            'raise ValueError("not flushed")',
        ):
            worker = self.serve(
                f"""
                async def app(scope, receive, send):
                    if scope["type"] == "lifespan":
                        await receive()
                        await send({{"type": "lifespan.startup.complete"}})
                        await receive()
                        {ending}
                """
            )
            worker.drain()
            self.assertEqual(worker.exit_code(), 0)
            self.assertIn("not flushed", worker.read_log())

    def test_an_unexpected_message_is_an_error_in_the_application(self):
        worker = self.start(
            """
            async def app(scope, receive, send):
                try:
                    await send({"type": "lifespan.started"})
                except RuntimeError as error:
                    await send({"type": "lifespan.startup.failed", "message": f"refused: {error}"})
            """
        )
        self.assertIn("refused: unexpected ASGI message 'lifespan.started'", worker.wait_for("start_failed")[1])

    def test_shutdown_waits_for_handlers_that_work_on_after_their_response(self):
        worker = self.serve(
            """
            import asyncio

            async def app(scope, receive, send):
                if scope["type"] == "lifespan":
                    await receive()
                    await send({"type": "lifespan.startup.complete"})
                    await receive()
                    print("shutdown", flush=True)
                    await send({"type": "lifespan.shutdown.complete"})
                    return
                await send({"type": "http.response.start", "status": 200})
                await send({"type": "http.response.body", "body": b"hello"})
                await asyncio.sleep(0.5)
                print("background", flush=True)
            """
        )
        self.assertEqual(worker.request().body, b"hello")
        worker.drain()
        self.assertEqual(worker.exit_code(), 0)
        self.assertEqual(worker.read_log(), "background\nshutdown\n")

    def test_a_shutdown_that_hangs_is_ended_by_the_deadline(self):
        worker = self.serve(
            """
            import asyncio

            async def app(scope, receive, send):
                if scope["type"] == "lifespan":
                    await receive()
                    await send({"type": "lifespan.startup.complete"})
                    await receive()
                    await asyncio.sleep(3600)
            """
        )
        worker.order("drain", 0.5)
        worker.order("last_deal")
        worker.wait_for("draining")
        worker.order("abort")
        worker.exit_code()

    def test_an_application_that_exits_in_startup_is_not_served(self):
        # Also when "no lifespan" would be fine: it did not say that it has none.
        for left in ("sys.exit('no key')", "raise KeyboardInterrupt('no key')"):
            for answer in ("", "await send({'type': 'lifespan.startup.failed', 'message': 'no key'})"):
                with self.subTest(left, answer=answer):
                    worker = self.start(
                        f"""
                        import sys

                        async def app(scope, receive, send):
                            await receive()
                            {answer or "pass"}
                            {left}
                        """
                    )
                    self.assertIn("no key", worker.wait_for("start_failed")[1])
                    self.assertEqual(worker.exit_code(), 3)
                    self.assertEqual(worker.read_log(), "")

    def test_a_background_task_that_exits_during_startup_is_not_hidden_by_what_follows(self):
        worker = self.start(
            """
            import asyncio, sys

            async def exits():
                sys.exit(9)

            async def app(scope, receive, send):
                task = asyncio.create_task(exits())
                await asyncio.sleep(3600)
            """
        )
        self.assertEqual(worker.exit_code(), 9)
        self.assertNotIn("RuntimeError", worker.read_log())

    def test_an_application_that_exits_in_shutdown_ends_as_any_other(self):
        worker = self.serve(
            """
            import sys

            async def app(scope, receive, send):
                if scope["type"] == "lifespan":
                    await receive()
                    await send({"type": "lifespan.startup.complete"})
                    await receive()
                    sys.exit("not flushed")
            """
        )
        self.assertEqual(worker.drain()[0], 0)
        self.assertEqual(worker.exit_code(), 0)
        self.assertIn("SystemExit: not flushed", worker.read_log())

    def test_a_lifespan_that_breaks_off_is_logged_at_once_and_requests_go_on(self):
        for left in ("raise ValueError('broke')", "sys.exit('broke')"):
            with self.subTest(left):
                worker = self.serve(
                    HELLO
                    + f"""
    import asyncio, sys

    async def app(scope, receive, send):
        global go
        if scope["type"] == "http":
            go.set()
            return await hello(scope, receive, send)
        go = asyncio.Event()
        await receive()
        await send({{"type": "lifespan.startup.complete"}})
        await go.wait()
        {left}
"""
                )
                self.assertEqual(worker.request().body, b"hello")
                worker.wait_for_log("broke")
                self.assertEqual(worker.request().body, b"hello")
                worker.drain()
                self.assertEqual(worker.exit_code(), 0)
                self.assertEqual(worker.read_log().count("The application's lifespan ended"), 1)
