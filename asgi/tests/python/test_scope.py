"""What an application sees of a request."""

import ast
import socket

from harness import PATIENCE, Response, TestCase, read_all, read_response

ECHO_SCOPE = """
    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            scope["state"]["answer"] = 42
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        body = repr({**scope, "state": dict(scope["state"])}).encode()
        scope["state"]["leak"] = True
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": body})
"""

#: Answers with the scope, and then changes everything in it that can be changed.
SPOIL_SCOPE = """
    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            scope["state"].update(answer=42, shared=[])
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            return await send({"type": "lifespan.shutdown.complete"})
        body = repr(scope).encode()
        for value in list(scope.values()):
            if isinstance(value, dict):
                value.clear()
                value["leak"] = True
            elif isinstance(value, list):
                value.append((b"leak", b"1"))
        for key in scope:
            scope[key] = "leak"
        scope["leak"] = True
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": body})
"""


class Scope(TestCase):
    def scope(self, worker, *args, **kwargs):
        response = worker.request(*args, **kwargs)
        self.assertEqual(response.status, 200, response.raw)
        return ast.literal_eval(response.body.decode())

    def test_every_field_of_the_specification(self):
        worker = self.serve(ECHO_SCOPE)
        scope = self.scope(worker, "/a%20b/%C3%A9?x=%201&y", headers="X-One: 1\r\nx-one: 2\r\n")
        client = scope.pop("client")
        self.assertEqual(client[0], "127.0.0.1")
        self.assertIsInstance(client[1], int)
        self.assertEqual(
            scope,
            {
                "type": "http",
                "asgi": {"version": "3.0", "spec_version": "2.4"},
                "http_version": "1.1",
                "method": "GET",
                "scheme": "http",
                "path": "/a b/é",
                "raw_path": b"/a%20b/%C3%A9",
                "query_string": b"x=%201&y",
                "root_path": "",
                "headers": [
                    (b"host", b"test"),
                    (b"connection", b"close"),
                    (b"x-one", b"1"),
                    (b"x-one", b"2"),
                ],
                "server": ("127.0.0.1", worker.address[1]),
                "state": {"answer": 42},
                "extensions": {},
            },
        )

    def test_what_a_request_does_to_its_scope_is_not_seen_by_the_next(self):
        worker = self.serve(SPOIL_SCOPE)
        with worker.connect() as client:
            scopes = []
            for _ in range(3):
                client.sendall(b"GET /a?b HTTP/1.1\r\nhost: test\r\n\r\n")
                scopes.append(ast.literal_eval(read_response(client).body.decode()))
        self.assertEqual(scopes[0]["asgi"], {"version": "3.0", "spec_version": "2.4"})
        self.assertEqual(scopes[0]["state"], {"answer": 42, "shared": []})
        self.assertEqual(scopes[1], scopes[0])
        self.assertEqual(scopes[2], scopes[0])

    def test_the_state_is_copied_and_what_is_in_it_is_not(self):
        # "A copy of the namespace", not of the connection pool that is in it.
        worker = self.serve(
            """
    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            scope["state"]["seen"] = []
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            return await send({"type": "lifespan.shutdown.complete"})
        scope["state"]["seen"].append(scope["path"])
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": repr(scope["state"]["seen"]).encode()})
"""
        )
        worker.request("/1")
        self.assertEqual(worker.request("/2").body, b"['/1', '/2']")

    def test_header_fields_keep_their_order_where_a_name_comes_again(self):
        worker = self.serve(ECHO_SCOPE)
        fields = [(b"x-a", b"1"), (b"x-b", b"2"), (b"x-a", b"3"), (b"x-empty", b""), (b"x-c", b"4")]
        fields += [(b"x-b", b"1"), (b"x-empty", b""), (b"x-a", b""), (b"x-a", b"2")]
        head = "".join(f"{name.decode()}: {value.decode()}\r\n" for name, value in fields)
        self.assertEqual(self.scope(worker, headers=head)["headers"][2:], fields)

    def test_header_fields_keep_their_order_in_a_head_that_comes_in_pieces(self):
        worker = self.serve(ECHO_SCOPE)
        # The second one is read while the first is answered, and longer than what is read at once then.
        names = [b"x-%d" % (n % 7) for n in range(50)]
        fields = [(name, b"%d" % n * 60) for n, name in enumerate(names)]
        head = b"GET / HTTP/1.1\r\nhost: test\r\n" + b"".join(b"%s: %s\r\n" % field for field in fields) + b"\r\n"
        with worker.connect() as client:
            client.sendall(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n" + head[:1000])
            read_response(client)
            client.sendall(head[1000:])
            scope = ast.literal_eval(read_response(client).body.decode())
        self.assertEqual(scope["headers"][1:], fields)

    def test_root_path_is_part_of_the_path(self):
        scope = self.scope(self.serve(ECHO_SCOPE, root_path="/api"), "/users")
        self.assertEqual((scope["root_path"], scope["path"], scope["raw_path"]), ("/api", "/api/users", b"/api/users"))

    def test_escapes_that_are_not_utf8_or_not_escapes(self):
        worker = self.serve(ECHO_SCOPE)
        self.assertEqual(self.scope(worker, "/%FF")["path"], "/\N{REPLACEMENT CHARACTER}")
        self.assertEqual(self.scope(worker, "/100%")["path"], "/100%")
        self.assertEqual(self.scope(worker, "/%zz%4")["path"], "/%zz%4")

    def test_an_absolute_target_and_an_asterisk(self):
        worker = self.serve(ECHO_SCOPE)
        scope = self.scope(worker, "http://test/there?q")
        self.assertEqual((scope["path"], scope["query_string"]), ("/there", b"q"))
        self.assertEqual(self.scope(worker, "*", method="OPTIONS")["path"], "*")

    def test_the_asterisk_is_not_under_the_root_path(self):
        scope = self.scope(self.serve(ECHO_SCOPE, root_path="/api"), "*", method="OPTIONS")
        self.assertEqual((scope["root_path"], scope["path"], scope["raw_path"]), ("/api", "*", b"*"))

    def test_the_host_of_an_absolute_target_replaces_the_one_in_the_head(self):
        # RFC 9112 §3.2.2: what came in Host "MUST" be ignored, and the proxy in front has looked at the target.
        worker = self.serve(ECHO_SCOPE)
        for target, host in {
            "http://other/there": b"other",
            "http://other:8000": b"other:8000",
            "http://[::1]:8000/": b"[::1]:8000",
            "http://name:secret@other/": b"other",
            "http://OTHER/": b"OTHER",
            "/": b"test",
        }.items():
            with self.subTest(target):
                headers = self.scope(worker, target, headers="x-a: 1\r\nx-b: 2\r\nx-a: 3\r\n")["headers"]
                fields = [(b"x-a", b"1"), (b"x-b", b"2"), (b"x-a", b"3")]
                self.assertEqual(headers, [(b"host", host), (b"connection", b"close"), *fields])
        with worker.connect() as client:
            client.sendall(b"GET http://other/ HTTP/1.0\r\nx-a: 1\r\n\r\n")
            scope = ast.literal_eval(Response(read_all(client)).body.decode())
        self.assertEqual(scope["headers"], [(b"host", b"other"), (b"x-a", b"1")])

    def test_the_method_is_upper_case(self):
        worker = self.serve(ECHO_SCOPE)
        for method in ("PROPFIND", "M-SEARCH", "DELETE", "get", "Query"):
            self.assertEqual(self.scope(worker, method=method)["method"], method.upper())

    def scope_of_addresses(self, peer, local, **settings):
        """The scope of a request on a connection between these two."""
        worker = self.serve(ECHO_SCOPE, **settings)
        client, theirs = socket.socketpair()
        with client, theirs:
            theirs.setblocking(False)
            worker.deal(theirs, peer, local)
            theirs.close()
            client.settimeout(PATIENCE)
            client.sendall(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")
            return ast.literal_eval(read_response(client).body.decode())

    def test_a_unix_socket_is_the_server_by_its_path_and_its_clients_have_no_address(self):
        scope = self.scope_of_addresses(None, None, binds=[{"tcp": {"host": "::1", "port": 0}}, {"unix": "/run/a b.sock"}])
        self.assertEqual((scope["client"], scope["server"]), (None, ("/run/a b.sock", None)))

    def test_a_server_on_several_unix_sockets_does_not_guess_which_one_it_is(self):
        for other in ({"unix": "/run/other.sock"}, {"descriptor": 3}):
            with self.subTest(other):
                scope = self.scope_of_addresses(None, None, binds=[{"unix": "/run/one.sock"}, other])
                self.assertEqual((scope["client"], scope["server"]), (None, None))

    def test_addresses_are_written_as_in_no_url_and_ipv4_as_itself(self):
        scope = self.scope_of_addresses(("2001:db8::1", 1025), ("::1", 8000))
        self.assertEqual((scope["client"], scope["server"]), (("2001:db8::1", 1025), ("::1", 8000)))
        scope = self.scope_of_addresses(("::ffff:192.0.2.1", 1025), ("::ffff:127.0.0.1", 8000))
        self.assertEqual((scope["client"], scope["server"]), (("192.0.2.1", 1025), ("127.0.0.1", 8000)))

    def test_a_request_of_http_1_0_needs_no_host(self):
        with self.serve(ECHO_SCOPE).connect() as client:
            client.sendall(b"GET /x HTTP/1.0\r\n\r\n")
            scope = ast.literal_eval(Response(read_all(client)).body.decode())
        self.assertEqual((scope["http_version"], scope["path"], scope["headers"]), ("1.0", "/x", []))

    def test_a_target_is_split_and_decoded_and_nothing_else_is_done_to_it(self):
        worker = self.serve(ECHO_SCOPE)
        for target, path, raw_path, query in (
            ("//a//b", "//a//b", b"//a//b", b""),
            ("/a/../b/./c", "/a/../b/./c", b"/a/../b/./c", b""),
            ("/a%2Fb%3Fc%23d", "/a/b?c#d", b"/a%2Fb%3Fc%23d", b""),
            ("/a+b%00", "/a+b\0", b"/a+b%00", b""),
            ("/x?", "/x", b"/x", b""),
            ("/x?a?b%20", "/x", b"/x", b"a?b%20"),
            ("/x#fragment?a", "/x", b"/x", b""),
            ("http://other?a", "/", b"/", b"a"),
            ("http://other//a", "//a", b"//a", b""),
            ("/é?ü", "/é", "/é".encode(), "ü".encode()),
        ):
            with self.subTest(target):
                scope = self.scope(worker, target)
                self.assertEqual((scope["path"], scope["raw_path"], scope["query_string"]), (path, raw_path, query))

    def test_targets_that_are_none_are_refused(self):
        worker = self.serve(ECHO_SCOPE)
        for target, method, status in (
            ("*", "GET", 400),
            ("*?a", "OPTIONS", 400),
            ("x", "GET", 400),
            ("?x", "GET", 400),
            ("test:80", "GET", 400),
            ("test:80", "CONNECT", 501),
            ("/a<b>", "GET", 400),
            ('/?"', "GET", 400),
        ):
            with self.subTest(target, method=method):
                self.assertEqual(worker.request(target, method=method).status, status)

    def test_a_target_that_is_no_utf_8_is_refused(self):
        with self.serve(ECHO_SCOPE).connect() as client:
            client.sendall(b"GET /\xff HTTP/1.1\r\nhost: test\r\n\r\n")
            self.assertEqual(Response(read_all(client)).status, 400)

    def test_what_a_client_says_of_proxies_is_a_header_and_no_more(self):
        fields = [(b"x-forwarded-for", b"192.0.2.1"), (b"x-forwarded-proto", b"https"), (b"forwarded", b"for=192.0.2.1")]
        worker = self.serve(ECHO_SCOPE)
        scope = self.scope(worker, headers="".join(f"{n.decode()}: {v.decode()}\r\n" for n, v in fields))
        self.assertEqual((scope["scheme"], scope["client"][0], scope["headers"][2:]), ("http", "127.0.0.1", fields))

    def test_header_values_are_bytes_without_the_space_around_them(self):
        with self.serve(ECHO_SCOPE).connect() as client:
            client.sendall(b"GET / HTTP/1.1\r\nHOST:[::1]:8000\r\nX-A:  \xe9 \xff\t\r\nX-Empty:\r\nConnection: close\r\n\r\n")
            scope = ast.literal_eval(Response(read_all(client)).body.decode())
        self.assertEqual(
            scope["headers"],
            [(b"host", b"[::1]:8000"), (b"x-a", b"\xe9 \xff"), (b"x-empty", b""), (b"connection", b"close")],
        )

    def test_requests_of_one_connection_do_not_mix(self):
        # Scopes are built from what the last request of the connection had.
        worker = self.serve(ECHO_SCOPE)
        with worker.connect() as client:
            seen = []
            for request in (
                b"GET /1?a HTTP/1.1\r\nhost: test\r\nx-a: 1\r\n\r\n",
                b"POST /2 HTTP/1.1\r\nhost: test\r\ncontent-length: 0\r\n\r\n",
                b"GET /1 HTTP/1.1\r\nhost: test\r\nx-a: 2\r\nx-b: 3\r\n\r\n",
                b"GET /1 HTTP/1.1\r\nhost: test\r\n\r\n",
            ):
                client.sendall(request)
                scope = ast.literal_eval(read_response(client).body.decode())
                seen.append((scope["method"], scope["path"], scope["query_string"], scope["headers"][1:]))
        self.assertEqual(
            seen,
            [
                ("GET", "/1", b"a", [(b"x-a", b"1")]),
                ("POST", "/2", b"", [(b"content-length", b"0")]),
                ("GET", "/1", b"", [(b"x-a", b"2"), (b"x-b", b"3")]),
                ("GET", "/1", b"", []),
            ],
        )
