"""``python -m pounce`` is the ``pounce`` command."""

from __future__ import annotations

import sys

from ._executable import replace_process

if __name__ == "__main__":
    replace_process(sys.argv[1:])
