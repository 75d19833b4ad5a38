"""The results' vocabulary: what a check found, and what it rests on.

These records are the certificate's schema. They are immutable, refuse unknown keys, and go to and from
JSON without loss (float32 values that matter travel as bit patterns, never as decimal text).
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)

Status = Literal["pass", "fail", "inconclusive", "error", "skip", "waived"]
Verdict = Literal["CERTIFIED", "NOT_CERTIFIED", "INCONCLUSIVE"]

MAX_COUNT = 2**53 - 1
"""The largest integer that every JSON reader takes for the same number, and that a float holds."""

Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
MAX_PATTERN = 4096
"""Characters of a waiver's pattern of cells."""

PositiveCount = Annotated[int, Field(ge=1, le=MAX_COUNT)]
Token = Annotated[int, Field(ge=-1, le=MAX_COUNT)]
"""A token's id; -1 where there is no token."""
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Bits = Annotated[str, Field(pattern=r"^0x[0-9a-f]{8}$")]


class Record(BaseModel):
    """Base of every record: frozen, closed, and without NaN in its JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Divergence(Record):
    """The first place where two observations of one request differ.

    ``rank`` is the column: 0 is the sampled token's logprob, 1.. are the top-k in rank order, and -1
    means that the sampled tokens or the lengths differ before any logprob does. The logprobs are
    ``None`` where they are not finite; the bits always tell. ``arm`` is the index in ``Evidence.batches``.
    """

    prompt: Count
    prompt_tokens: Count
    batch_size: PositiveCount
    arm: Count | None = None
    step: Count
    rank: Annotated[int, Field(ge=-1, le=MAX_COUNT)]
    reference_token: Token
    observed_token: Token
    reference_bits: Bits
    observed_bits: Bits
    reference_logprob: float | None
    observed_logprob: float | None
    ulp: Count


class BatchReached(Record):
    """What the scheduler really did in one arm (read from its own step log, never assumed).

    Attributes:
        batch_size: requests submitted together (a burst); 1 for the reference arm.
        prompts: requests of the arm.
        steps: engine steps taken.
        max_requests: requests that ran together in one engine step: the peak of each whole burst, and of
            those the smallest. A last burst that holds fewer requests than ``batch_size`` does not count.
        max_tokens: most tokens scheduled in one engine step.
        name: of the arm, for a reader.
    """

    batch_size: PositiveCount
    prompts: Count
    steps: Count
    max_requests: Count
    max_tokens: Count
    name: str = ""


class Needed(Record):
    """Something that must have happened, or equality would show nothing (a split prefill, an abort, ...).

    Attributes:
        name: what, in the scheduler's words.
        needed: how often at least.
        reached: how often it happened, over all batched arms.
        at_most: how often at most; ``None`` for as often as it likes.
    """

    name: str
    needed: Count
    reached: Count
    at_most: Count | None = None


class Evidence(Record):
    """What was compared, bit by bit, and what differed.

    Attributes:
        prompts: distinct requests compared.
        steps: decode steps compared, over all requests and batch sizes.
        values: float32 logprobs compared.
        differing_prompts: requests with at least one differing bit at any batch size.
        differing_steps: steps with at least one differing bit.
        differing_values: logprobs whose bits differ.
        first_divergence: ``None`` exactly when nothing differs.
        max_ulp: largest ULP distance (float32); 0 when nothing differs.
        max_abs: largest absolute distance between finite values.
        digest: of the exact bits of every observation of the batched arms.
        reference_digest: of those of the reference (batch size 1) arm.
        upper95: one-sided 95% upper bound (Clopper-Pearson) of the rate of differing steps.
        batches: what the scheduler did, an entry an arm.
        needed: what else had to happen.
    """

    prompts: Count
    steps: Count
    values: Count
    differing_prompts: Count
    differing_steps: Count
    differing_values: Count
    first_divergence: Divergence | None
    max_ulp: Count
    max_abs: float
    digest: Digest
    reference_digest: Digest
    upper95: Annotated[float, Field(ge=0, le=1)]
    batches: tuple[BatchReached, ...]
    needed: tuple[Needed, ...] = ()


class Fact(Record):
    """One thing that an engine said of itself, and what it had to say: the kernel it took, a counter.

    Attributes:
        name: what; each is there once in a check.
        found: what the engine said, as text.
        expected: what is right, any one of these; empty for what is told and not judged.
        source: where the expectation comes from.
    """

    name: Annotated[str, Field(min_length=1)]
    found: str
    expected: tuple[str, ...] = ()
    source: str = ""

    @property
    def judged(self) -> bool:
        """Whether there is something that it has to be."""
        return bool(self.expected)

    @property
    def wrong(self) -> bool:
        """Whether it is judged, and not as expected."""
        return self.judged and self.found not in self.expected


def _day(text: str) -> str:
    date.fromisoformat(text)
    return text


class Waiver(Record):
    """A failure that someone answers for until a day. It turns a ``fail`` into ``waived``, never into a pass.

    Attributes:
        cell: pattern of cells' ids (``*`` any letters, ``?`` one, ``[ab]`` one of these).
        check: the check's name.
        reason: why the failure is let be.
        link: where it is worked on.
        owner: who answers for it.
        expires: the last day on which it holds (``2026-12-31``, to its end in UTC).
    """

    cell: Annotated[str, Field(max_length=MAX_PATTERN)]
    check: str
    reason: str
    link: str
    owner: str
    expires: Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"), AfterValidator(_day)]


class OpRange(Record):
    """Batch sizes that were tried, neighbouring ones with the same outcome.

    Attributes:
        first, last: of them.
        holds: whether every row had the bits that it has alone.
    """

    first: PositiveCount
    last: PositiveCount
    holds: bool


class OpDifference(Record):
    """The first row whose bits differ from those that it has alone, by size of the batch.

    Attributes:
        rows: of the batch.
        place: of the row in it.
        beside: what stood beside it: ``subjects`` like itself, ``random`` rows, ``zeros``, ``large`` values.
    """

    rows: PositiveCount
    place: Count
    beside: str


class OpResult(Record):
    """One operator of the installed vLLM in one dtype, measured by itself.

    Attributes:
        op, dtype: which.
        shape: its sizes; of drawn shapes, those of the smallest one that fails, or how many there were.
        where: what was called.
        unit: what a row is: ``rows`` (tokens) or ``requests``.
        judged: whether a difference is a failure; others are told.
        promised: whether the device's invariance mode replaces it, or sees to it that it is invariant.
        missing: why this vLLM or this device has not got it; empty where it was measured.
        rows: compared with themselves alone, over all batches.
        differing: those of them whose bits differ.
        max_ulp: the largest distance, in units in the last place of the result's dtype.
        repeated, unequal: rows computed twice in the same batch, and those of them that differ.
        distance: the largest distance from the same in float64, in units of ``bound``; right up to 1.
        bound: what is allowed, for a reader.
        first: the first difference; ``None`` exactly when no row differs.
        ranges: the batch sizes that were tried, rising; none of drawn shapes.
        drawn: shapes that were drawn; 0 for the model's own.
    """

    op: Annotated[str, Field(min_length=1)]
    dtype: str
    shape: str = ""
    where: str = ""
    unit: str = "rows"
    judged: bool
    promised: bool
    missing: str = ""
    rows: Count = 0
    differing: Count = 0
    max_ulp: Count = 0
    repeated: Count = 0
    unequal: Count = 0
    distance: Annotated[float, Field(ge=0)] = 0.0
    bound: str = ""
    first: OpDifference | None = None
    ranges: tuple[OpRange, ...] = ()
    drawn: Count = 0


class ModuleResult(Record):
    """The modules of one type of a loaded model, called in one way: do their rows depend on the batch?

    Attributes:
        type: name of the class.
        form: what it is called with: dtype and sizes of a row of each argument.
        name: qualified name of the instance that was audited most thoroughly.
        weights: its own, with sizes and dtype; those of its parts are theirs.
        quant: class of its quantization method; empty for none.
        parameters: how many it has of its own.
        dtype: of what it gives.
        how: ``rows``: it was fed rows in batches of every size; ``sequences``: its rows were compared while
            the same requests ran alone and together.
        missing: why it was not audited; empty where it was.
        through: the audited module that computes with it, where it is never called itself.
        instances, audited: how many there are in the model, and how many of them were audited.
        failing: names of those that do not hold.
        rows: compared with themselves alone, over all batches.
        differing: those of them whose bits differ; values: of their results, how many differ.
        max_ulp: the largest distance, in units in the last place; 0 for ``sequences``, which keep digests.
        repeated, unequal: rows computed twice in the same batch, and those of them that differ.
        alone, unrepeatable: rows computed alone twice, and those of them that differ.
        changed: a weight or buffer that calls changed; empty for none.
        first: the first difference; ``None`` exactly when no row differs.
        ranges: the batch sizes that were tried, rising.
    """

    type: Annotated[str, Field(min_length=1)]
    form: str = ""
    name: Annotated[str, Field(min_length=1)]
    weights: tuple[str, ...] = ()
    quant: str = ""
    parameters: Count
    dtype: str = ""
    how: Literal["rows", "sequences"] = "rows"
    missing: str = ""
    through: str = ""
    instances: Count
    audited: Count = 0
    failing: tuple[str, ...] = ()
    rows: Count = 0
    differing: Count = 0
    values: Count = 0
    max_ulp: Count = 0
    repeated: Count = 0
    unequal: Count = 0
    alone: Count = 0
    unrepeatable: Count = 0
    changed: str = ""
    first: OpDifference | None = None
    ranges: tuple[OpRange, ...] = ()


class PlantedControl(Record):
    """The control (invariance off) once more, with a difference planted in it.

    Where stock vLLM happens to give the same bits, it shows that the requests went through what the check is
    about, and that the comparison sees a flipped bit in each of them.

    Attributes:
        requests: which requests got it, see ``workload.requests.Planted``.
        evidence: what the comparison saw.
    """

    requests: Literal["together", "preempted", "cached", "split", "scored", "drafted"]
    evidence: Evidence


class CheckResult(Record):
    """The result of one check on one cell.

    Attributes:
        cell: the cell's id.
        check: the check's name in its suite.
        status: see the design's words.
        reason: one sentence for a reader; empty only for a pass.
        evidence: ``None`` where nothing was compared (error, skip).
        control: the same workload with invariance off; ``None`` where it did not run.
        planted_control: the control with a planted difference; ``None`` where the control diverges by itself.
        facts: what the engine said of itself, for a check that judges that.
        control_facts: the same where it must be otherwise: with invariance off, or without what is checked.
        ops: the operators that the check measured; their facts are among ``facts``.
        modules: the modules that the check audited, and those that it could not; their facts likewise.
        rule: for a skip, the id of the rule that excluded the cell.
        log: for an error, the log file (relative to the run folder) that tells more.
        duration_s: seconds of wall time; ``None`` for a check that never started.
        waiver: for ``waived``, and there alone, the waiver; everything else stays as the failure left it.
    """

    cell: str
    check: str
    status: Status
    reason: str = ""
    evidence: Evidence | None = None
    control: Evidence | None = None
    planted_control: PlantedControl | None = None
    facts: tuple[Fact, ...] = ()
    control_facts: tuple[Fact, ...] = ()
    ops: tuple[OpResult, ...] = ()
    modules: tuple[ModuleResult, ...] = ()
    rule: str | None = None
    log: str | None = None
    duration_s: float | None = None
    waiver: Waiver | None = None

    @property
    def planted_evidence(self) -> Evidence | None:
        """What the comparison saw of a planted difference; ``None`` where none was planted."""
        return None if self.planted_control is None else self.planted_control.evidence

    @model_serializer(mode="wrap")
    def _some_where_there_are_any(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = handler(self)
        for name in ("planted_control", "ops", "modules", "waiver"):
            if not getattr(self, name):
                # Certificates of before there were any stay what they are, byte for byte.
                data.pop(name, None)
        return data
