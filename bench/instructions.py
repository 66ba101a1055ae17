"""Counts the instructions in user space that a pounce worker needs for one request, with valgrind's callgrind.

    python3 bench/instructions.py [--connections 16] [--python PYTHON] [--application bench_app:hello] target/release/pounce

The worker's start and the first requests are not counted: 1,024 are, with each connection asking once in turn.
"""

import argparse
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

WARM_UP = 512
COUNTED = 1024
REQUEST = b"GET / HTTP/1.1\r\nhost: bench\r\n\r\n"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def connect(port, process):
    """Waits for the server: under valgrind it takes its time."""
    while True:
        if process.poll() is not None:
            sys.exit(f"pounce ended with {process.returncode}")
        try:
            connection = socket.create_connection(("127.0.0.1", port))
            connection.settimeout(120)
            return connection
        except ConnectionRefusedError:
            time.sleep(0.2)


def receive(connection):
    return connection.recv(65536) or sys.exit("a connection ended before its response was complete")


def read_answer(connection):
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += receive(connection)
    head, body = answer.split(b"\r\n\r\n", 1)
    if not head.startswith(b"HTTP/1.1 200 "):
        sys.exit(f"a wrong answer: {answer.decode()}")
    length = int(re.search(rb"(?i)content-length: *(\d+)", head)[1])
    while len(body) < length:
        body += receive(connection)


def ask(connections, requests):
    for _ in range(requests // len(connections)):
        for connection in connections:
            connection.sendall(REQUEST)
        for connection in connections:
            read_answer(connection)


def child(pid):
    return int(pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--application", default="bench_app:hello")
    parser.add_argument("--python", default="target/bench-venv/bin/python")
    parser.add_argument("pounce")
    arguments = parser.parse_args()
    apps = pathlib.Path(__file__).resolve().parent / "apps"
    # By its name, or by its path.
    python = shutil.which(arguments.python) or parser.error(f"there is no {arguments.python}")
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        out = f"{directory}/callgrind"
        process = subprocess.Popen(
            ["valgrind", "-q", "--tool=callgrind", "--trace-children=yes", f"--callgrind-out-file={out}.%p"]
            + [os.path.abspath(arguments.pounce), arguments.application, "--log-level", "warning"]
            # What takes some milliseconds takes seconds under valgrind.
            + ["--bind", f"127.0.0.1:{port}", "--header-timeout", "120", "--keep-alive-timeout", "600"]
            + ["--python", os.path.abspath(python)],
            cwd=apps,
        )
        try:
            connections = [connect(port, process) for _ in range(arguments.connections)]
            ask(connections, WARM_UP)
            worker = child(process.pid)
            subprocess.run(["callgrind_control", "--zero", str(worker)], check=True, stdout=subprocess.DEVNULL)
            ask(connections, COUNTED)
            subprocess.run(["callgrind_control", "--dump", str(worker)], check=True, stdout=subprocess.DEVNULL)
            total = 0
            while not total:
                for dump in pathlib.Path(directory).glob(f"callgrind.{worker}.*"):
                    if found := re.search(r"^(?:summary|totals): *(\d+)", dump.read_text(), re.MULTILINE):
                        total = int(found[1])
                time.sleep(0.2)
            print(f"{arguments.application} × {arguments.connections}: {total / COUNTED:,.0f} instructions per request")
        finally:
            process.send_signal(signal.SIGQUIT)
            process.wait()


if __name__ == "__main__":
    main()
