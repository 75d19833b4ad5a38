"""Which NVFP4 linear kernel vLLM's own selection takes, case by case: ``python -m ... CASES.json OUT.json``.

Nothing is computed, so it runs on any host. What a host has is part of a case: its platform and the kernels
that say they are supported there stand in for the real ones; the selection itself is vLLM's. Each case has a
process of its own, forked from one that has imported vLLM.

Worker side: standard library and vLLM alone.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any, get_args

from bi_harness.invariance.faults import registry

MESSAGE_LIMIT = 4000
REFUSED = "refused"
"""The answer where vLLM raises a ``ValueError``; what it says is in the log."""
REFUSED_LISTING = "refused, with the names that there are"
"""The answer where, of an unknown name, it also lists those that it knows."""


def main(argv: list[str]) -> int:
    """Read the cases, write ``{"vllm": version, "planted_fault": id or None, "chosen": {name: kernel}}``."""
    from vllm import __version__
    from vllm.model_executor.kernels import linear
    from vllm.plugins import load_general_plugins

    load_general_plugins()  # a planted fault
    cases: list[dict[str, Any]] = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    chosen = {case["name"]: _in_a_process_of_its_own(linear, case) for case in cases}
    told = json.dumps({"vllm": __version__, "planted_fault": registry.planted(), "chosen": chosen}, indent=2)
    Path(argv[1]).write_text(told, encoding="utf-8")
    return 0


def _in_a_process_of_its_own(linear: Any, case: dict[str, Any]) -> str:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            said = _choose(linear, case)
        except ValueError as error:  # pydantic's ValidationError is one
            sys.stderr.write(f"{case['name']}: {error}\n")
            sys.stderr.flush()
            said = REFUSED_LISTING if case["unknown"] and _lists(linear, str(error), case) else REFUSED
        except BaseException as error:
            traceback.print_exc()
            said = f"{type(error).__name__}: {error}"[:MESSAGE_LIMIT]
        os.write(write, said.encode("utf-8", "replace"))
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as answer:
        said = answer.read().decode("utf-8", "replace")
    os.waitpid(pid, 0)
    return said or "died without an answer"


def _lists(linear: Any, message: str, case: dict[str, Any]) -> bool:
    """Whether the message has every name that vLLM knows in the place of the unknown one."""
    if case["kernel_config"]:
        from vllm.config import kernel

        names = get_args(kernel.LinearBackend)
    else:
        names = tuple(linear._NVFP4_BACKEND_TO_KERNEL)
    return bool(names) and all(repr(name) in message for name in names)


def _choose(linear: Any, case: dict[str, Any]) -> str:
    """The class that is chosen.

    Args:
        case: ``env``: variables that are set, all others of vLLM's are not; ``kernel_config``: what flags
            set; ``a16``: whether weights alone are quantized; ``supported``: the kernels that say they are,
            on CUDA.
    """
    from vllm.config import KernelConfig, VllmConfig, set_current_vllm_config
    from vllm.platforms import PlatformEnum, current_platform

    for name in [name for name in os.environ if name.startswith("VLLM_")]:
        del os.environ[name]
    os.environ.update(case["env"])
    type(current_platform)._enum = PlatformEnum.CUDA
    supported = set(case["supported"])
    for kernel in set(linear._POSSIBLE_NVFP4_KERNELS[PlatformEnum.CUDA]):
        _say_whether_supported(kernel, kernel.__name__ in supported)
    with set_current_vllm_config(VllmConfig(kernel_config=KernelConfig(**case["kernel_config"]))):
        choose = linear.init_nvfp4_linear_kernel
        # Older releases make no difference between the two kinds of checkpoints.
        a16 = {"use_a16": True} if case["a16"] and "use_a16" in inspect.signature(choose).parameters else {}
        kernel = choose(**a16)
    return type(kernel).__name__


def _say_whether_supported(kernel: Any, supported: bool) -> None:
    reason = None if supported else "not on the host of this case"
    kernel.is_supported = classmethod(lambda cls, compute_capability=None: (supported, reason))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
