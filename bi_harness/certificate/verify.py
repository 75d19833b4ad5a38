"""Is a certificate genuine and consistent? Decisions over bytes that were read; nothing is read here.

What is looked at, in this order: the envelope and who signed it; the certificate's schema and spelling;
whether verdict, counts and lists follow from the checks that it lists; whether the certificate follows from
the journal; whether each file is the one that was signed; whether each report is what this version renders.

Nothing of the certificate is taken at its word. The verdict itself is not judged: a certificate that says
NOT_CERTIFIED can be as genuine as another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json
from securesystemslib.signer import Key

from bi_harness.certificate.build import build
from bi_harness.certificate.events import (
    CheckFinished,
    EngineReady,
    Event,
    Localized,
    PlannedChecks,
    RunFinished,
    RunStarted,
    ShardStarted,
    UnitFinished,
)
from bi_harness.certificate.files import (
    CERTIFICATE,
    ENVELOPE,
    FILES_ENVELOPE,
    JOURNAL,
    REPORTS,
    SHARDS,
    beside_reports,
)
from bi_harness.certificate.findings import Finding as Finding
from bi_harness.certificate.findings import Findings as Findings
from bi_harness.certificate.folder import Folder as Folder
from bi_harness.certificate.folder_files import compare_with_list, name_unsigned, signed_list, signers
from bi_harness.certificate.problems import first_problem, shortened
from bi_harness.certificate.recompute import ComputationFailure, attempt
from bi_harness.certificate.recompute import Recompute as Recompute
from bi_harness.certificate.records import CheckResult
from bi_harness.certificate.sign import EnvelopeError, Sealed, open_envelope
from bi_harness.certificate.statement import HarnessResult, Predicate, Statement
from bi_harness.certificate.verdict import why_hollow
from bi_harness.certificate.waivers import expiry_told

SCHEMA = "bi-harness/certificate/1"
"""What this version can verify."""


@dataclass(frozen=True, slots=True)
class Examined:
    """What came of it.

    Attributes:
        place: see ``Folder``.
        statement: the certificate; ``None`` when it could not be read as one.
        digest: sha256 of its bytes, hexadecimal; empty without it.
        findings: in the order in which things were looked at.
        signed_by: ids of the given keys that signed exactly this certificate and, of a whole folder, the list
            of its files.
        signatures: ids of all keys that the certificate's envelope names.
        journal: whether the certificate was computed again from its journal, and is the same.
        signed_files: sha256 of the files that are as one of the given keys signed them, by name.
    """

    place: str
    statement: Statement | None
    digest: str
    findings: tuple[Finding, ...]
    signed_by: tuple[str, ...]
    signatures: tuple[str, ...]
    journal: bool
    signed_files: Mapping[str, str] = field(default_factory=dict)

    @property
    def problems(self) -> tuple[Finding, ...]:
        """What speaks against it."""
        return tuple(finding for finding in self.findings if finding.level == "problem")

    @property
    def genuine(self) -> bool:
        """Whether it is a certificate, and nothing speaks against it."""
        return self.statement is not None and not self.problems


def examine(
    folder: Folder, keys: Sequence[Key], recompute: Recompute, *, must_be_signed: bool = True
) -> Examined:
    """Look at a certificate and at all that lies beside it.

    Args:
        folder: the files.
        keys: public keys. A bad signature of one of them is always a problem; none for not asking who signed.
        recompute: see there.
        must_be_signed: whether it is a problem when none of the keys signed it. Who says no looks at
            ``Examined.signed_by``.
    """
    wanted = must_be_signed and bool(keys)
    found = Findings()
    for name, why in folder.unreadable.items():
        found.problem(name, f"cannot be read: {why}")
    sealed = _sealed(folder, ENVELOPE, keys, found)
    files = _sealed(folder, FILES_ENVELOPE, keys, found)
    raw = _certificate(folder, sealed, found)
    signed_by = sealed.signed_by if sealed is not None and sealed.payload == raw else ()
    _signatures(sealed, signed_by, wanted, found)
    signed_by = signers(folder, sealed, files, signed_by, wanted, found)
    digest = hashlib.sha256(raw).hexdigest() if raw is not None else ""
    statement = _statement(raw, found) if raw is not None else None
    from_journal = False
    vouched: frozenset[str] = frozenset()
    if statement is not None:
        _which_run(folder, statement, found)
        consistent(statement, found)
        from_journal = _journal(folder, statement, digest, recompute, found)
        _shards(folder, recompute, found)
        vouched = _files(folder, statement, digest, files, wanted, found)
        _reports(folder, statement, recompute, vouched, found)
        _beside_reports(folder, statement, recompute, vouched, found)
    named = () if sealed is None else (*sealed.signed_by, *sealed.bad, *sealed.unchecked)
    digests = folder.digests() if vouched else {}
    return Examined(
        folder.place,
        statement,
        digest,
        tuple(found),
        signed_by,
        named,
        from_journal,
        {name: digests[name] for name in sorted(vouched)},
    )


def _which_run(folder: Folder, statement: Statement, found: Findings) -> None:
    run_id = statement.predicate.bi_harness.run_id
    if folder.name and folder.name != run_id:
        found.note(
            "folder",
            f"it is called {shortened(folder.name, 100)}, and its run is {shortened(run_id, 100)}: "
            "it was renamed, or another run's files were put there",
        )


def _sealed(folder: Folder, name: str, keys: Sequence[Key], found: Findings) -> Sealed | None:
    data = folder.contents.get(name)
    if data is None:
        return None
    opened = attempt(lambda: _opened(data, keys))
    if isinstance(opened, ComputationFailure):
        found.problem(name, f"cannot be opened: {opened.why}")
        return None
    if isinstance(opened.value, str):
        found.problem(name, opened.value)
        return None
    return opened.value


def _opened(data: bytes, keys: Sequence[Key]) -> Sealed | str:
    """The envelope, or why it is none."""
    try:
        return open_envelope(data, keys)
    except EnvelopeError as error:
        return str(error)


def _certificate(folder: Folder, sealed: Sealed | None, found: Findings) -> bytes | None:
    """The certificate's bytes: the file's, else the envelope's payload."""
    raw = folder.contents.get(CERTIFICATE)
    if raw is None:
        if sealed is None:
            hint = ". `bi-harness report` writes it from the journal" if JOURNAL in folder.contents else ""
            found.problem(CERTIFICATE, f"is not there{hint}")
            return None
        if folder.whole:
            found.problem(CERTIFICATE, "is not there; the envelope holds it")
        return sealed.payload
    if sealed is not None and sealed.payload != raw:
        found.problem(
            ENVELOPE, f"signs another certificate than the {CERTIFICATE} beside it: one was changed"
        )
    return raw


def _signatures(sealed: Sealed | None, signed_by: tuple[str, ...], wanted: bool, found: Findings) -> None:
    if sealed is None:
        if wanted:
            found.problem(ENVELOPE, "nobody signed it, and a signature is asked for")
        else:
            found.note(ENVELOPE, "nobody signed it: anybody can have made it")
        return
    for keyid in sealed.bad:
        found.problem(ENVELOPE, f"the signature of the key {keyid} is not good: signed content was changed")
    for keyid in signed_by:
        found.good(ENVELOPE, f"signed by the key {keyid}")
    if wanted and not sealed.signed_by and not sealed.bad:
        named = ", ".join(sealed.unchecked)
        found.problem(ENVELOPE, f"none of the given keys signed it; it names {named}")
    elif sealed.unchecked:
        named = ", ".join(sealed.unchecked)
        found.note(ENVELOPE, f"a signature was NOT checked, for its key was not given: {named}")


def _statement(raw: bytes, found: Findings) -> Statement | None:
    # Not kept: of a large certificate it takes more memory than all the rest.
    schema = attempt(lambda: _schema(from_json(raw, allow_inf_nan=False)))
    if isinstance(schema, ComputationFailure):
        found.problem(CERTIFICATE, f"is not JSON: {schema.why}")
        return None
    if schema.value != SCHEMA:
        # Not the repr of anything else: a number can be too long to be written.
        shown = repr(schema.value)[:80] if isinstance(schema.value, str) else type(schema.value).__name__
        found.problem(
            CERTIFICATE,
            f"its schema is {'none' if schema.value is None else shown}; this version of bi-harness knows "
            f"{SCHEMA} alone. Verify it with the version that made it, or a newer one",
        )
        return None
    read = attempt(lambda: _validated(raw))
    if isinstance(read, ComputationFailure):
        found.problem(CERTIFICATE, f"cannot be read: {read.why}")
        return None
    if isinstance(read.value, str):
        found.problem(CERTIFICATE, read.value)
        return None
    statement = read.value
    again = attempt(lambda: statement.to_json().encode())
    if isinstance(again, ComputationFailure):
        found.problem(CERTIFICATE, f"cannot be written again: {again.why}")
        return None
    if again.value != raw:
        found.problem(CERTIFICATE, "is not spelled as bi-harness writes it: it was changed")
    return statement


def _validated(raw: bytes) -> Statement | str:
    """The certificate, or where it is not as the schema has it."""
    try:
        return Statement.model_validate_json(raw, strict=True)
    except ValidationError as error:
        return (
            f"is not as {SCHEMA} has it: {first_problem(error)} ({error.error_count()} such places). "
            "It was changed, or a newer version of bi-harness made it"
        )


def _schema(data: Any) -> Any:
    for step in ("predicate", "bi_harness", "schema"):
        if not isinstance(data, dict):
            return None
        data = data.get(step)
    return data


def consistent(statement: Statement, found: Findings) -> None:
    """Whether verdict, counts and lists follow from the checks that the certificate lists.

    The journal that it would come from is made of what it tells, and the certificate of that journal is
    computed: it must be the same. What only a real journal tells (a unit that did not end well, engines that
    do not agree) can but lower a verdict, from CERTIFIED to INCONCLUSIVE.
    """
    compared = attempt(lambda: _compare_with_checks(statement, found))
    if isinstance(compared, ComputationFailure):
        found.problem(CERTIFICATE, f"contradicts itself: {compared.why}")


def _compare_with_checks(statement: Statement, found: Findings) -> None:
    result = statement.predicate.bi_harness
    events, journal = _implied(result)
    again = build(events, journal)
    other = again.predicate.bi_harness
    # Of a shard, which is never CERTIFIED, it is what its part came to.
    lowered = (result.verdict, other.verdict) == ("INCONCLUSIVE", "CERTIFIED") or (
        result.verdict == "INCONCLUSIVE" == other.verdict and not _part_passed(result) and _part_passed(other)
    )
    own = {"resumed", "lost", *(("verdict", "why", "shard") if lowered else ())}
    if result.resumed:
        found.note(CERTIFICATE, "it was resumed: what ran before stands in its journal, not in what it lists")
    if result.lost:
        found.note(
            CERTIFICATE, "nodes were lost: what ran on them stands in its journal, not in what it lists"
        )
    before = found.problems()
    if result.verdict == "CERTIFIED" or _part_passed(result):
        _no_doubt(result, found)
    for name in HarnessResult.model_fields:
        if name not in own and getattr(result, name) != getattr(other, name):
            found.problem(f"{CERTIFICATE}: {name}", _differ(getattr(result, name), getattr(other, name)))
    for name in Predicate.model_fields:
        if name == "bi_harness":
            continue
        said, gives = getattr(statement.predicate, name), getattr(again.predicate, name)
        if name == "result" and lowered:
            gives = "FAILED"
        if said != gives:
            found.problem(f"{CERTIFICATE}: {name}", _differ(said, gives))
    if statement.subject != again.subject:
        found.problem(f"{CERTIFICATE}: subject", _differ(statement.subject, again.subject))
    if found.problems() == before:
        found.good(
            CERTIFICATE, f"{result.verdict} and its figures follow from the {len(result.checks)} checks"
        )


def _part_passed(result: HarnessResult) -> bool:
    return result.shard is not None and result.shard.passed


def _no_doubt(result: HarnessResult, found: Findings) -> None:
    if doubts := result.provenance.get("disagreements"):
        found.problem(
            f"{CERTIFICATE}: verdict", f"CERTIFIED, and its engines do not agree: {str(doubts)[:200]}"
        )
    for check in result.checks:
        if check.status == "pass" and (why := why_hollow(check)):
            found.problem(f"{CERTIFICATE}: {check.cell[:200]} {check.check[:80]}", f"reads pass, but {why}")


def _differ(said: object, gives: object) -> str:
    return f"it says {_short(said)}; what it lists gives {_short(gives)}"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 160 else f"{text[:160]}..."


def _implied(result: HarnessResult) -> tuple[list[Event], str]:
    """The journal that a certificate would come from, as far as it tells; and the digest that it names."""
    provenance = dict(result.provenance)
    digests = dict(provenance["digests"])
    journal = str(digests.pop("journal")).removeprefix("sha256:")
    checkpoints = dict(digests.pop("checkpoints", {}))
    provenance["digests"] = digests
    time = result.started
    plan, checks = [], []
    expiries = expiry_told([use.waiver for use in result.waivers], result.checks, result.started)
    for place, check in enumerate(result.checks):
        skipped = check.status == "skip" and check.rule is not None
        plan.append(
            PlannedChecks(
                cell=check.cell,
                unit=check.cell,
                checks=(check.check,),
                rule=check.rule if skipped else None,
                reason=check.reason if skipped else "",
            )
        )
        if not skipped:
            checks.append(CheckFinished(time=time, result=_as_journaled(check, expiries.get(place, ""))))
    copied = {
        name: getattr(result, name) for name in RunStarted.model_fields if name in HarnessResult.model_fields
    }
    if uses := copied.get("waivers"):
        copied["waivers"] = tuple(use.waiver for use in uses)
    if result.shard is not None:
        told = result.shard.model_dump(exclude={"passed"})
        # Of one check a unit, each: see above.
        copied["shard"] = ShardStarted(
            **told, units=tuple(dict.fromkeys(check.cell for check in result.checks))
        )
    start = RunStarted(**{**copied, "time": time, "plan": tuple(plan), "provenance": provenance})
    engines = [
        EngineReady(time=time, arm=arm, provenance={} if i else {"checkpoints": checkpoints})
        for i, arm in enumerate(result.effective)
    ]
    units = [
        UnitFinished(time=time, unit=unit, outcome="completed", duration_s=0.0)
        for unit in dict.fromkeys(planned.unit for planned in plan)
    ]
    end: list[Event] = []
    if result.finished is not None:
        end = [RunFinished(time=result.finished, interrupted=result.interrupted)]
    localized = [Localized(time=time, localization=told) for told in result.localized]
    return [start, *engines, *checks, *units, *localized, *end], journal


def _as_journaled(check: CheckResult, told: str) -> CheckResult:
    """A result as a unit gave it: only the certificate waives, and tells that a waiver expired.

    Args:
        told: what an expired waiver adds to the reason. A reason is free text, so nothing is parsed from it.
    """
    if check.status == "waived":
        return check.model_copy(update={"status": "fail", "waiver": None})
    if check.status == "fail" and told and check.reason.endswith(told):
        return check.model_copy(update={"reason": check.reason.removesuffix(told)})
    return check


def _journal(
    folder: Folder, statement: Statement, digest: str, recompute: Recompute, found: Findings
) -> bool:
    """Whether the certificate is, byte for byte, what its journal gives."""
    data = folder.contents.get(JOURNAL)
    if data is None:
        if folder.whole:
            found.problem(JOURNAL, f"is not there. Give {CERTIFICATE} itself to look at that alone")
        else:
            found.note(JOURNAL, "is not there: that the certificate follows from its journal was not checked")
        return False
    named = statement.predicate.bi_harness.provenance.get("digests", {})
    told = named.get("journal") if isinstance(named, dict) else None
    if told != f"sha256:{hashlib.sha256(data).hexdigest()}":
        found.problem(JOURNAL, "its digest is not the one that the certificate names: one was changed")
        return False
    again = attempt(lambda: recompute.statement(data).to_json().encode())
    if isinstance(again, ComputationFailure):
        found.problem(JOURNAL, f"gives no certificate: {again.why}")
        return False
    if hashlib.sha256(again.value).hexdigest() != digest:
        found.problem(CERTIFICATE, "does not follow from the journal beside it")
        return False
    found.good(JOURNAL, "gives this certificate, byte for byte")
    return True


def _shards(folder: Folder, recompute: Recompute, found: Findings) -> None:
    """Whether the journal is what the shards' journals beside it give."""
    data = folder.contents.get(JOURNAL)
    if not folder.shards or data is None:
        return
    again = attempt(lambda: recompute.merged(folder.shards))
    if isinstance(again, ComputationFailure):
        found.problem(SHARDS, f"cannot be merged: {again.why}")
        return
    if again.value != data:
        found.problem(SHARDS, f"are not those of the {JOURNAL} beside them: one was changed")
        return
    found.good(SHARDS, f"{len(folder.shards)} shards' journals give this one, byte for byte")


def _files(
    folder: Folder, statement: Statement, digest: str, sealed: Sealed | None, wanted: bool, found: Findings
) -> frozenset[str]:
    """The files that a given key vouches for, as they are; a file that was changed is a problem."""
    listed = signed_list(sealed, statement, digest, found)
    same = compare_with_list(folder, listed, found) if listed is not None else frozenset()
    name_unsigned(folder, listed, found)
    if sealed is None or listed is None:
        return frozenset()
    if not sealed.signed_by:
        if not wanted:
            found.note(FILES_ENVELOPE, "its signature was NOT checked, for its key was not given")
        return frozenset()
    found.good(FILES_ENVELOPE, f"{len(same)} files are as they were signed")
    return same


def _reports(
    folder: Folder, statement: Statement, recompute: Recompute, vouched: frozenset[str], found: Findings
) -> None:
    missing = [name for name in REPORTS if name not in folder.contents]
    same = 0
    for name in REPORTS:
        if name in missing:
            continue
        again = attempt(partial(recompute.reports[name], statement))
        if isinstance(again, ComputationFailure):
            # A renderer must take any certificate; one that does not has shown nothing of the file.
            found.problem(name, f"cannot be rendered from the certificate: {again.why}")
            continue
        if folder.contents[name] == again.value:
            same += 1
        elif name in vouched:
            found.note(name, "another version of bi-harness rendered it; it is as it was signed")
        else:
            found.problem(name, _other_bytes(statement, recompute.harness))
    if same:
        found.good("reports", f"{same} are what the certificate gives, byte for byte")
    if missing:
        found.note("reports", f"not there: {', '.join(missing)}")


def _beside_reports(
    folder: Folder, statement: Statement, recompute: Recompute, vouched: frozenset[str], found: Findings
) -> None:
    """Whether files that are computed from certificate and journal are what these give."""
    names = sorted(name for name in folder.others if beside_reports(name))
    if not names:
        return
    journal = folder.contents.get(JOURNAL)
    if journal is None:
        for name in names:
            if name not in vouched:
                found.note(name, f"was not looked at: it is computed from the {JOURNAL}, which is not there")
        return
    computed = attempt(lambda: recompute.beside(statement, journal))
    if isinstance(computed, ComputationFailure):
        for name in names:
            found.problem(name, f"cannot be computed from certificate and journal: {computed.why}")
        return
    for name in names:
        again = computed.value.get(name)
        if again is not None and hashlib.sha256(again).hexdigest() == folder.others[name]:
            found.good(name, "is what certificate and journal give, byte for byte")
        elif name in vouched:
            found.note(name, "another version of bi-harness wrote it; it is as it was signed")
        elif again is None:
            found.problem(name, "nobody signed it, and certificate and journal give no such file")
        else:
            found.problem(name, _other_bytes(statement, recompute.harness))


def _other_bytes(statement: Statement, harness: str) -> str:
    digests = statement.predicate.bi_harness.provenance.get("digests", {})
    if isinstance(digests, dict) and digests.get("bi_harness") == harness:
        return "was changed: it is not what this certificate gives"
    return (
        "is not what this version of bi-harness (and of its libraries) renders: it was changed, or another "
        "one rendered it, and no signature that was checked covers it. What to do: verify with the version "
        "that made it, or render it anew with `bi-harness report`"
    )
