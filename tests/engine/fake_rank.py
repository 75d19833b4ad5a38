"""A rank that sums what all have given, without vLLM: ``python -m tests.engine.fake_rank SETUP RANK``.

``setup["config"]`` says how it goes wrong: ``dies``, ``refuses``, ``silent`` name the rank that does.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from bi_harness.engine.ops.rank import mapped, part


def say(**message: object) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def main() -> int:
    setup, rank = json.loads(Path(sys.argv[1]).read_text()), int(sys.argv[2])
    wrong = setup["config"]
    if wrong.get("refuses") == rank:
        say(event="failed", why="ValueError: no such model")
        return 1
    store = mapped(Path(setup["folder"]), setup["bytes"])
    say(event="ready", runs=["x"])
    for line in sys.stdin:
        asked = json.loads(line)
        if wrong.get("dies") == rank:
            return 1
        if wrong.get("silent") == rank:
            time.sleep(600)
        where = (store, asked["dtype"], setup["ranks"], asked["rows"], asked["width"])
        given = [part(*where, other, result=False) for other in range(setup["ranks"])]
        part(*where, rank, result=True).copy_(sum(given[1:], given[0]) + rank)
        say(event="done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
