"""A supervisor of one worker, small enough to be on a test's side: it deals connections and gives orders."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import unittest

VERSION = 2
#: How long anything may take before a test gives up, in seconds. Nothing is expected to take a tenth of it.
PATIENCE = 30


#: For applications made of ``DISPATCH``: ``/run?name`` calls the function of that name and answers with what it returned, or
#: with the traceback.
RUN_BY_NAME = """
    import traceback

    async def run(scope, receive, send):
        name = scope["query_string"].decode()
        try:
            result = await globals()[name]()
        except BaseException:
            result = traceback.format_exc()
        await start(send)
        await body(send, repr(result).encode())
"""


class Response:
    """An HTTP/1.1 response as it was on the wire."""

    def __init__(self, data: bytes) -> None:
        self.raw = data
        head, _, self.rest = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split(" ")[1])
        self.headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines[1:])]

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    @property
    def body(self) -> bytes:
        if self.header("transfer-encoding") == "chunked":
            return self._chunked()[0]
        length = self.header("content-length")
        return self.rest if length is None else self.rest[: int(length)]

    @property
    def complete(self) -> bool:
        """Whether the end of the body can be told and was there."""
        if self.header("transfer-encoding") == "chunked":
            return self._chunked()[1]
        length = self.header("content-length")
        return length is not None and len(self.rest) >= int(length)

    def _chunked(self) -> tuple[bytes, bool]:
        body, rest = b"", self.rest
        while b"\r\n" in rest:
            size, _, rest = rest.partition(b"\r\n")
            count = int(size, 16)
            if count == 0:
                return body, rest.startswith(b"\r\n")
            body += rest[:count]
            if len(rest) < count + 2:
                return body, False
            rest = rest[count + 2 :]
        return body, False


class Worker:
    """A worker process serving ``source``, the text of a module with an ``app``."""

    def __init__(self, source: str, *, target: str = "app:app", files=None, env=None, **settings) -> None:
        self.directory = tempfile.TemporaryDirectory()
        for name, text in {"app.py": source, **(files or {})}.items():
            path = os.path.join(self.directory.name, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as file:
                file.write(textwrap.dedent(text))
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.address = self.listener.getsockname()
        self.messages: list[tuple[str, object]] = []
        self.changed = threading.Condition()
        self.log = tempfile.NamedTemporaryFile(dir=self.directory.name, suffix=".log")

        self.line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {**os.environ, **(env or {}), "POUNCE_CONTROL_FD": str(theirs.fileno())}
        self.process = subprocess.Popen(
            [sys.executable, *settings.pop("python_flags", []), "-m", "pounce._worker"],
            env=environment,
            pass_fds=[theirs.fileno()],
            cwd=self.directory.name,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
        )
        theirs.close()
        module, _, attribute = target.partition(":")
        factory = attribute.endswith("()")
        everything = json.loads(os.environ["POUNCE_TEST_SETTINGS"])
        everything["app"] = {
            "application": {"module": module, "attribute": attribute.removesuffix("()"), "factory": factory}
        }
        everything.update(app_dir=self.directory.name, **settings)
        start = struct.pack("<BHII", 1, VERSION, 1, 1) + json.dumps(everything).encode()
        self.line.send(start)
        threading.Thread(target=self._read, daemon=True).start()
        self._dealing: threading.Thread | None = None

    # --- the control line ---

    def _read(self) -> None:
        while True:
            try:
                packet = self.line.recv(1 << 17)
            except ConnectionResetError:
                # It left with an order unread (unix(7)); what it said before is still there.
                continue
            except OSError:
                packet = b""
            if not packet:
                message = ("eof", None)
            elif packet[0] == 67:
                message = ("start_failed", packet[1:].decode())
            elif packet[0] == 71:
                message = ("stopped", struct.unpack("<QQ?", packet[1:]))
            elif packet[0] == 69:
                message = ("draining", struct.unpack("<Q", packet[1:])[0])
            else:
                message = ({65: "hello", 66: "ready", 68: "status", 70: "retire_me"}[packet[0]], packet[1:])
            with self.changed:
                self.messages.append(message)
                self.changed.notify_all()
            if not packet:
                return

    def wait_for(self, *kinds: str) -> tuple[str, object]:
        """The first message of one of these kinds."""
        deadline = time.monotonic() + PATIENCE
        with self.changed:
            while True:
                for message in self.messages:
                    if message[0] in kinds:
                        return message
                if any(message[0] == "eof" for message in self.messages) or time.monotonic() > deadline:
                    raise AssertionError(f"no {kinds} but {self.messages}; log:\n{self.read_log()}")
                self.changed.wait(0.5)

    def order(self, kind: str, seconds: float = 0) -> None:
        packet = {"lame_duck": b"\x03", "last_deal": b"\x05", "abort": b"\x06"}.get(kind)
        if kind == "drain":
            packet = b"\x04" + struct.pack("<Q", int(seconds * 1e9))
        # The order before may have been enough for it to leave.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.line.send(packet)

    def ready(self) -> Worker:
        """Waits for it to serve, and deals every connection from now on."""
        self.wait_for("ready", "start_failed")
        if self.messages[-1][0] == "start_failed":
            raise AssertionError(self.messages[-1][1])
        self._dealing = threading.Thread(target=self._deal, daemon=True)
        self._dealing.start()
        return self

    def _deal(self) -> None:
        while True:
            try:
                connection, peer = self.listener.accept()
            except OSError:
                return
            with connection:
                connection.setblocking(False)
                try:
                    self.deal(connection, peer, connection.getsockname())
                except OSError:
                    return

    def deal(self, connection: socket.socket, peer: tuple | None, local: tuple | None) -> None:
        """Hands the worker a connection. ``None`` is the address of a Unix socket."""
        socket.send_fds(self.line, [b"\x02" + _address(peer) + _address(local)], [connection.fileno()])

    def drain(self, seconds: float = PATIENCE) -> tuple[int, int, bool]:
        """Ends the worker as a supervisor does; ``(cut, requests, clean)``."""
        self.order("drain", seconds)
        self.order("last_deal")
        return self.wait_for("stopped")[1]

    def exit_code(self) -> int:
        return self.process.wait(PATIENCE)

    def read_log(self) -> str:
        with open(self.log.name, encoding="utf-8", errors="replace") as file:
            return file.read()

    def wait_for_log(self, text: str) -> str:
        deadline = time.monotonic() + PATIENCE
        while text not in (log := self.read_log()):
            if time.monotonic() > deadline:
                raise AssertionError(f"{text!r} is not in the log:\n{log}")
            time.sleep(0.01)
        return log

    def memory(self) -> int:
        """Bytes of memory that the process has resident."""
        with open(f"/proc/{self.process.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def page_faults(self) -> int:
        """How often the process touched a page of memory that it had to be given first."""
        with open(f"/proc/{self.process.pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[7])

    # --- clients ---

    def connect(self) -> socket.socket:
        client = socket.create_connection(self.address, timeout=PATIENCE)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client

    def request(self, path: str = "/", *, method: str = "GET", headers: str = "", body: bytes | None = None) -> Response:
        """One request on a connection of its own, read to the end of the connection."""
        with self.connect() as client:
            head = f"{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{headers}"
            if body is not None:
                head += f"content-length: {len(body)}\r\n"
            client.sendall(head.encode() + b"\r\n" + (body or b""))
            return Response(read_all(client))

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc) -> None:
        self.listener.close()
        # shutdown() wakes the reading thread, close() alone does not.
        with contextlib.suppress(OSError):
            self.line.shutdown(socket.SHUT_RDWR)
        self.line.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.log.close()
        self.directory.cleanup()


def read_all(client: socket.socket) -> bytes:
    """Everything until the end of the connection, a reset counting as one."""
    data = bytearray()
    while True:
        try:
            part = client.recv(1 << 20)
        except ConnectionResetError:
            return bytes(data)
        if not part:
            return bytes(data)
        data += part


def read_response(client: socket.socket) -> Response:
    """One response of a connection that stays open."""
    data = b""
    while True:
        if b"\r\n\r\n" in data and Response(data).complete:
            return Response(data)
        part = client.recv(1 << 16)
        if not part:
            return Response(data)
        data += part


def read_until(client: socket.socket, end: bytes) -> bytes:
    data = b""
    while end not in data:
        part = client.recv(1 << 16)
        if not part:
            raise AssertionError(f"the connection ended after {data!r}")
        data += part
    return data


def _address(address: tuple | None) -> bytes:
    if address is None:
        return b"\x00"
    family, kind = (socket.AF_INET6, b"\x06") if ":" in address[0] else (socket.AF_INET, b"\x04")
    return kind + socket.inet_pton(family, address[0]) + struct.pack("<H", address[1])


def send_until_it_stands_still(clients: list[socket.socket], most: int) -> list[int]:
    """Sends zeros until nobody takes any more for a while, or ``most`` bytes each; how many each took."""
    data = bytes(1 << 16)
    sent = [0] * len(clients)
    patience = 0
    while patience < 20:
        patience += 1
        for number, client in enumerate(clients):
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while sent[number] < most:
                    sent[number] += client.send(data)
                    patience = 0
            client.settimeout(PATIENCE)
        time.sleep(0.01)
    return sent


def eventually(condition, what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(what)
        time.sleep(0.01)


class TestCase(unittest.TestCase):
    maxDiff = None

    def serve(self, source: str, **kwargs) -> Worker:
        return self.start(source, **kwargs).ready()

    def start(self, source: str, **kwargs) -> Worker:
        worker = Worker(source, **kwargs)
        self.addCleanup(worker.__exit__)
        return worker


__all__ = ["PATIENCE", "RUN_BY_NAME", "Response", "TestCase", "Worker", "eventually", "read_all", "read_response", "read_until", "select", "send_until_it_stands_still", "signal"]
