"""Libraries that tests need, installed once per interpreter under target/."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import unittest
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("requirements.txt")

#: What pip prints when there is no network; a bad pin or a broken package prints none of these.
NO_INDEX = ("NewConnectionError", "NameResolutionError", "ConnectTimeout", "ProxyError", "Max retries exceeded")


def directory() -> str:
    """Where they are, for ``PYTHONPATH``. Raises ``SkipTest`` when there is no pip or no package index can be reached."""
    root = Path(os.environ.get("CARGO_TARGET_TMPDIR") or Path(__file__).parents[3] / "target" / "tmp")
    root.mkdir(parents=True, exist_ok=True)
    name = f"asgi-libraries-{sysconfig.get_config_var('SOABI')}"
    wanted = f"{sys.version}\n{REQUIREMENTS.read_text(encoding='utf-8')}"
    with open(root / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        target, stamp = root / name, root / name / "stamp"
        if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
            return str(target)
        shutil.rmtree(target, ignore_errors=True)
        pip = [sys.executable, "-m", "pip"]
        if importlib.util.find_spec("pip") is None:
            # As Debian's; another interpreter's pip can install for it.
            pip = ["python3", "-m", "pip", "--python", sys.executable]
        command = [*pip, "install", "--quiet", "--disable-pip-version-check", "--no-input"]
        # Without a retry, pip would not say that there was no network.
        command += ["--retries", "3"]
        command += ["--no-warn-script-location", "--target", str(target), "--requirement", str(REQUIREMENTS)]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode == 0:
            stamp.write_text(wanted, encoding="utf-8")
            return str(target)
        output = done.stdout + done.stderr
        if "No module named pip" in output:
            raise _not_tested("there is no pip", output)
        if any(sign in output for sign in NO_INDEX):
            raise _not_tested("no package index can be reached", output)
        raise AssertionError(f"{' '.join(command)} failed:\n{output}")


def _not_tested(reason: str, output: str) -> unittest.SkipTest:
    print(output, file=sys.stderr)
    return unittest.SkipTest(f"anyio, sniffio, httpx and Starlette are NOT tested: {reason}")
