"""Libraries that know asyncio closely find nothing unusual."""

import os

import libraries
from harness import RUN_BY_NAME, TestCase
from test_sending import DISPATCH

FEATURES = """
    import threading
    import anyio, anyio.from_thread, anyio.to_thread, httpx, sniffio

    async def which_library():
        before = sniffio.current_async_library()
        await asyncio.sleep(0)
        return before, sniffio.current_async_library()

    async def cancel_scope():
        task = asyncio.current_task()
        with anyio.move_on_after(0.01) as scope:
            await anyio.sleep(60)
        return scope.cancelled_caught, asyncio.current_task() is task

    async def cancel_before_an_await():
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anyio.sleep(60)
        return scope.cancelled_caught

    async def fail_after():
        try:
            with anyio.fail_after(0.01):
                await anyio.sleep(60)
        except TimeoutError:
            return "timeout"

    async def shielded():
        done = []
        with anyio.move_on_after(0.01):
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.05)
                done.append("shielded")
            await anyio.sleep(60)
        return done

    async def task_group():
        seen = []
        async def add(number):
            await anyio.sleep(0.001 * number)
            seen.append(number)
        async with anyio.create_task_group() as tasks:
            for number in (2, 0, 1):
                tasks.start_soon(add, number)
        return sorted(seen)

    async def task_group_with_an_error():
        async def fail():
            raise KeyError("gone")
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(fail)
                await anyio.sleep(60)
        except BaseException as error:
            return type(error.exceptions[0]).__name__

    async def threads():
        def work():
            return anyio.from_thread.run(which_library), threading.current_thread() is threading.main_thread()
        return await anyio.to_thread.run_sync(work)

    async def streams():
        async def serve(client):
            async with client:
                await client.send((await client.receive()).upper())
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, serve)
            port = listener.extra(anyio.abc.SocketAttribute.local_port)
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await stream.send(b"hello")
                answer = await stream.receive()
            tasks.cancel_scope.cancel()
        return answer

    async def processes():
        done = await anyio.run_process([sys.executable, "-c", "print(6 * 7)"])
        return done.stdout

    async def http_client():
        # A handler that asks its own worker: nothing may wait for this handler to end.
        async with httpx.AsyncClient(base_url=BASE, trust_env=False) as client:
            answers = await asyncio.gather(*(client.get("/hello") for _ in range(5)))
            posted = await client.post("/echo", content=b"x" * 200_000)
            return [answer.text for answer in answers], len(posted.content)

    async def echo(scope, receive, send):
        await start(send)
        while True:
            message = await receive()
            await body(send, message["body"], message["more_body"])
            if not message["more_body"]:
                return

    from starlette.applications import Starlette
    from starlette.background import BackgroundTask
    from starlette.responses import JSONResponse, StreamingResponse
    from starlette.routing import Route

    async def posted(request):
        return JSONResponse({"sum": sum(await request.json())})

    def threaded(request):
        return JSONResponse({"main": threading.current_thread() is threading.main_thread()})

    async def streamed(request):
        async def parts():
            for n in range(3):
                yield f"{n}\\n"
                await asyncio.sleep(0.001)
        return StreamingResponse(parts(), background=BackgroundTask(print, "background", flush=True))

    framework = Starlette(routes=[
        Route("/framework/posted", posted, methods=["POST"]),
        Route("/framework/threaded", threaded),
        Route("/framework/streamed", streamed),
    ])
    dispatch = app

    async def app(scope, receive, send):
        global BASE
        if scope["type"] != "http" or scope["path"].startswith("/framework"):
            return await framework(scope, receive, send)
        BASE = "http://%s:%d" % scope["server"]
        await dispatch(scope, receive, send)
"""

EXPECTED = {
    "which_library": ("asyncio", "asyncio"),
    "cancel_scope": (True, True),
    "cancel_before_an_await": True,
    "fail_after": "timeout",
    "shielded": ["shielded"],
    "task_group": [0, 1, 2],
    "task_group_with_an_error": "KeyError",
    "threads": (("asyncio", "asyncio"), False),
    "streams": b"HELLO",
    "processes": b"42\n",
    "http_client": (["hello"] * 5, 200_000),
}

DATABASE_CLIENT = """
    async def database_client():
        # Shaped as asyncpg: create_connection with a protocol, a future per query, several in flight.
        class Server(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport = transport
            def data_received(self, data):
                for line in data.splitlines():
                    self.transport.write(line[::-1] + b"\\n")

        class Client(asyncio.Protocol):
            def __init__(self):
                self.waiting, self.left = [], b""
            def connection_made(self, transport):
                self.transport = transport
            def data_received(self, data):
                *lines, self.left = (self.left + data).split(b"\\n")
                for line in lines:
                    self.waiting.pop(0).set_result(line)
            def query(self, text):
                future = loop.create_future()
                self.waiting.append(future)
                self.transport.write(text + b"\\n")
                return future

        loop = asyncio.get_running_loop()
        server = await loop.create_server(Server, "127.0.0.1", 0)
        transport, client = await loop.create_connection(Client, *server.sockets[0].getsockname())
        answers = await asyncio.gather(*(client.query(b"q%d" % n) for n in range(20)))
        transport.close()
        server.close()
        return answers == [(b"q%d" % n)[::-1] for n in range(20)] or answers
"""


class Shapes(TestCase):
    """What libraries do that are not here. Nothing has to be installed for it."""

    def test_a_database_client_has_many_queries_under_way(self):
        worker = self.serve(DISPATCH + RUN_BY_NAME + DATABASE_CLIENT)
        self.assertEqual(worker.request("/run?database_client").body, b"True")


class Libraries(TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = libraries.directory()

    def check(self, **env):
        path = os.pathsep.join([os.environ["PYTHONPATH"], self.directory])
        worker = self.serve(DISPATCH + RUN_BY_NAME + FEATURES, env={"PYTHONPATH": path, **env})
        for name, expected in EXPECTED.items():
            with self.subTest(name):
                self.assertEqual(worker.request(f"/run?{name}").body.decode(), repr(expected))
        with self.subTest("starlette"):
            self.assertEqual(worker.request("/framework/posted", method="POST", body=b"[1, 2, 3]").body, b'{"sum":6}')
            self.assertEqual(worker.request("/framework/threaded").body, b'{"main":false}')
            self.assertEqual(worker.request("/framework/streamed").body, b"0\n1\n2\n")
            worker.wait_for_log("background")
        worker.drain()
        self.assertEqual(worker.exit_code(), 0)
        return worker.read_log()

    def test_they_work_as_ever(self):
        self.assertEqual(self.check(), "background\n")

    def test_they_work_as_ever_in_debug_mode(self):
        self.assertNotIn("Traceback", self.check(PYTHONASYNCIODEBUG="1"))
