"""A cold start in an empty cache, a warm one in a new process, and an eager engine beside them.

What each start compiled, saved and loaded is judged by rules and by ``expected.yaml``; the cold and the warm
engine must give the same bits. The eager engine and the start times are told and judge nothing: compiled code
may round otherwise than eager code.

What makes it non-vacuous: the warm engine is another process; batches ran on it; the control (invariance off,
compiled, in a cache of its own) diverges; and the table of counters, read with the two starts exchanged, does
not pass.
"""

from bi_harness.certificate.records import Fact
from bi_harness.workload.checkplan import CheckPlan, together


def plan(workload):
    subjects = workload.requests
    batches = tuple(together(f"warm, {n} together", subjects, n) for n in workload.batch_sizes)
    return CheckPlan(subjects, (together("warm, alone", subjects, 1), *batches))


def compare_starts(starts, check, what):
    """Compare the cold with the warm start in bits and counters, and run the control. Return the cold one."""
    cold = starts.cold("treatment")
    check.compare(cold, what, restarted=lambda: starts.warm("treatment"))
    check.observe("treatment", starts.facts())
    if starts.controlled:
        check.compare(starts.cold("control"), what)
        check.observe("control", starts.exchanged())
    return cold


def test_startup(starts, workload, check):
    what = plan(workload)
    cold = compare_starts(starts, check, what)
    evidence = check.beside(starts.eager("treatment"), what.subjects, cold)
    differing = f"{evidence.differing_prompts} of {evidence.prompts}, by up to {evidence.max_ulp} ULP"
    check.tell("treatment", [Fact(name="prompts in which eager differs from compiled", found=differing)])
    check.conclude()


def test_mega_aot_off(starts, workload, check):
    starts.set_env({"VLLM_USE_MEGA_AOT_ARTIFACT": "0"})
    compare_starts(starts, check, plan(workload))
    check.conclude()


def test_mega_aot_on(starts, workload, check):
    starts.set_env({"VLLM_USE_MEGA_AOT_ARTIFACT": "1"})
    compare_starts(starts, check, plan(workload))
    check.conclude()
