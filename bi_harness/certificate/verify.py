"""Is a certificate genuine and consistent? Decisions over bytes that were read; nothing is read here.

What is looked at, in this order: the envelope and who signed it; the certificate's schema and spelling;
whether verdict, counts and lists follow from the checks that it lists; whether the certificate follows from
the journal; whether each file is the one that was signed; whether each report is what this version renders.

Nothing of the certificate is taken at its word. The verdict itself is not judged: a certificate that says
NOT_CERTIFIED can be as genuine as another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

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
    FilesStatement,
)
from bi_harness.certificate.problems import first_problem
from bi_harness.certificate.records import CheckResult, Record
from bi_harness.certificate.sign import EnvelopeError, Sealed, open_envelope
from bi_harness.certificate.statement import HarnessResult, Predicate, Statement
from bi_harness.certificate.verdict import why_hollow
from bi_harness.errors import HarnessError

SCHEMA = "bi-harness/certificate/1"
"""What this version can verify."""

Level = Literal["problem", "note", "good"]


class Finding(Record):
    """One thing that was looked at.

    Attributes:
        level: ``problem``: not genuine or not consistent; ``note``: what was not looked at, or what to know;
            ``good``: looked at and right.
        where: the file, or the field of the certificate.
        what: one sentence.
    """

    level: Level
    where: str
    what: str


@dataclass(frozen=True, slots=True)
class Folder:
    """What lies where a certificate is.

    Attributes:
        place: the path as it was given.
        contents: bytes of the files of a run, by name; those that are not there are left out.
        others: sha256 of the other files of the folder (``logs/...``), by name.
        whole: whether a run's folder was given and not one file, so that nothing of it may be missing.
        unreadable: why a file could not be read, by name.
        shards: of a run that shards were merged to, their journals, by name.
    """

    place: str
    contents: Mapping[str, bytes]
    others: Mapping[str, str] = field(default_factory=dict)
    whole: bool = True
    unreadable: Mapping[str, str] = field(default_factory=dict)
    shards: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recompute:
    """How what lies on disk is computed again.

    Attributes:
        statement: from a journal's bytes; raises ``HarnessError`` for one that is damaged.
        reports: from a statement to each report's bytes, by the report's name.
        harness: digest of this version's own sources, as certificates have it.
        merged: from shards' journals, by name, to that of the whole run; raises ``HarnessError`` where they
            are not the shards of one.
    """

    statement: Callable[[bytes], Statement]
    reports: Mapping[str, Callable[[Statement], bytes]]
    harness: str
    merged: Callable[[Mapping[str, bytes]], bytes]


@dataclass(frozen=True, slots=True)
class Examined:
    """What came of it.

    Attributes:
        place: see ``Folder``.
        statement: the certificate; ``None`` when it could not be read as one.
        digest: sha256 of its bytes, hexadecimal; empty without it.
        findings: in the order in which things were looked at.
        signed_by: ids of the given keys that signed exactly this certificate.
        signatures: ids of all keys that the envelope names.
        journal: whether the certificate was computed again from its journal, and is the same.
    """

    place: str
    statement: Statement | None
    digest: str
    findings: tuple[Finding, ...]
    signed_by: tuple[str, ...]
    signatures: tuple[str, ...]
    journal: bool

    @property
    def problems(self) -> tuple[Finding, ...]:
        """What speaks against it."""
        return tuple(finding for finding in self.findings if finding.level == "problem")

    @property
    def genuine(self) -> bool:
        """Whether it is a certificate, and nothing speaks against it."""
        return self.statement is not None and not self.problems


class _Findings(list[Finding]):
    def problem(self, where: str, what: str) -> None:
        self.append(Finding(level="problem", where=where, what=what))

    def note(self, where: str, what: str) -> None:
        self.append(Finding(level="note", where=where, what=what))

    def good(self, where: str, what: str) -> None:
        self.append(Finding(level="good", where=where, what=what))

    def problems(self) -> int:
        return sum(finding.level == "problem" for finding in self)


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
    found = _Findings()
    for name, why in folder.unreadable.items():
        found.problem(name, f"cannot be read: {why}")
    sealed = _sealed(folder, ENVELOPE, keys, found)
    raw = _certificate(folder, sealed, found)
    signed_by = sealed.signed_by if sealed is not None and sealed.payload == raw else ()
    _signatures(sealed, signed_by, wanted, found)
    digest = hashlib.sha256(raw).hexdigest() if raw is not None else ""
    statement = _statement(raw, found) if raw is not None else None
    from_journal = False
    if statement is not None:
        consistent(statement, found)
        from_journal = _journal(folder, statement, digest, recompute, found)
        _shards(folder, recompute, found)
        vouched = _files(folder, statement, digest, keys, wanted, found)
        _reports(folder, statement, recompute, vouched, found)
    named = () if sealed is None else (*sealed.signed_by, *sealed.bad, *sealed.unchecked)
    return Examined(folder.place, statement, digest, tuple(found), signed_by, named, from_journal)


def _sealed(folder: Folder, name: str, keys: Sequence[Key], found: _Findings) -> Sealed | None:
    data = folder.contents.get(name)
    if data is None:
        return None
    try:
        return open_envelope(data, keys)
    except EnvelopeError as error:
        found.problem(name, str(error))
        return None


def _certificate(folder: Folder, sealed: Sealed | None, found: _Findings) -> bytes | None:
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


def _signatures(sealed: Sealed | None, signed_by: tuple[str, ...], wanted: bool, found: _Findings) -> None:
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


def _statement(raw: bytes, found: _Findings) -> Statement | None:
    try:
        # Not kept: of a large certificate it takes more memory than all the rest.
        schema = _schema(from_json(raw, allow_inf_nan=False))
    except ValueError as error:
        found.problem(CERTIFICATE, f"is not JSON: {str(error)[:200]}")
        return None
    if schema != SCHEMA:
        shown = repr(schema)[:80] if schema is not None else "none"
        found.problem(
            CERTIFICATE,
            f"its schema is {shown}; this version of bi-harness knows {SCHEMA} alone. "
            "Verify it with the version that made it, or a newer one",
        )
        return None
    try:
        statement = Statement.model_validate_json(raw, strict=True)
    except ValidationError as error:
        found.problem(
            CERTIFICATE,
            f"is not as {SCHEMA} has it: {first_problem(error)} ({error.error_count()} such places). "
            "It was changed, or a newer version of bi-harness made it",
        )
        return None
    try:
        same = statement.to_json().encode() == raw
    except (ValueError, RecursionError) as error:
        found.problem(CERTIFICATE, f"cannot be written again: {str(error)[:200]}")
        return None
    if not same:
        found.problem(CERTIFICATE, "is not spelled as bi-harness writes it: it was changed")
    return statement


def _schema(data: Any) -> Any:
    for step in ("predicate", "bi_harness", "schema"):
        if not isinstance(data, dict):
            return None
        data = data.get(step)
    return data


def consistent(statement: Statement, found: _Findings) -> None:
    """Whether verdict, counts and lists follow from the checks that the certificate lists.

    The journal that it would come from is made of what it tells, and the certificate of that journal is
    computed: it must be the same. What only a real journal tells (a unit that did not end well, engines that
    do not agree) can but lower a verdict, from CERTIFIED to INCONCLUSIVE.
    """
    result = statement.predicate.bi_harness
    try:
        events, journal = _implied(result)
        again = build(events, journal)
    except (HarnessError, ValidationError, KeyError, TypeError, AttributeError, ValueError) as error:
        found.problem(CERTIFICATE, f"contradicts itself: {str(error)[:300]}")
        return
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


def _no_doubt(result: HarnessResult, found: _Findings) -> None:
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
    for check in result.checks:
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
            checks.append(CheckFinished(time=time, result=_as_journaled(check)))
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


def _as_journaled(check: CheckResult) -> CheckResult:
    """A result as a unit gave it: only the certificate waives, and tells that a waiver expired."""
    if check.status == "waived":
        return check.model_copy(update={"status": "fail", "waiver": None})
    if check.status == "fail" and _EXPIRED in check.reason:
        return check.model_copy(update={"reason": check.reason.partition(_EXPIRED)[0]})
    return check


_EXPIRED = "; its waiver expired on "


def _journal(
    folder: Folder, statement: Statement, digest: str, recompute: Recompute, found: _Findings
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
    try:
        again = recompute.statement(data).to_json().encode()
    except (HarnessError, ValidationError, KeyError, TypeError, AttributeError, ValueError) as error:
        found.problem(JOURNAL, f"gives no certificate: {str(error)[:300]}")
        return False
    if hashlib.sha256(again).hexdigest() != digest:
        found.problem(CERTIFICATE, "does not follow from the journal beside it")
        return False
    found.good(JOURNAL, "gives this certificate, byte for byte")
    return True


def _shards(folder: Folder, recompute: Recompute, found: _Findings) -> None:
    """Whether the journal is what the shards' journals beside it give."""
    data = folder.contents.get(JOURNAL)
    if not folder.shards or data is None:
        return
    try:
        again = recompute.merged(folder.shards)
    except (HarnessError, ValidationError, KeyError, TypeError, AttributeError, ValueError) as error:
        found.problem(SHARDS, f"cannot be merged: {str(error)[:300]}")
        return
    if again != data:
        found.problem(SHARDS, f"are not those of the {JOURNAL} beside them: one was changed")
        return
    found.good(SHARDS, f"{len(folder.shards)} shards' journals give this one, byte for byte")


def _files(
    folder: Folder,
    statement: Statement,
    digest: str,
    keys: Sequence[Key],
    wanted: bool,
    found: _Findings,
) -> frozenset[str]:
    """The files that a given key vouches for, as they are; a file that was changed is a problem."""
    sealed = _sealed(folder, FILES_ENVELOPE, keys, found)
    if sealed is None:
        if folder.others:
            found.note("logs", "nobody signed them: whether they were changed cannot be told")
        return frozenset()
    for keyid in sealed.bad:
        found.problem(FILES_ENVELOPE, f"the signature of the key {keyid} is not good: it was changed")
    if wanted and not sealed.signed_by and not sealed.bad:
        found.problem(FILES_ENVELOPE, "none of the given keys signed it")
    try:
        files = FilesStatement.model_validate_json(sealed.payload, strict=True)
    except ValidationError as error:
        found.problem(FILES_ENVELOPE, f"is no list of a run's files: {first_problem(error)}")
        return frozenset()
    digests = files.digests()
    # Of another run with the same key it would be signed as well.
    if digests.get(CERTIFICATE) != digest or files.predicate.run_id != statement.predicate.bi_harness.run_id:
        found.problem(FILES_ENVELOPE, "is of another certificate than the one beside it")
        return frozenset()
    there = {name: hashlib.sha256(data).hexdigest() for name, data in folder.contents.items()}
    there |= folder.others
    same = frozenset(name for name, value in digests.items() if there.get(name) == value)
    for name in sorted(digests.keys() & there.keys() - same):
        found.problem(name, f"was changed: its digest is not the one in {FILES_ENVELOPE}")
    if missing := sorted(digests.keys() - there.keys()):
        found.note(
            "files", f"{len(missing)} files that were signed are not there: {', '.join(missing)[:300]}"
        )
    uncovered = there.keys() - digests.keys() - {ENVELOPE, FILES_ENVELOPE}
    if uncovered:
        found.note("files", f"nobody signed {', '.join(sorted(uncovered))[:300]}")
    if not sealed.signed_by:
        if not wanted:
            found.note(FILES_ENVELOPE, "its signature was NOT checked, for its key was not given")
        return frozenset()
    found.good(FILES_ENVELOPE, f"{len(same)} files are as they were signed")
    return same


def _reports(
    folder: Folder, statement: Statement, recompute: Recompute, vouched: frozenset[str], found: _Findings
) -> None:
    missing = [name for name in REPORTS if name not in folder.contents]
    same = 0
    for name in REPORTS:
        if name in missing:
            continue
        try:
            again = recompute.reports[name](statement)
        except Exception as error:
            # A renderer must take any certificate; one that does not has shown nothing of the file.
            found.problem(name, f"cannot be rendered from the certificate: {type(error).__name__}: {error}")
            continue
        if folder.contents[name] == again:
            same += 1
        elif name in vouched:
            found.note(name, "another version of bi-harness rendered it; it is as it was signed")
        else:
            found.problem(name, _other_bytes(statement, recompute.harness))
    if same:
        found.good("reports", f"{same} are what the certificate gives, byte for byte")
    if missing:
        found.note("reports", f"not there: {', '.join(missing)}")


def _other_bytes(statement: Statement, harness: str) -> str:
    digests = statement.predicate.bi_harness.provenance.get("digests", {})
    if isinstance(digests, dict) and digests.get("bi_harness") == harness:
        return "was changed: it is not what this certificate gives"
    return (
        "is not what this version of bi-harness (and of its libraries) renders: it was changed, or another "
        "one rendered it, and no signature that was checked covers it. What to do: verify with the version "
        "that made it, or render it anew with `bi-harness report`"
    )
