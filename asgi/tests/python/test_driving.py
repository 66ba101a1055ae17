"""The worker while Python is busy, and its end."""

import contextlib
import json
import os
import signal
import socket
import statistics
import threading
import time

from harness import PATIENCE, TestCase, eventually, read_all, read_response, read_until, Response
from test_sending import DISPATCH


class Driving(TestCase):
    def served(self, source: str = "", **kwargs):
        return self.serve(DISPATCH + source, **kwargs)

    def test_what_was_sent_before_python_blocked_is_delivered(self):
        worker = self.served(
            """
    async def block(scope, receive, send):
        await start(send)
        await body(send, b"first", True)
        time.sleep(0.1)
        await body(send, b"second", True)
        time.sleep(60)
"""
        )
        with worker.connect() as client:
            client.sendall(b"GET /block HTTP/1.1\r\nhost: test\r\n\r\n")
            read_until(client, b"second")

    def test_a_timer_that_runs_out_before_the_loop_waits_for_it_is_not_lost(self):
        # The selector looks at `_scheduled` between setting its timer and waiting: long enough here for the standby
        # thread to be driving when the timer goes off.
        worker = self.served(
            """
    async def nap(scope, receive, send):
        # Out of select(), which looks there after the first step too.
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()

        class SlowToWait(type(loop)):
            @property
            def _scheduled(self):
                if sys._getframe(1).f_code.co_name == "select":
                    time.sleep(0.1)
                return self.__dict__["_scheduled"]

        loop.__class__ = SlowToWait
        await asyncio.sleep(0.05)
        await hello(scope, receive, send)
""",
        )
        self.assertEqual(worker.request("/nap").body, b"hello")

    def test_threads_of_the_application_run_beside_the_loop_and_harm_nothing(self):
        worker = self.served(
            """
    import gc, sysconfig, threading

    stopped = threading.Event()

    def work(loop):
        while not stopped.is_set():
            cycle = [object() for _ in range(100)]
            cycle.append(cycle)
            del cycle
            gc.collect()
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result()

    async def threads(scope, receive, send):
        loop = asyncio.get_running_loop()
        for _ in range(3):
            threading.Thread(target=work, args=(loop,), daemon=True).start()
        # Without a GIL it has to stay so: importing the module must not switch it on.
        switched_on = getattr(sys, "_is_gil_enabled", lambda: True)() and sysconfig.get_config_var("Py_GIL_DISABLED")
        await start(send)
        await body(send, b"GIL on" if switched_on else b"as built")

    async def parts(scope, receive, send):
        data, more = b"", True
        while more:
            message = await receive()
            data, more = data + message["body"], message["more_body"]
        await start(send, (b"x-const", b"1"), (b"x-new", b"%d" % len(data)))
        for at in range(0, len(data), 10_000):
            await body(send, data[at:at + 10_000], True)
            await asyncio.sleep(0)
        await body(send)

    async def stop(scope, receive, send):
        stopped.set()
        await hello(scope, receive, send)
""",
        )
        self.assertEqual(worker.request("/threads").body, b"as built")
        data = bytes(range(250)) * 400
        for _ in range(20):
            with contextlib.ExitStack() as stack:
                clients = [stack.enter_context(worker.connect()) for _ in range(5)]
                for client in clients:
                    client.sendall(b"POST /parts HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: 100000\r\n\r\n" + data)
                for client in clients:
                    response = Response(read_all(client))
                    self.assertEqual((response.body == data, response.header("x-new")), (True, "100000"))
        self.assertEqual(worker.request("/stop").body, b"hello")
        worker.drain()
        self.assertEqual(worker.exit_code(), 0)

    def test_an_order_to_stop_during_the_import_is_obeyed(self):
        worker = self.start("print('importing', flush=True)\nimport time\ntime.sleep(60)\n")
        worker.wait_for_log("importing")
        worker.order("drain", 20)
        worker.order("last_deal")
        worker.wait_for("stopped")
        self.assertEqual(worker.exit_code(), 0)

    def test_sigterm_is_handed_to_the_supervisor(self):
        for source in (
            "print('here', flush=True)\nimport time\ntime.sleep(60)\n",
            "print('here', flush=True)\nasync def app(scope, receive, send): pass\n",
        ):
            worker = self.start(source)
            worker.wait_for_log("here")
            worker.process.send_signal(signal.SIGTERM)
            worker.wait_for("retire_me")
            self.assertIsNone(worker.process.poll())

    def test_sigint_is_ignored(self):
        worker = self.served()
        worker.process.send_signal(signal.SIGINT)
        self.assertEqual(worker.request("/hello").body, b"hello")

    def test_signals_for_the_whole_group_do_not_end_it(self):
        worker = self.served()
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            worker.process.send_signal(number)
        self.assertEqual(worker.request("/hello").body, b"hello")

    def test_a_forked_child_of_the_application_ends_by_sigterm(self):
        worker = self.served(
            """
    import multiprocessing

    async def fork(scope, receive, send):
        process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        process.start()
        process.terminate()
        process.join()
        await start(send)
        await body(send, b"%d" % process.exitcode)
"""
        )
        self.assertEqual(worker.request("/fork").body, b"-15")
        self.assertNotIn("retire_me", [kind for kind, _ in worker.messages])

    def test_running_requests_are_finished_and_the_worker_leaves(self):
        worker = self.served(
            """
    async def slow(scope, receive, send):
        print("slow", flush=True)
        await asyncio.sleep(0.5)
        await hello(scope, receive, send)
"""
        )
        with worker.connect() as client:
            client.sendall(b"GET /slow HTTP/1.1\r\nhost: test\r\n\r\n")
            worker.wait_for_log("slow")
            self.assertEqual(worker.drain(), (0, 1, True))
            response = Response(read_all(client))
        self.assertEqual((response.body, response.header("connection")), (b"hello", "close"))
        self.assertEqual(worker.exit_code(), 0)

    def test_at_the_deadline_handlers_are_cancelled(self):
        worker = self.served(
            """
    async def stuck(scope, receive, send):
        print("stuck", flush=True)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            print("cancelled", flush=True)
            raise
"""
        )
        with worker.connect() as client:
            client.sendall(b"GET /stuck HTTP/1.1\r\nhost: test\r\n\r\n")
            worker.wait_for_log("stuck")
            worker.order("drain", 60)
            worker.order("last_deal")
            worker.order("abort")
            self.assertEqual(Response(read_all(client)).status, 503)
        worker.wait_for_log("cancelled")
        worker.exit_code()
        self.assertNotIn("Traceback", worker.read_log())

    def test_a_request_timeout_cancels_the_handler(self):
        worker = self.served(
            """
    async def stuck(scope, receive, send):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            print("cancelled", flush=True)
            raise
""",
            request_timeout=0.2,
        )
        self.assertEqual(worker.request("/stuck").status, 504)
        worker.wait_for_log("cancelled")
        self.assertEqual(worker.request("/hello").body, b"hello")

    def test_threads_that_never_end_do_not_keep_the_worker(self):
        worker = self.served(
            """
    import threading

    async def threads(scope, receive, send):
        asyncio.get_running_loop().run_in_executor(None, time.sleep, 3600)
        threading.Thread(target=time.sleep, args=(3600,)).start()
        await hello(scope, receive, send)
"""
        )
        self.assertEqual(worker.request("/threads").body, b"hello")
        worker.drain()
        self.assertEqual(worker.exit_code(), 0)

    def test_output_and_atexit_functions_are_not_lost(self):
        worker = self.served(
            """
    import atexit
    atexit.register(print, "atexit ran")

    async def prints(scope, receive, send):
        print("not flushed")
        await hello(scope, receive, send)
"""
        )
        worker.request("/prints")
        worker.drain()
        worker.exit_code()
        self.assertEqual(worker.read_log(), "not flushed\natexit ran\n")

    def test_a_worker_without_its_supervisor_leaves(self):
        worker = self.served()
        worker.line.shutdown(2)
        worker.line.close()
        worker.exit_code()

    def test_an_idle_worker_does_nothing(self):
        worker = self.served()
        worker.request("/hello")

        def switches():
            total = 0
            for task in os.listdir(f"/proc/{worker.process.pid}/task"):
                with open(f"/proc/{worker.process.pid}/task/{task}/status") as file:
                    total += sum(int(line.split()[1]) for line in file if "ctxt_switches" in line)
            return total

        def quiet():
            before = switches()
            time.sleep(0.5)
            # Once per 10 ms would be 50.
            return switches() - before <= 5

        eventually(quiet, "the worker keeps waking up")


#: Handlers that keep the loop's thread, without and with the GIL: for the seconds that the query says, or for ever.
BUSY = """
    async def sleep(scope, receive, send):
        print("busy", flush=True)
        time.sleep(float(scope["query_string"] or 3600))
        await hello(scope, receive, send)

    async def compute(scope, receive, send):
        print("busy", flush=True)
        end = time.monotonic() + float(scope["query_string"] or 3600)
        while time.monotonic() < end:
            sum(range(1000))
        await hello(scope, receive, send)

    async def stuck(scope, receive, send):
        print("stuck", flush=True)
        await asyncio.sleep(3600)

    async def upload(scope, receive, send):
        print("began", flush=True)
        while (await receive())["more_body"]:
            pass
        await hello(scope, receive, send)

    async def large(scope, receive, send):
        await start(send)
        await body(send, bytes(8 << 20))
        print("produced", flush=True)
"""


class Echo:
    """A server that sends back what it gets, in this process: how long anything takes on this machine now."""

    def __init__(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self._client = socket.create_connection(listener.getsockname(), timeout=PATIENCE)
        server, _ = listener.accept()
        listener.close()
        threading.Thread(target=self._serve, args=(server,), daemon=True).start()

    @staticmethod
    def _serve(server: socket.socket) -> None:
        with server:
            while data := server.recv(1 << 16):
                server.sendall(data)

    def ask(self) -> None:
        self._client.sendall(b"?")
        self._client.recv(1)

    def close(self) -> None:
        self._client.close()


def time_of(action) -> float:
    began = time.monotonic()
    action()
    return time.monotonic() - began


class Busy(TestCase):
    """What goes on while Python does not come back to its loop."""

    def during(self, check, **kwargs):
        """Calls ``check`` with a worker and what makes it busy, for each way to be busy."""
        for path in ("sleep", "compute"):
            with self.subTest(path):
                worker = self.serve(DISPATCH + BUSY, health_check_path="/health", **kwargs)
                client = worker.connect()
                self.addCleanup(client.close)

                def be_busy(seconds: str = ""):
                    before = worker.read_log().count("busy")
                    client.sendall(f"GET /{path}?{seconds} HTTP/1.1\r\nhost: test\r\n\r\n".encode())
                    eventually(lambda: worker.read_log().count("busy") > before, "Python does not begin to be busy")
                    return client

                check(worker, be_busy)
                worker.process.kill()

    def test_the_first_health_check_after_python_became_busy_is_answered_at_once(self):
        def check(worker, be_busy):
            healths, echoes, echo = [], [], Echo()
            self.addCleanup(echo.close)
            with worker.connect() as prober:

                def ask():
                    prober.sendall(b"GET /health HTTP/1.1\r\nhost: test\r\n\r\n")
                    self.assertEqual(read_response(prober).status, 200)

                ask()
                for _ in range(11):
                    busy = be_busy("0.2")
                    healths.append(time_of(ask))
                    echoes.append(time_of(echo.ask))
                    read_response(busy)
            # Half of them may be late by what the machine does else: were the worker late, they all would be.
            in_time = 0.05 + statistics.median(echoes)
            self.assertLess(statistics.median(healths), in_time, (healths, echoes))

        self.during(check)

    def test_requests_that_came_are_served_after(self):
        def check(worker, be_busy):
            with contextlib.ExitStack() as stack:
                busy = be_busy("1")
                clients = [stack.enter_context(worker.connect()) for _ in range(20)]
                for client in clients:
                    client.sendall(b"GET /hello HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
                self.assertEqual(read_response(busy).body, b"hello")
                for client in clients:
                    self.assertEqual(Response(read_all(client)).body, b"hello")

        self.during(check)

    def test_the_drain_is_acknowledged_and_the_deadline_is_held(self):
        def check(worker, be_busy):
            busy = be_busy()
            worker.order("drain", 60)
            worker.wait_for("draining")
            self.assertEqual(worker.request("/health").status, 503)
            worker.order("last_deal")
            # The deadline: the client gets its 503, and the process ends though Python does not come back.
            worker.order("abort")
            self.assertEqual(Response(read_all(busy)).status, 503)
            self.assertFalse(worker.wait_for("stopped")[1][2])
            worker.exit_code()

        self.during(check)

    def test_request_timeouts_fire(self):
        def check(worker, be_busy):
            with worker.connect() as waiting:
                waiting.sendall(b"GET /stuck HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
                worker.wait_for_log("stuck")
                busy = be_busy()
                self.assertEqual(Response(read_all(waiting)).status, 504)
                self.assertEqual(Response(read_all(busy)).status, 504)

        self.during(check, request_timeout=1)

    def test_header_timeouts_fire(self):
        def check(worker, be_busy):
            with worker.connect() as slow:
                slow.sendall(b"GET / HTTP/1.1\r\n")
                be_busy()
                self.assertEqual(Response(read_all(slow)).status, 408)

        self.during(check, header_timeout=0.5)

    def test_body_timeouts_fire(self):
        def check(worker, be_busy):
            with worker.connect() as begun, worker.connect() as collected:
                # Too long to be collected before the application begins.
                begun.sendall(b"POST /upload HTTP/1.1\r\nhost: test\r\ncontent-length: 1000000\r\n\r\nfirst")
                worker.wait_for_log("began")
                be_busy()
                collected.sendall(b"POST /upload HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\n\r\nfirst")
                self.assertEqual(Response(read_all(begun)).status, 408)
                self.assertEqual(Response(read_all(collected)).status, 408)

        self.during(check, body_timeout=0.5)

    def test_write_timeouts_fire(self):
        def check(worker, be_busy):
            with worker.connect() as reader:
                reader.sendall(b"GET /large HTTP/1.1\r\nhost: test\r\n\r\n")
                worker.wait_for_log("produced")
                be_busy()

                # Of the client's end nothing is to be seen before it reads, and that would be progress.
                def closed():
                    return json.loads(worker.request("/health").body)["connections"] == 2

                eventually(closed, "the connection of a client that does not read is still there")
                self.assertFalse(Response(read_all(reader)).complete)

        self.during(check, write_timeout=0.5)

    def test_keep_alive_timeouts_fire(self):
        def check(worker, be_busy):
            with worker.connect() as idle:
                idle.sendall(b"GET /hello HTTP/1.1\r\nhost: test\r\n\r\n")
                self.assertEqual(read_response(idle).body, b"hello")
                be_busy()
                self.assertEqual(read_all(idle), b"")

        self.during(check, keep_alive_timeout=1)

    def test_timeouts_fire_during_a_drain(self):
        def check(worker, be_busy):
            with worker.connect() as slow, worker.connect() as idle:
                idle.sendall(b"GET /hello HTTP/1.1\r\nhost: test\r\n\r\n")
                self.assertEqual(read_response(idle).body, b"hello")
                slow.sendall(b"GET / HTTP/1.1\r\n")
                be_busy()
                worker.order("drain", 3600)
                worker.wait_for("draining")
                self.assertEqual(Response(read_all(slow)).status, 408)
                self.assertEqual(read_all(idle), b"")

        self.during(check, header_timeout=2, keep_alive_timeout=2, keepalive_linger=3600)

    def test_responses_already_produced_are_written_on(self):
        def check(worker, be_busy):
            with worker.connect() as reader:
                reader.sendall(b"GET /large HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
                worker.wait_for_log("produced")
                be_busy()
                self.assertEqual(len(Response(read_all(reader)).body), 8 << 20)

        self.during(check)
