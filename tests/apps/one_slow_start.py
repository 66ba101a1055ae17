"""The first worker starts at once, every other one takes two seconds. $MARK names a file that must not exist."""

import os
import time

try:
    os.close(os.open(os.environ["MARK"], os.O_CREAT | os.O_EXCL))
except FileExistsError:
    time.sleep(2)

from plain import app  # noqa: E402, F401
