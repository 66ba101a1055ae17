"""Imports as the file that $CODE names says: `hang`, `broken`, or anything else for well."""

import os
import time

with open(os.environ["CODE"], encoding="utf-8") as file:
    code = file.read()
if code == "hang":
    time.sleep(3600)
if code == "broken":
    raise RuntimeError("no such column: users.emial")

from plain import app  # noqa: E402, F401
