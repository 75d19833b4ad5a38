"""The files of a run's folder against the list that was signed of them. Pure decisions."""

from __future__ import annotations

from bi_harness.certificate.files import (
    CERTIFICATE,
    ENVELOPE,
    FILES_ENVELOPE,
    LOGS,
    FilesStatement,
    beside_reports,
    looks_own,
    read_files_statement,
)
from bi_harness.certificate.findings import Findings
from bi_harness.certificate.folder import Folder
from bi_harness.certificate.problems import shortened
from bi_harness.certificate.recompute import ComputationFailure, attempt
from bi_harness.certificate.sign import Sealed
from bi_harness.certificate.statement import Statement

_NAMED = 100
"""Files that are named in one finding; of more, the number is told."""

_ENVELOPES = frozenset({ENVELOPE, FILES_ENVELOPE})


def signers(
    folder: Folder,
    certificate: Sealed | None,
    files: Sealed | None,
    signed_by: tuple[str, ...],
    wanted: bool,
    found: Findings,
) -> tuple[str, ...]:
    """The given keys that signed the run: of a whole folder, certificate and list of files.

    ``--sign-key`` always writes both envelopes, so of a folder in which a given key signed one of them, the
    other was taken away or exchanged.

    Args:
        folder: what lies there.
        certificate, files: the envelopes; ``None`` for one that is not there, or is not an envelope.
        signed_by: the given keys that signed exactly the certificate.
        wanted: whether it is a problem when none of the given keys signed.
        found: takes what is wrong.
    """
    if files is not None:
        for keyid in files.bad:
            found.problem(FILES_ENVELOPE, f"the signature of the key {keyid} is not good: it was changed")
    if not folder.whole:
        if files is not None and wanted and not files.signed_by and not files.bad:
            found.problem(FILES_ENVELOPE, "none of the given keys signed it")
        return signed_by
    if files is None:
        if FILES_ENVELOPE in folder.contents or FILES_ENVELOPE in folder.unreadable:
            return ()  # It is there and is no envelope, which is a problem already.
        if signed_by or (wanted and certificate is not None):
            found.problem(
                FILES_ENVELOPE,
                "is not there: nobody vouches for the logs and reports of this folder. It was removed, or "
                f"left behind when the folder was copied. Give {CERTIFICATE} itself to look at that alone",
            )
        elif certificate is not None:
            found.note(FILES_ENVELOPE, f"is not there, and {ENVELOPE} is: it was removed, or left behind")
        return ()
    both = tuple(keyid for keyid in signed_by if keyid in files.signed_by)
    if certificate is None:
        if files.signed_by and not wanted:
            found.problem(ENVELOPE, f"is not there, and a given key signed {FILES_ENVELOPE}: it was removed")
        elif not wanted:
            found.note(ENVELOPE, f"is not there, and {FILES_ENVELOPE} is: it was removed, or left behind")
    elif (wanted or signed_by) and not files.signed_by and not files.bad:
        found.problem(FILES_ENVELOPE, "none of the given keys signed it")
    elif files.signed_by and not signed_by and not wanted:
        found.problem(ENVELOPE, f"the key that signed {FILES_ENVELOPE} did not sign the certificate")
    elif files.signed_by and signed_by and not both:
        found.problem(FILES_ENVELOPE, "another key than the certificate's signed it")
    elif not {*_named(certificate)} & {*_named(files)}:
        found.problem(FILES_ENVELOPE, f"names other keys than {ENVELOPE}")
    return both


def _named(sealed: Sealed) -> tuple[str, ...]:
    return (*sealed.signed_by, *sealed.bad, *sealed.unchecked)


def signed_list(
    sealed: Sealed | None, statement: Statement, digest: str, found: Findings
) -> FilesStatement | None:
    """The list of files that was signed; ``None`` where there is none of this certificate."""
    if sealed is None:
        return None
    files = attempt(lambda: read_files_statement(sealed.payload))
    if isinstance(files, ComputationFailure):
        found.problem(FILES_ENVELOPE, f"is not a list of a run's files: {files.why}")
        return None
    listed = files.value
    # Of another run with the same key it would be signed as well.
    if (
        listed.digests().get(CERTIFICATE) != digest
        or listed.predicate.run_id != statement.predicate.bi_harness.run_id
    ):
        found.problem(FILES_ENVELOPE, "is of another certificate than the one beside it")
        return None
    return listed


def compare_with_list(folder: Folder, listed: FilesStatement, found: Findings) -> frozenset[str]:
    """The files that are as the list has them. Any other that is there in place of one is a problem."""
    digests, there = listed.digests(), folder.digests()
    same = frozenset(name for name, value in digests.items() if there.get(name) == value)
    gone = []
    for name in sorted(digests):
        if (name in same or name not in there) and (obstacle := folder.in_the_way(name)):
            found.problem(name, f"was signed, and is not the file that was: {obstacle}")
        elif name in there and name not in same:
            found.problem(name, f"was changed: its digest is not the one in {FILES_ENVELOPE}")
        elif name not in there and name not in folder.unreadable:
            gone.append(name)
    for name in sorted(_ENVELOPES & folder.irregular.keys()):
        found.problem(name, f"it is {folder.irregular[name]}, and not a file")
    if gone:
        found.note("files", f"{len(gone)} files that were signed are not there: {_list(gone, folder)}")
    return frozenset(name for name in same if not folder.in_the_way(name))


def name_unsigned(folder: Folder, listed: FilesStatement | None, found: Findings) -> None:
    """Name what nobody signed; of a signed folder, a file that must have been signed is a problem."""
    names = {*folder.contents, *folder.others, *folder.irregular}
    if folder.whole:
        names.update(folder.foreign)
    digests = listed.digests() if listed is not None else {}
    for name in sorted(folder.irregular):
        if beside_reports(name) and name not in digests:
            found.problem(name, f"it is {folder.irregular[name]}, and was not looked at")
    unsigned = sorted(names - digests.keys() - _ENVELOPES)
    if listed is None:
        if any(name.startswith(f"{LOGS}/") for name in unsigned):
            found.note("logs", "nobody signed them: whether they were changed cannot be told")
        own = folder.contents.keys() | folder.others.keys()
        if foreign := [name for name in unsigned if name not in own]:
            found.note("files", f"not of a run, and not looked at: {_list(foreign, folder)}")
        return
    # Those that are computed may be written later: they must be what certificate and journal give.
    computed = folder.others.keys()
    must = [n for n in unsigned if looks_own(n) and not (beside_reports(n) and n in computed)]
    for name in must if folder.whole else ():
        found.problem(name, f"nobody signed it: it is not in {FILES_ENVELOPE}, and all else of this run is")
    if rest := [name for name in unsigned if name not in must or not folder.whole]:
        found.note("files", f"nobody signed {_list(rest, folder)}")


def _list(names: list[str], folder: Folder) -> str:
    """Names for a reader, and of what is not a file, what it is."""
    shown = ", ".join(
        shortened(name, 200) + (f" ({folder.irregular[name]})" if name in folder.irregular else "")
        for name in names[:_NAMED]
    )
    return f"{shown} and {len(names) - _NAMED:,} more" if len(names) > _NAMED else shown
