"""Where the ``pounce`` executable is, and how it is run."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path
from typing import NoReturn


def find() -> str:
    """The path of the executable.

    ``$POUNCE_BIN``; the scripts directory of this interpreter; beside the interpreter; the user's scripts; ``$PATH``.
    """
    configured = os.environ.get("POUNCE_BIN")
    if configured:
        if not os.access(configured, os.X_OK):
            raise SystemExit(f"pounce: $POUNCE_BIN is {configured!r}, which is not an executable file")
        return configured
    directories = [
        sysconfig.get_path("scripts"),
        os.path.dirname(sys.executable),
        os.path.join(sys.prefix, "bin"),
        sysconfig.get_path("scripts", f"{os.name}_user"),
    ]
    # A checkout: the package is in asgi/python/pounce.
    root = Path(__file__).resolve().parents[3]
    if (root / "Cargo.toml").is_file():
        directories += [str(root / "target/release"), str(root / "target/debug")]
    for directory in directories:
        candidate = os.path.join(directory, "pounce") if directory else ""
        if candidate and _is_program(candidate):
            return candidate
    found = shutil.which("pounce")
    if found and _is_program(found):
        return found
    raise SystemExit(
        "pounce: the pounce executable was not found beside this interpreter nor on $PATH; "
        f"build it in a checkout (cargo build --release), install that ({shlex.quote(sys.executable)} -m pip install .), or name it in $POUNCE_BIN"
    )


def _is_program(path: str) -> bool:
    """Whether the file can be run and is not a Python script that would only lead back here."""
    if not os.access(path, os.X_OK) or not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return file.read(2) != b"#!"


def environment() -> dict[str, str]:
    """The environment for the executable: its workers use this interpreter, unless another is asked for."""
    return {"POUNCE_PYTHON": sys.executable, **os.environ}


def replace_process(arguments: list[str]) -> NoReturn:
    """Run the executable in place of this process."""
    sys.stdout.flush()
    sys.stderr.flush()
    path = find()
    os.execve(path, [path, *arguments], environment())


def call(arguments: list[str]) -> int:
    """Run the executable, hand it the signals that this process gets, and return its exit code."""
    path = find()
    process: subprocess.Popen[bytes] | None = None
    early = []

    def forward(number: int, _frame: object) -> None:
        if process is None:
            early.append(number)
        else:
            process.send_signal(number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            # A terminal sends these two to the whole process group; the executable has them already.
            twice = number in (signal.SIGINT, signal.SIGQUIT) and os.isatty(0)
            # Not SIG_IGN, which the executable would inherit.
            before[number] = signal.signal(number, (lambda *_: None) if twice else forward)
    try:
        process = subprocess.Popen([path, *arguments], env=environment())
        for number in early:
            process.send_signal(number)
        code = process.wait()
    finally:
        for number, handler in before.items():
            # None: it was not set from Python.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    return code if code >= 0 else 128 - code
