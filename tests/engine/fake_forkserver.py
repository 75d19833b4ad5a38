"""Stands where ``bi_harness.engine.forkserver`` and ``bi_harness.engine.worker`` would, with a module of the
test's in vLLM's place: the forking is the real one, the engines are none.

``IMPORTED`` names the modules; ``BI_HARNESS_HOW`` says how a forked engine behaves.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bi_harness.engine import forkserver, protocol
from bi_harness.engine.messages import Order
from bi_harness.engine.orphan import die_when, ended


def engine(config_path: str, commands: int, answers: int, **told: Any) -> int:
    """Says that it is ready, and with what; ends when it is told to."""
    how = os.environ.get("BI_HARNESS_HOW", "")
    child = None
    if how in ("child", "worker"):  # vLLM's workers watch their parent
        watch = "import os; from bi_harness.engine.orphan import die_when; "
        watch += f"die_when(lambda: os.getppid() != {os.getpid()}); "
        code = f"{watch if how == 'worker' else ''}import time; time.sleep(600)"
        child = subprocess.Popen([sys.executable, "-c", code], start_new_session=how == "worker")
    effective = {
        "env": dict(os.environ),
        "pid": os.getpid(),
        "session": os.getsid(0),
        "argv": sys.argv[1:],
        "cwd": str(Path.cwd()),
        "cores": sorted(os.sched_getaffinity(0)),
        "random": random.random(),
        "files": sorted(str(f.readlink()) for f in Path("/proc/self/fd").iterdir() if f.exists()),
        "child": child.pid if child is not None else None,
        "arm": json.loads(Path(config_path).read_text(encoding="utf-8"))["arm"],
    }
    print("an engine begins", flush=True)

    def say(message: dict[str, Any]) -> None:
        os.write(answers, protocol.encode_line(message))

    say({"event": "ready", "effective": effective, "provenance": {}, **told})
    for line in os.fdopen(commands, "rb"):
        if protocol.decode_line(line)["do"] == "stop":
            return 0
        if how.startswith("SIG"):
            os.kill(os.getpid(), getattr(signal, how))
            time.sleep(60)
        if how.startswith("exit"):
            return int(how.removeprefix("exit"))
        say({"event": "startup", "ranks": [{"steps": 1}]})
    time.sleep(600)  # One that does not see that nobody speaks to it any more.
    return 0


def forked(order: Order) -> int:
    commands, answers, client = order.files
    die_when(lambda: os.getppid() != order.parent or ended(client))
    return engine(order.argv[0], commands, answers, start_s=time.monotonic() - order.asked, preloaded=True)


def main() -> int:
    if sys.argv[1].isdecimal():
        control = socket.socket(fileno=int(sys.argv[1]))
        control.set_inheritable(False)
        os.sched_setaffinity(0, {int(core) for core in sys.argv[4].split(",")})
        modules = os.environ.get("IMPORTED", "").split()
        return forkserver.serve(control, int(sys.argv[2]), modules, forked)
    config, commands, answers, _ = sys.argv[1:]
    return engine(config, int(commands), int(answers), start_s=1.5)


if __name__ == "__main__":
    sys.exit(main())
