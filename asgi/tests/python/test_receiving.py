"""Request bodies, and clients that leave."""

import concurrent.futures
import contextlib
import platform
import socket
import time
import unittest

from harness import (
    Response,
    TestCase,
    eventually,
    read_all,
    read_response,
    read_until,
    send_until_it_stands_still,
)
from test_sending import DISPATCH

ECHO = """
    async def read(receive):
        parts = []
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message["body"])
            if not message["more_body"]:
                return b"".join(parts)

    async def echo(scope, receive, send):
        data = await read(receive)
        await start(send)
        await body(send, data)
"""


class Receiving(TestCase):
    def served(self, source: str = "", **kwargs):
        return self.serve(DISPATCH + ECHO + source, **kwargs)

    def test_bodies_of_every_size(self):
        worker = self.served()
        for size in (0, 1, 4096, 65535, 65536, 65537, 1 << 20, 5 << 20):
            data = bytes(range(256)) * (size // 256 + 1)
            response = worker.request("/echo", method="POST", body=data[:size])
            self.assertEqual(response.body, data[:size], size)

    def test_a_chunked_body(self):
        worker = self.served()
        with worker.connect() as client:
            client.sendall(
                b"POST /echo HTTP/1.1\r\nhost: test\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
                b"3\r\nabc\r\n"
            )
            client.sendall(b"4\r\ndefg\r\n0\r\n\r\n")
            self.assertEqual(Response(read_all(client)).body, b"abcdefg")

    def test_a_chunked_body_is_seen_as_it_comes(self):
        worker = self.served(
            """
    async def parts(scope, receive, send):
        await start(send)
        while True:
            message = await receive()
            await body(send, b"[" + message["body"] + b"]", message["more_body"])
            if not message["more_body"]:
                return
"""
        )
        with worker.connect() as client:
            client.sendall(b"POST /parts HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
            read_until(client, b"[abc]")
            client.sendall(b"3\r\ndef\r\n")
            read_until(client, b"[def]")
            client.sendall(b"0\r\n\r\n")
            read_until(client, b"0\r\n\r\n")

    def test_applications_that_do_not_read_hold_their_clients_back_in_little_memory(self):
        worker = self.served(
            """
    go = asyncio.Event()

    async def read_on(scope, receive, send):
        go.set()
        await hello(scope, receive, send)

    async def later(scope, receive, send):
        await go.wait()
        length, message = 0, {"more_body": True}
        while message["more_body"]:
            message = await receive()
            length += len(message["body"])
        await start(send)
        await body(send, b"%d" % length)
"""
        )
        worker.request("/echo", method="POST", body=bytes(1 << 20))
        before = worker.memory()
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(worker.connect()) for _ in range(16)]
            for client in clients:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
                client.sendall(b"POST /later HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: 33554432\r\n\r\n")
            sent = send_until_it_stands_still(clients, 30 << 20)
            # The rest is in the sockets.
            self.assertLess(max(sent), 24 << 20)
            self.assertLess(worker.memory() - before, len(clients) << 20)
            self.assertEqual(worker.request("/read_on").body, b"hello")
            for client, count in zip(clients, sent):
                client.sendall(bytes((32 << 20) - count))
                self.assertEqual(Response(read_all(client)).body, b"33554432")

    @unittest.skipUnless(platform.libc_ver()[0] == "glibc", "only glibc keeps that much")
    def test_memory_that_many_bodies_took_is_given_back_when_there_is_nothing_to_do(self):
        worker = self.served(
            """
    async def count(scope, receive, send):
        await start(send)
        await body(send, b"%d" % len(await read(receive)))
"""
        )
        upload = b"POST /count HTTP/1.1\r\nhost: test\r\ncontent-length: 1048576\r\n\r\n" + bytes(1 << 20)

        def uploads(_):
            with worker.connect() as client:
                for _ in range(20):
                    client.sendall(upload)
                    self.assertEqual(read_response(client).body, b"1048576")

        before = worker.memory()
        with concurrent.futures.ThreadPoolExecutor(64) as clients:
            list(clients.map(uploads, range(64)))
        eventually(lambda: worker.memory() - before < 8 << 20, "the memory stays with the worker")

    def test_a_body_that_comes_byte_by_byte_takes_little_memory(self):
        # Each byte is read into a buffer of 8 KB.
        worker = self.served()
        worker.request("/echo", method="POST", body=bytes(8000))
        before = worker.memory()
        with worker.connect() as client:
            client.sendall(b"POST /echo HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: 8000\r\n\r\n")
            for _ in range(7999):
                client.sendall(b"x")
                time.sleep(0)
            self.assertLess(worker.memory() - before, 4 << 20)
            client.sendall(b"y")
            self.assertEqual(Response(read_all(client)).body, b"x" * 7999 + b"y")

    def test_a_body_is_read_on_while_the_client_does_not_read_the_response(self):
        worker = self.served(
            """
    async def both(scope, receive, send):
        reading = asyncio.ensure_future(read(receive))
        await start(send)
        for _ in range(512):
            await body(send, bytes(65536), True)
        await body(send, b"%d" % len(await reading))
"""
        )
        with worker.connect() as client:
            client.sendall(b"POST /both HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: 25165824\r\n\r\n")
            client.sendall(bytes(24 << 20))
            self.assertTrue(Response(read_all(client)).body.endswith(b"\x0025165824"))

    @unittest.skipUnless(platform.libc_ver()[0] == "glibc", "other C libraries have their own ways")
    def test_the_memory_of_bodies_is_used_again(self):
        worker = self.served(
            """
    async def count(scope, receive, send):
        length, message = 0, {"more_body": True}
        while message["more_body"]:
            message = await receive()
            length += len(message["body"])
        await start(send, (b"content-length", b"7"))
        await body(send, b"%d" % length)
"""
        )
        upload = b"POST /count HTTP/1.1\r\nhost: test\r\ncontent-length: 1048576\r\n\r\n" + bytes(1 << 20)
        with worker.connect() as client:

            def uploads(count):
                before = worker.page_faults()
                for _ in range(count):
                    client.sendall(upload)
                    self.assertEqual(read_response(client).body, b"1048576")
                return (worker.page_faults() - before) / count

            uploads(10)
            # A body has 256 pages.
            self.assertLess(uploads(50), 64)

    def test_a_body_that_breaks_off_is_never_complete(self):
        worker = self.served(
            """
    async def large(scope, receive, send):
        data = await read(receive)
        print("complete" if data is not None else "disconnect", flush=True)
"""
        )
        for length in (1000, 10_000_000):
            with worker.connect() as client:
                client.sendall(b"POST /large HTTP/1.1\r\nhost: test\r\ncontent-length: %d\r\n\r\nabc" % length)
        worker.wait_for_log("disconnect")
        worker.drain()
        self.assertNotIn("complete", worker.read_log())

    def test_a_client_that_leaves_is_told_to_receive(self):
        worker = self.served(
            """
    async def wait(scope, receive, send):
        print(await receive(), flush=True)
        print(await receive(), flush=True)
        print(await receive(), flush=True)
        await asyncio.sleep(0.05)
        print("not cancelled", flush=True)
"""
        )
        with worker.connect() as client:
            client.sendall(b"GET /wait HTTP/1.1\r\nhost: test\r\n\r\n")
            worker.wait_for_log("more_body")
        log = worker.wait_for_log("not cancelled")
        self.assertEqual(
            log,
            "{'type': 'http.request', 'body': b'', 'more_body': False}\n"
            "{'type': 'http.disconnect'}\n{'type': 'http.disconnect'}\nnot cancelled\n",
        )

    def test_waiting_for_a_disconnect_again_and_again(self):
        # A receive() that was given up must not take the message of the next one.
        worker = self.served(
            """
    import itertools

    async def poll(scope, receive, send):
        await receive()
        for n in itertools.count():
            try:
                message = await asyncio.wait_for(receive(), 0.01)
            except asyncio.TimeoutError:
                if n == 3:
                    print("waiting", flush=True)
                continue
            print(message, flush=True)
            return
"""
        )
        with worker.connect() as client:
            client.sendall(b"GET /poll HTTP/1.1\r\nhost: test\r\n\r\n")
            worker.wait_for_log("waiting")
        worker.wait_for_log("{'type': 'http.disconnect'}")

    def test_two_receivers_at_once(self):
        worker = self.served(
            """
    async def two(scope, receive, send):
        await receive()
        print(await asyncio.gather(receive(), receive()), flush=True)
"""
        )
        with worker.connect() as client:
            client.sendall(b"GET /two HTTP/1.1\r\nhost: test\r\n\r\n")
            eventually(lambda: worker.request("/echo").status == 200, "no answer")
        worker.wait_for_log("[{'type': 'http.disconnect'}, {'type': 'http.disconnect'}]")

    def test_expect_100_continue_is_answered_when_the_body_is_wanted(self):
        worker = self.served(
            """
    async def refuse(scope, receive, send):
        await start(send, status=403)
        await body(send, b"no")
"""
        )
        with worker.connect() as client:
            client.sendall(
                b"POST /echo HTTP/1.1\r\nhost: test\r\nconnection: close\r\nexpect: 100-continue\r\n"
                b"content-length: 3\r\n\r\n"
            )
            self.assertEqual(read_until(client, b"\r\n\r\n"), b"HTTP/1.1 100 Continue\r\n\r\n")
            client.sendall(b"abc")
            self.assertEqual(Response(read_all(client)).body, b"abc")
        with worker.connect() as client:
            client.sendall(b"POST /refuse HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n")
            self.assertTrue(read_until(client, b"\r\n\r\n").startswith(b"HTTP/1.1 403"))

    def test_receive_after_the_response_is_a_disconnect_also_with_a_body_unread(self):
        worker = self.served(
            """
    async def early(scope, receive, send):
        await start(send)
        await body(send, b"early")
        print(await receive(), flush=True)
"""
        )
        with worker.connect() as client:
            client.sendall(b"POST /early HTTP/1.1\r\nhost: test\r\ncontent-length: 1000000\r\n\r\nabc")
            read_until(client, b"early")
            worker.wait_for_log("{'type': 'http.disconnect'}")
