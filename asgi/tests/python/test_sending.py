"""Responses: what `send()` takes, and what becomes of an application that does not finish."""

import contextlib

from harness import TestCase, eventually, read_all, read_response, read_until

#: An application for each path: the name of a function of the module.
DISPATCH = """
    import asyncio, os, sys, time

    async def app(scope, receive, send):
        if scope["type"] == "http":
            await globals()[scope["path"].strip("/")](scope, receive, send)

    async def start(send, *headers, status=200, **more):
        await send({"type": "http.response.start", "status": status, "headers": list(headers), **more})

    async def body(send, body=b"", more=False):
        await send({"type": "http.response.body", "body": body, "more_body": more})

    async def hello(scope, receive, send):
        await start(send)
        await body(send, b"hello")
"""


class Sending(TestCase):
    def served(self, source: str, **kwargs):
        return self.serve(DISPATCH + source, **kwargs)

    def test_the_length_of_a_single_body_is_known(self):
        response = self.served("").request("/hello")
        self.assertEqual((response.header("content-length"), response.body), ("5", b"hello"))

    def test_headers_as_they_were_given(self):
        response = self.served(
            """
    async def headers(scope, receive, send):
        await start(send, (b"X-Upper", b"1"), [b"set-cookie", b"a"], (b"set-cookie", b"b"), (b"x-latin", "ü".encode("latin-1")))
        await body(send)

    async def from_generator(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": ((b"x-n", b"%d" % n) for n in range(2))})
        await body(send)
"""
        )
        got = response.request("/headers")
        self.assertEqual(
            [pair for pair in got.headers if pair[0].startswith(("x-", "set"))],
            [("x-upper", "1"), ("set-cookie", "a"), ("set-cookie", "b"), ("x-latin", "ü")],
        )
        self.assertIn(("x-n", "1"), response.request("/from_generator").headers)

    def test_bodies_of_every_kind_of_bytes(self):
        worker = self.served(
            """
    async def array(scope, receive, send):
        await start(send)
        await body(send, bytearray(b"array"))

    async def view(scope, receive, send):
        await start(send)
        await body(send, memoryview(b"a view")[2:])

    async def nothing(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})
"""
        )
        self.assertEqual(worker.request("/array").body, b"array")
        self.assertEqual(worker.request("/view").body, b"view")
        nothing = worker.request("/nothing")
        self.assertEqual((nothing.body, nothing.header("content-length")), (b"", "0"))

    def test_a_head_request_gets_the_same_head_and_no_body(self):
        worker = self.served(
            """
    async def streamed(scope, receive, send):
        await start(send, (b"content-length", b"6"))
        await body(send, b"abc", True)
        await body(send, b"def")
"""
        )
        for path, length in {"/hello": "5", "/streamed": "6", "/missing": "21"}.items():
            response = worker.request(path, method="HEAD")
            self.assertEqual((response.header("content-length"), response.rest), (length, b""), path)

    def test_a_stream_arrives_as_it_is_sent(self):
        worker = self.served(
            """
    async def stream(scope, receive, send):
        await start(send)
        await body(send, b"first", True)
        await receive()
        message = await receive()
        print("then", message["type"], flush=True)
"""
        )
        with worker.connect() as client:
            client.sendall(b"GET /stream HTTP/1.1\r\nhost: test\r\n\r\n")
            read_until(client, b"first")
        worker.wait_for_log("then http.disconnect")

    def test_a_stream_that_is_there_at_once_has_a_length(self):
        response = self.served(
            """
    async def parts(scope, receive, send):
        await start(send)
        for part in (b"a", b"b", b"c"):
            await body(send, part, True)
        await body(send)
"""
        ).request("/parts")
        self.assertEqual((response.header("content-length"), response.body), ("3", b"abc"))

    def test_a_large_body_in_many_parts(self):
        response = self.served(
            """
    async def large(scope, receive, send):
        await start(send)
        for n in range(3000):
            await body(send, b"%04d" % n * (n % 50 + 1) * 30, True)
        await body(send)
"""
        ).request("/large")
        self.assertTrue(response.complete)
        self.assertEqual(response.body, b"".join(b"%04d" % n * (n % 50 + 1) * 30 for n in range(3000)))

    def test_an_application_that_raises_before_the_head(self):
        worker = self.served(
            """
    async def broken(scope, receive, send):
        raise ValueError("boom")

    async def broken_after_start(scope, receive, send):
        await start(send)
        raise ValueError("boom after start")

    async def exits(scope, receive, send):
        sys.exit(9)
"""
        )
        for path in ("/broken", "/broken_after_start", "/exits"):
            response = worker.request(path)
            self.assertEqual((response.status, response.body), (500, b"Internal Server Error"))
            self.assertEqual(response.header("content-type"), "text/plain; charset=utf-8")
        log = worker.read_log()
        self.assertEqual(log.count("Traceback"), 3)
        self.assertIn('raise ValueError("boom")', log)
        self.assertIn("GET /broken: exception in the application", log)
        self.assertEqual(worker.request("/hello").body, b"hello")

    def test_an_application_that_raises_in_the_body_is_seen_by_the_client(self):
        worker = self.served(
            """
    async def chunked(scope, receive, send):
        await start(send)
        await body(send, b"part", True)
        await asyncio.sleep(0.05)
        raise ValueError("boom")

    async def length(scope, receive, send):
        await start(send, (b"content-length", b"100"))
        await body(send, b"part", True)
        await asyncio.sleep(0.05)
        raise ValueError("boom")
"""
        )
        for path in ("/chunked", "/length"):
            response = worker.request(path)
            self.assertEqual(response.status, 200)
            self.assertFalse(response.complete, response.raw)
        self.assertEqual(worker.read_log().count('raise ValueError("boom")'), 2)

    def test_an_application_that_returns_too_early(self):
        worker = self.served(
            """
    async def silent(scope, receive, send):
        pass

    async def only_start(scope, receive, send):
        await start(send)

    async def unfinished(scope, receive, send):
        await start(send)
        await body(send, b"part", True)
        await asyncio.sleep(0.05)
"""
        )
        self.assertEqual(worker.request("/silent").status, 500)
        self.assertEqual(worker.request("/only_start").status, 500)
        response = worker.request("/unfinished")
        self.assertFalse(response.complete, response.raw)
        log = worker.read_log()
        self.assertIn("GET /silent: the application returned without sending a response\n", log)
        self.assertIn("GET /only_start: the application returned without sending a response body\n", log)
        self.assertIn("GET /unfinished: the application returned without finishing the response body\n", log)

    def test_an_application_that_is_not_async(self):
        worker = self.serve("def app(scope, receive, send):\n    return 5\n")
        self.assertEqual(worker.request().status, 500)
        self.assertIn("returned int where an awaitable was expected", worker.read_log())

    def test_wrong_messages_raise_in_send_and_never_reach_the_wire(self):
        worker = self.served(
            """
    MESSAGES = [
        None,
        {},
        {"type": 5},
        {"type": "http.response.trailers"},
        {"type": "websocket.accept"},
        {"type": "http.response.body", "body": b"too early"},
        {"type": "http.response.start"},
        {"type": "http.response.start", "status": "200"},
        {"type": "http.response.start", "status": 99},
        {"type": "http.response.start", "status": 101},
        {"type": "http.response.start", "status": 1000},
        {"type": "http.response.start", "status": 200, "headers": 5},
        {"type": "http.response.start", "status": 200, "headers": [b"name"]},
        {"type": "http.response.start", "status": 200, "headers": [("name", b"value")]},
        {"type": "http.response.start", "status": 200, "headers": [(b"name", "value")]},
        {"type": "http.response.start", "status": 200, "headers": [(b"name", b"a\\r\\nset-cookie: x")]},
        {"type": "http.response.start", "status": 200, "headers": [(b"name", b"a\\nb")]},
        {"type": "http.response.start", "status": 200, "headers": [(b"name", b"a\\0b")]},
        {"type": "http.response.start", "status": 200, "headers": [(b"na me", b"a")]},
        {"type": "http.response.start", "status": 200, "headers": [(b"na\\r\\nme", b"a")]},
        {"type": "http.response.start", "status": 200, "headers": [(b"", b"a")]},
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"many")]},
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"-1")]},
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1"), (b"content-length", b"2")]},
    ]

    async def wrong(scope, receive, send):
        lines = []
        for message in MESSAGES:
            try:
                await send(message)
            except Exception as error:
                lines.append(f"{type(error).__name__}: {error}")
            else:
                lines.append(f"taken: {message}")
        await start(send)
        try:
            await start(send)
        except RuntimeError as error:
            lines.append(f"RuntimeError: {error}")
        try:
            await body(send, "text")
        except TypeError as error:
            lines.append(f"TypeError: {error}")
        await body(send, "\\n".join(lines).encode())
        try:
            await body(send, b"more")
        except RuntimeError as error:
            print(error, flush=True)
"""
        )
        response = worker.request("/wrong")
        self.assertEqual(response.status, 200)
        self.assertEqual(
            response.body.decode().split("\n"),
            [
                "TypeError: send() takes a dict with the key 'type', not NoneType",
                "ValueError: the message for send() has no 'type'",
                "TypeError: the 'type' of a message is a str, not int",
                'RuntimeError: unexpected ASGI message "http.response.trailers": for HTTP it is '
                "'http.response.start' or 'http.response.body'",
                'RuntimeError: unexpected ASGI message "websocket.accept": for HTTP it is '
                "'http.response.start' or 'http.response.body'",
                "RuntimeError: 'http.response.body' was sent before 'http.response.start'",
                "ValueError: 'http.response.start' has no 'status'",
                "TypeError: the 'status' of 'http.response.start' is an int, not str",
                "ValueError: the 'status' of a response is between 200 and 999, not 99",
                "ValueError: the 'status' of a response is between 200 and 999, not 101",
                "ValueError: the 'status' of a response is between 200 and 999, not 1000",
                "TypeError: the 'headers' of 'http.response.start' are a list of (name, value) pairs, not int",
                "TypeError: a response header is a pair (name, value) of bytes, not b'name'",
                "TypeError: the name of a response header is bytes, not str: 'name'",
                "TypeError: the value of a response header is bytes, not str: 'value'",
                'ValueError: invalid value b"a\\r\\nset-cookie: x" of the response header name: line breaks and '
                "control characters are not allowed",
                'ValueError: invalid value b"a\\nb" of the response header name: line breaks and control characters '
                "are not allowed",
                'ValueError: invalid value b"a\\x00b" of the response header name: line breaks and control characters '
                "are not allowed",
                "ValueError: invalid response header name b\"na me\": letters, digits and !#$%&'*+-.^_`|~ are allowed",
                "ValueError: invalid response header name b\"na\\r\\nme\": letters, digits and !#$%&'*+-.^_`|~ are "
                "allowed",
                "ValueError: invalid response header name b\"\": letters, digits and !#$%&'*+-.^_`|~ are allowed",
                'ValueError: invalid content-length b"many": digits only',
                'ValueError: invalid content-length b"-1": digits only',
                "ValueError: two different content-lengths: 1 and 2",
                "RuntimeError: 'http.response.start' was sent twice; after it the application sends "
                "'http.response.body'",
                "TypeError: the 'body' of 'http.response.body' is bytes, not str",
            ],
        )
        self.assertIn("after the response was complete", worker.wait_for_log("complete"))

    def test_a_body_that_does_not_fit_its_length(self):
        worker = self.served(
            """
    async def longer(scope, receive, send):
        await start(send, (b"content-length", b"3"))
        await body(send, b"four")

    async def shorter(scope, receive, send):
        await start(send, (b"content-length", b"5"))
        await body(send, b"four")

    async def longer_stream(scope, receive, send):
        await start(send, (b"content-length", b"5"))
        await body(send, b"four", True)
        await asyncio.sleep(0.05)
        await body(send, b"four", True)

    async def shorter_stream(scope, receive, send):
        await start(send, (b"content-length", b"9"))
        await body(send, b"four", True)
        await asyncio.sleep(0.05)
        await body(send, b"four")
"""
        )
        self.assertEqual(worker.request("/longer").status, 500)
        self.assertIn("longer than its content-length: 1 bytes too many", worker.read_log())
        self.assertEqual(worker.request("/shorter").status, 500)
        self.assertIn("shorter than its content-length: 1 bytes are missing", worker.read_log())
        for path in ("/longer_stream", "/shorter_stream"):
            response = worker.request(path)
            self.assertEqual((response.status, response.complete), (200, False), response.raw)

    def test_framing_is_the_servers(self):
        response = self.served(
            """
    async def chunked(scope, receive, send):
        await start(send, (b"transfer-encoding", b"chunked"))
        await body(send, b"plain")
"""
        ).request("/chunked")
        self.assertEqual((response.header("transfer-encoding"), response.body), (None, b"plain"))

    def test_statuses_without_a_body(self):
        worker = self.served(
            """
    async def no_content(scope, receive, send):
        await start(send, (b"content-length", b"0"), status=204)
        await body(send)

    async def not_modified(scope, receive, send):
        await start(send, (b"content-length", b"1234"), status=304)
        await body(send)

    async def wrong(scope, receive, send):
        await start(send, (b"content-length", b"7"), status=204)
        await body(send, b"content")

    async def streamed(scope, receive, send):
        await start(send, status=304)
        for _ in range(3):
            await body(send, bytes(1 << 20), True)
        await body(send)
        print("sent it all", flush=True)
"""
        )
        response = worker.request("/no_content")
        self.assertEqual((response.status, response.header("content-length"), response.rest), (204, None, b""))
        response = worker.request("/not_modified")
        self.assertEqual((response.status, response.rest), (304, b""))
        # What was done is done: as from uvicorn and hypercorn, the client gets the status that the application meant.
        for target, status in (("/wrong", 204), ("/streamed", 304)):
            response = worker.request(target)
            self.assertEqual((response.status, response.rest), (status, b""))
        worker.wait_for_log("sent it all")
        log = worker.read_log()
        self.assertEqual(log.count("The application sent a body with a status that has none (204, 304)"), 2, log)

    def test_clients_that_do_not_read_hold_their_applications_back_in_little_memory(self):
        worker = self.served(
            """
    sent = 0

    async def flood(scope, receive, send):
        global sent
        await start(send)
        for n in range(512):
            await body(send, b"x" * 65536, True)
            sent += 65536
        await body(send)

    async def count(scope, receive, send):
        await start(send)
        await body(send, b"%d" % sent)
"""
        )
        worker.request("/count")
        before = worker.memory()
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(worker.connect()) for _ in range(8)]
            for client in clients:
                client.sendall(b"GET /flood HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
            counts = []

            def stands_still():
                counts.append(int(worker.request("/count").body))
                return len(counts) > 20 and counts[-1] == counts[-20]

            eventually(stands_still, f"the applications were never held back: {counts[-1:]}")
            # The rest is in the sockets.
            self.assertLess(counts[-1], len(clients) * (16 << 20))
            self.assertLess(worker.memory() - before, len(clients) << 20)
            for client in clients:
                response = read_all(client)
                self.assertGreater(len(response), 32 << 20)
                self.assertTrue(response.endswith(b"\r\n0\r\n\r\n"))

    def test_send_after_the_client_left_raises_oserror_and_nobody_is_cancelled(self):
        worker = self.served(
            """
    async def gone(scope, receive, send):
        await start(send)
        await body(send, b"first", True)
        while (await receive())["type"] != "http.disconnect":
            pass
        try:
            while True:
                await body(send, b"second", True)
                await asyncio.sleep(0.01)
        except OSError as error:
            print(type(error).__name__, flush=True)
        await asyncio.sleep(0.05)
        print("went on", flush=True)

    async def careless(scope, receive, send):
        await start(send)
        while True:
            await body(send, b"x" * 1000, True)
            await asyncio.sleep(0.001)
"""
        )
        for path in ("/gone", "/careless"):
            with worker.connect() as client:
                client.sendall(b"GET " + path.encode() + b" HTTP/1.1\r\nhost: test\r\n\r\n")
                read_until(client, b"\r\n\r\n")
        log = worker.wait_for_log("went on")
        self.assertIn("ClientDisconnected", log)
        # That a client left is nobody's error.
        self.assertEqual(worker.request("/hello").body, b"hello")
        self.assertNotIn("Traceback", worker.read_log())

    def test_work_goes_on_after_a_complete_response(self):
        worker = self.served(
            """
    async def background(scope, receive, send):
        await start(send)
        await body(send, b"done")
        print(await receive(), flush=True)
        await asyncio.sleep(0.05)
        print("worked", flush=True)
"""
        )
        self.assertEqual(worker.request("/background").body, b"done")
        self.assertIn("http.disconnect", worker.wait_for_log("worked"))

    def test_keep_alive_and_pipelined_requests(self):
        worker = self.served("")
        with worker.connect() as client:
            for _ in range(3):
                client.sendall(b"GET /hello HTTP/1.1\r\nhost: test\r\n\r\n")
                self.assertEqual(read_response(client).body, b"hello")
            client.sendall(
                b"GET /hello HTTP/1.1\r\nhost: test\r\n\r\n" * 3
                + b"GET /hello HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n"
            )
            self.assertEqual(read_all(client).count(b"hello"), 4)

    def test_send_takes_its_argument_by_name_too(self):
        worker = self.served(
            """
    async def named(scope, receive, send):
        await send(message={"type": "http.response.start", "status": 200})
        await asyncio.create_task(receive())
        task = asyncio.create_task(send({"type": "http.response.body", "body": b"named"}))
        await task
"""
        )
        self.assertEqual(worker.request("/named").body, b"named")

    def test_a_client_that_was_given_every_announced_byte_has_not_left(self):
        worker = self.served(
            """
    given = asyncio.Event()

    async def streamed(scope, receive, send):
        await receive()
        await start(send, (b"content-length", b"5"))
        await body(send, b"hello", True)
        listener = asyncio.create_task(receive())
        await given.wait()
        print("before the end:", listener.done(), flush=True)
        await body(send, b"", True)
        await body(send)
        print("after it:", await listener, flush=True)

    async def next(scope, receive, send):
        given.set()
        await hello(scope, receive, send)
"""
        )
        with worker.connect() as client:
            # The second request is begun when the server is done with the first response.
            client.sendall(b"GET /streamed HTTP/1.1\r\nhost: test\r\n\r\nGET /next HTTP/1.1\r\nhost: test\r\n\r\n")
            log = worker.wait_for_log("after it:")
        self.assertEqual(log, "before the end: False\nafter it: {'type': 'http.disconnect'}\n")

    def test_a_connection_that_the_server_closes_after_the_announced_bytes_is_no_client_that_left(self):
        worker = self.served(
            """
    given = asyncio.Event()

    async def streamed(scope, receive, send):
        await receive()
        await start(send, (b"content-length", b"5"))
        await body(send, b"hello", True)
        listener = asyncio.create_task(receive())
        await given.wait()
        print("before the end:", listener.done(), flush=True)
        await body(send)
        print("after it:", await listener, flush=True)

    async def next(scope, receive, send):
        given.set()
        await hello(scope, receive, send)
"""
        )
        self.assertTrue(worker.request("/streamed").complete)
        worker.request("/next")
        log = worker.wait_for_log("after it:")
        self.assertEqual(log, "before the end: False\nafter it: {'type': 'http.disconnect'}\n")

    def test_a_last_part_that_has_to_wait_reaches_the_client_and_its_sender_goes_on(self):
        worker = self.served(
            """
    async def file(scope, receive, send):
        await start(send, (b"content-length", b"131072"))
        for _ in range(2):
            await body(send, bytes(65536), True)
        await body(send)
        print("background task", flush=True)
"""
        )
        self.assertTrue(worker.request("/file").complete)
        self.assertEqual(worker.wait_for_log("background task"), "background task\n")

    def test_bytes_after_the_announced_ones_are_an_error_and_not_a_client_that_left(self):
        worker = self.served(
            """
    given = asyncio.Event()

    async def longer(scope, receive, send):
        await receive()
        await start(send, (b"content-length", b"5"))
        await body(send, b"hello", True)
        listener = asyncio.create_task(receive())
        await given.wait()
        try:
            await body(send, b"!", True)
        except RuntimeError as error:
            print(error, await listener, flush=True)

    async def next(scope, receive, send):
        given.set()
        await hello(scope, receive, send)
"""
        )
        with worker.connect() as client:
            client.sendall(b"GET /longer HTTP/1.1\r\nhost: test\r\n\r\nGET /next HTTP/1.1\r\nhost: test\r\n\r\n")
            worker.wait_for_log("content-length: 1 bytes too many {'type': 'http.disconnect'}")

    def test_a_client_that_leaves_after_all_that_it_gets_is_told_to_who_goes_on(self):
        # The server is done with these responses long before the application is.
        worker = self.served(
            """
    async def announced(scope, receive, send):
        await receive()
        await start(send, (b"content-length", b"5"))
        await body(send, b"hello", True)
        print(scope["path"], await receive(), flush=True)

    async def endless(scope, receive, send):
        await start(send)
        try:
            while True:
                await body(send, b"hello", True)
                await asyncio.sleep(0.01)
        except OSError as error:
            print(scope["path"], await receive(), flush=True)
"""
        )
        for request, end in ((b"GET /announced", b"hello"), (b"HEAD /endless", b"\r\n\r\n")):
            with worker.connect() as client:
                client.sendall(request + b" HTTP/1.1\r\nhost: test\r\n\r\n")
                read_until(client, end)
            worker.wait_for_log(request.split()[1].decode() + " {'type': 'http.disconnect'}")
        self.assertNotIn("Traceback", worker.read_log())

    def test_a_stream_without_a_body_ends_with_a_connection_that_the_server_closes(self):
        worker = self.served(
            """
    async def endless(scope, receive, send):
        await start(send)
        try:
            while True:
                await body(send, b"hello", True)
                await asyncio.sleep(0.01)
        except OSError:
            print("ended", flush=True)
"""
        )
        self.assertEqual(worker.request("/endless", method="HEAD").status, 200)
        self.assertEqual(worker.wait_for_log("ended"), "ended\n")

    def test_who_listens_is_told_of_every_end_of_the_response(self):
        worker = self.served(
            """
    listeners = []

    async def listen(scope, receive):
        await receive()

        async def listener():
            print(scope["method"], scope["path"], (await receive())["type"], flush=True)

        listeners.append(asyncio.create_task(listener()))
        await asyncio.sleep(0)

    async def raises(scope, receive, send):
        await listen(scope, receive)
        raise ValueError("boom")

    async def silent(scope, receive, send):
        await listen(scope, receive)

    async def unfinished(scope, receive, send):
        await listen(scope, receive)
        await start(send)
        await body(send, b"part", True)
"""
        )
        for method, path in (("GET", "/raises"), ("GET", "/silent"), ("HEAD", "/unfinished"), ("GET", "/unfinished")):
            worker.request(path, method=method)
            worker.wait_for_log(f"{method} {path} http.disconnect")

    def test_a_message_that_is_refused_raises_where_it_is_awaited(self):
        worker = self.served(
            """
    async def refused(scope, receive, send):
        sent = send({"type": "nonsense"})
        task = asyncio.create_task(send({"type": "http.response.body"}))
        results = await asyncio.gather(sent, task, return_exceptions=True)
        await start(send)
        await body(send, repr([type(result).__name__ for result in results]).encode())
        late = send({"type": "http.response.body"})
        for _ in range(2):
            try:
                await late
            except RuntimeError as error:
                print(error, flush=True)

    async def dropped(scope, receive, send):
        send({"type": "nonsense"})
        await hello(scope, receive, send)
"""
        )
        self.assertEqual(worker.request("/refused").body, b"['RuntimeError', 'RuntimeError']")
        log = worker.wait_for_log("cannot reuse already awaited")
        self.assertIn("after the response was complete", log)
        # Nobody sees the error of what nobody awaits, so Python is told.
        self.assertEqual(worker.request("/dropped").body, b"hello")
        worker.wait_for_log('unexpected ASGI message "nonsense"')

    def test_a_stream_of_no_bytes_lets_the_next_request_be_answered(self):
        worker = self.served(
            """
    async def nothing(scope, receive, send):
        await start(send, (b"content-length", b"0"))
        await body(send, b"", True)
        await asyncio.sleep(0.01)
        await body(send)
"""
        )
        with worker.connect() as client:
            for path in (b"/nothing", b"/hello"):
                client.sendall(b"GET " + path + b" HTTP/1.1\r\nhost: test\r\n\r\n")
                self.assertEqual(read_response(client).status, 200)

    def test_spaces_around_a_content_length_do_not_break_a_stream(self):
        worker = self.served(
            """
    async def spaces(scope, receive, send):
        await start(send, (b"content-length", b" 5 "))
        await body(send, b"hel", True)
        await asyncio.sleep(0.01)
        await body(send, b"lo")
"""
        )
        response = worker.request("/spaces")
        self.assertEqual((response.header("content-length"), response.body), ("5", b"hello"))

    def test_more_header_fields_than_there_is_room_for_are_refused(self):
        worker = self.served(
            """
    def fields(scope):
        return [(b"x-%d" % n, b"") for n in range(int(scope["query_string"]))]

    async def listed(scope, receive, send):
        await try_to_start(scope, send, fields(scope))

    async def generated(scope, receive, send):
        await try_to_start(scope, send, (field for field in fields(scope)))

    async def one_name(scope, receive, send):
        await try_to_start(scope, send, [(b"x-one", b"")] * int(scope["query_string"]))

    async def try_to_start(scope, send, headers):
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
        except ValueError as error:
            await start(send, (b"x-error", str(error).encode()))
        await body(send)
"""
        )
        for path in ("/listed", "/generated", "/one_name"):
            with self.subTest(path):
                response = worker.request(path + "?16384")
                self.assertEqual(len([name for name, _ in response.headers if name.startswith("x-")]), 16384)
                for count in (16385, 50000):
                    error = worker.request(f"{path}?{count}").header("x-error")
                    self.assertEqual(error, "a response has at most 16384 header fields")
