"""Which NVFP4 linear kernel vLLM's own selection takes, case by case: ``python -m ... CASES.json OUT.json``.

Nothing is computed, so it runs on any host. What a host has is part of a case: its platform and the kernels
that say they are supported there stand in for the real ones; the selection itself is vLLM's. Each case has a
process of its own, forked from one that has imported vLLM.

Worker side: standard library and vLLM alone.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

MESSAGE_LIMIT = 4000


def main(argv: list[str]) -> int:
    """Read the cases, write ``{"vllm": version, "chosen": {name: kernel or error}}``."""
    from vllm import __version__
    from vllm.model_executor.kernels import linear
    from vllm.plugins import load_general_plugins

    load_general_plugins()  # a planted fault
    cases: list[dict[str, Any]] = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    chosen = {case["name"]: _in_a_process_of_its_own(linear, case) for case in cases}
    told = json.dumps({"vllm": __version__, "chosen": chosen}, indent=2)
    Path(argv[1]).write_text(told, encoding="utf-8")
    return 0


def _in_a_process_of_its_own(linear: Any, case: dict[str, Any]) -> str:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            said = _choose(linear, case)
        except BaseException as error:
            traceback.print_exc()
            said = f"{_kind(error)}: {error}"[:MESSAGE_LIMIT]
        os.write(write, said.encode("utf-8", "replace"))
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as answer:
        said = answer.read().decode("utf-8", "replace")
    os.waitpid(pid, 0)
    return said or "died without an answer"


def _kind(error: BaseException) -> str:
    # pydantic's ValidationError is one; that it is a ValueError is what users rely on.
    return "ValueError" if isinstance(error, ValueError) else type(error).__name__


def _choose(linear: Any, case: dict[str, Any]) -> str:
    """The class that is chosen.

    Args:
        case: ``env``: variables that are set, all others of vLLM's are not; ``backend``: of
            ``--linear-backend``, or ``None``; ``a16``: whether weights alone are quantized; ``supported``:
            the kernels that say they are, on CUDA.
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
    flags = {} if case["backend"] is None else {"linear_backend": case["backend"]}
    with set_current_vllm_config(VllmConfig(kernel_config=KernelConfig(**flags))):
        kernel = linear.init_nvfp4_linear_kernel(*([True] if case["a16"] else []))
    return type(kernel).__name__


def _say_whether_supported(kernel: Any, supported: bool) -> None:
    reason = None if supported else "not on the host of this case"
    kernel.is_supported = classmethod(lambda cls, compute_capability=None: (supported, reason))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
