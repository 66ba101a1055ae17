"""Signals that come to a worker mean the same to it whatever the application did with them."""

import signal

from harness import TestCase
from test_sending import DISPATCH

HANDLERS = """
    import atexit, signal

    def restore_by_the_loop(number):
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(number, print)
        assert loop.remove_signal_handler(number)
        assert not loop.remove_signal_handler(number)

    def restore_the_old_handler(number):
        old = signal.getsignal(number)
        signal.signal(number, lambda *_: None)
        signal.signal(number, old)

    async def signal_itself(scope, receive, send):
        how, number = scope["query_string"].decode().split("&")
        globals()[how](int(number))
        os.kill(os.getpid(), int(number))
        await asyncio.sleep(0.01)
        await hello(scope, receive, send)
"""


class Signals(TestCase):
    def served(self, source: str = ""):
        return self.serve(DISPATCH + HANDLERS + source)

    def test_sigterm_is_a_request_to_be_replaced_after_the_applications_handler_is_gone(self):
        for how in ("restore_by_the_loop", "restore_the_old_handler"):
            with self.subTest(how):
                worker = self.served()
                self.assertEqual(worker.request(f"/signal_itself?{how}&{signal.SIGTERM:d}").body, b"hello")
                worker.wait_for("retire_me")
                self.assertEqual(worker.request("/hello").body, b"hello")

    def test_signals_of_the_supervisor_mean_nothing_after_the_applications_handler_is_gone(self):
        worker = self.served()
        for how in ("restore_by_the_loop", "restore_the_old_handler"):
            for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT):
                with self.subTest(how, number=number):
                    self.assertEqual(worker.request(f"/signal_itself?{how}&{number:d}").body, b"hello")
                    self.assertNotIn("retire_me", [kind for kind, _ in worker.messages])

    def test_sigterm_reaches_the_applications_handler_and_the_supervisor(self):
        for how in ("asyncio.get_running_loop().add_signal_handler", "signal.signal"):
            with self.subTest(how):
                worker = self.served(
                    f"""
    async def handle(scope, receive, send):
        {how}(signal.SIGTERM, lambda *_: print("the application's", flush=True))
        await hello(scope, receive, send)
"""
                )
                worker.request("/handle")
                worker.process.send_signal(signal.SIGTERM)
                worker.wait_for_log("the application's")
                worker.wait_for("retire_me")
                self.assertEqual(worker.request("/hello").body, b"hello")

    def test_a_signal_handler_that_cannot_be_added_takes_no_wakeup_with_it(self):
        worker = self.served(
            """
    import threading

    async def handle(scope, receive, send):
        loop, seen = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()
        try:
            loop.add_signal_handler(signal.SIGKILL, print)
        except RuntimeError as error:
            said = str(error)
            signal.signal(signal.SIGUSR1, lambda number, frame: seen.set_result(said))
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        await start(send)
        await body(send, (await seen).encode())
"""
        )
        self.assertIn(b"cannot be caught", worker.request("/handle").body)

    def test_a_signal_handler_of_another_thread_is_refused_as_ever(self):
        worker = self.served(
            """
    async def handle(scope, receive, send):
        try:
            await asyncio.to_thread(asyncio.get_running_loop().add_signal_handler, signal.SIGUSR1, print)
        except RuntimeError as error:
            await start(send)
            await body(send, str(error).encode())
"""
        )
        self.assertIn(b"main thread", worker.request("/handle").body)

    def test_a_signal_after_the_end_of_the_loop_is_not_written_to_a_closed_descriptor(self):
        worker = self.served(
            """
    def at_exit():
        os.kill(os.getpid(), signal.SIGUSR1)
        print("at exit", flush=True)

    async def handle(scope, receive, send):
        signal.signal(signal.SIGUSR1, lambda number, frame: None)
        atexit.register(at_exit)
        await hello(scope, receive, send)
"""
        )
        worker.request("/handle")
        worker.drain()
        self.assertEqual(worker.exit_code(), 0)
        self.assertEqual(worker.read_log(), "at exit\n")
