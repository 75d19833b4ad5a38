"""Signatures: ed25519 keys in PEM files, and DSSE envelopes (securesystemslib) around in-toto Statements.

What is signed is DSSE's pre-authentication encoding of payload type and payload.
Source: https://github.com/secure-systems-lab/dsse, protocol and envelope v1.0.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from pydantic import FailFast, Field, ValidationError
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import CryptoSigner, Key, SSlibKey

from bi_harness.certificate.problems import first_problem
from bi_harness.certificate.records import Record
from bi_harness.errors import UsageError
from bi_harness.reading import NotRegular, read_bounded

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
"""in-toto's media type for a Statement."""

_KEY_BYTES: Final = 64 * 1024
"""More than any PEM key: what is read of a file that is called one."""

_Text = Annotated[str, Field(strict=True, max_length=2**28)]
_Hex = Annotated[str, Field(strict=True, pattern=r"^[0-9a-f]{64}$")]


class _Signature(Record):
    keyid: _Hex
    sig: _Text


class _EnvelopeFile(Record):
    """The shape of an envelope's file: closed, so that nothing unsigned can ride along."""

    payload: _Text
    payloadType: Literal["application/vnd.in-toto+json"]
    signatures: Annotated[tuple[_Signature, ...], FailFast(), Field(min_length=1, max_length=100)]


@dataclass(frozen=True, slots=True)
class Sealed:
    """An envelope as it was found.

    Attributes:
        payload: what was signed, byte for byte.
        signed_by: ids of the given keys whose signature is good.
        bad: ids of the given keys whose signature is there and is not good.
        unchecked: ids of keys that were not given.
    """

    payload: bytes
    signed_by: tuple[str, ...]
    bad: tuple[str, ...]
    unchecked: tuple[str, ...]


class EnvelopeError(ValueError):
    """A file is not a DSSE envelope as bi-harness writes them; the message says in what."""


def new_key(path: Path) -> str:
    """Make a key pair: ``path`` (PKCS #8, mode 600) and ``path.pub`` (SubjectPublicKeyInfo), both PEM.

    Returns:
        The key's id.

    Raises:
        UsageError: a file of that name is there, or cannot be made. Nothing is ever overwritten.
    """
    public_path = path.with_name(path.name + ".pub")
    signer = CryptoSigner.generate_ed25519()
    private = _private(signer)
    pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    made: list[Path] = []
    try:
        for place, content, mode in ((path, signer.private_bytes, 0o600), (public_path, pem, 0o644)):
            # O_EXCL also refuses a link that somebody put there.
            descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            made.append(place)
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(file.fileno(), mode)  # whatever the umask is
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        for place in made:
            place.unlink(missing_ok=True)
        if isinstance(error, FileExistsError):
            raise UsageError(f"{error.filename} is there already, and a key is never overwritten") from error
        raise UsageError(f"cannot make the key {path}: {error.strerror or error}") from error
    return str(signer.public_key.keyid)


def load_signing_key(path: Path) -> CryptoSigner:
    """The private key of a file.

    Raises:
        UsageError: it is not there, others may read it, or it is no ed25519 key in PEM without a password.
    """
    data = _read(path, "signing key")
    mode = path.stat().st_mode
    if stat.S_IMODE(mode) & 0o077:
        raise UsageError(
            f"the signing key {path} can be read or changed by others (mode {stat.S_IMODE(mode):03o}). "
            f"What to do: chmod 600 {path}, and make a new key if somebody may have read it"
        )
    try:
        key = load_pem_private_key(data, None)
    except TypeError as error:
        raise UsageError(
            f"the signing key {path} has a password, and bi-harness cannot ask for it. "
            "What to do: make one with `bi-harness key new`"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        public = " (it is the public one)" if b"PUBLIC KEY" in data else ""
        raise UsageError(
            f"{path} is no private key in PEM{public}. What to do: make one with `bi-harness key new`"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(
            f"the signing key {path} is not of the type ed25519. What to do: make one with "
            "`bi-harness key new`"
        )
    return CryptoSigner(key)


def load_public_key(path: Path) -> SSlibKey:
    """The public key of a file.

    Raises:
        UsageError: it is not there, or is no public ed25519 key in PEM.
    """
    data = _read(path, "key")
    if b"PRIVATE KEY" in data:
        raise UsageError(f"{path} is a private key. What to do: give the public one, {path.name}.pub")
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(
            f"{path} is no public key in PEM. What to do: give the .pub file of `bi-harness key new`"
        ) from error
    if not isinstance(key, Ed25519PublicKey):
        raise UsageError(f"the key {path} is not of the type ed25519")
    return SSlibKey.from_crypto(key)


def seal(payload: bytes, signer: CryptoSigner) -> bytes:
    """The file of a DSSE envelope around ``payload``, signed."""
    envelope = Envelope(payload, PAYLOAD_TYPE, {})
    envelope.sign(signer)
    return _file_text(envelope)


def open_envelope(data: bytes, keys: Sequence[Key] = ()) -> Sealed:
    """What an envelope's file holds, and which of ``keys`` signed it.

    Raises:
        EnvelopeError: it is no envelope with an in-toto payload, or not spelled as ``seal`` does: base64 and
            JSON have many spellings of the same content, and a changed byte must not hide in another one.
    """
    try:
        # Strict: base64 in text, no other keys; then once more by the library that also verifies.
        _EnvelopeFile.model_validate_json(data)
        envelope = Envelope.from_dict(json.loads(data))
    except ValidationError as error:
        raise EnvelopeError(f"not a DSSE envelope: {first_problem(error)}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise EnvelopeError(f"not a DSSE envelope: {error}") from error
    if _file_text(envelope) != data:
        raise EnvelopeError("not spelled as bi-harness writes envelopes: it was changed")
    good, bad = [], []
    given = {key.keyid: key for key in keys}
    for keyid, signature in envelope.signatures.items():
        if keyid not in given:
            continue
        try:
            given[keyid].verify_signature(signature, envelope.pae())
            good.append(keyid)
        except UnverifiedSignatureError:
            bad.append(keyid)
    unchecked = tuple(keyid for keyid in envelope.signatures if keyid not in given)
    return Sealed(envelope.payload, tuple(good), tuple(bad), unchecked)


def _file_text(envelope: Envelope) -> bytes:
    return (json.dumps(envelope.to_dict(), indent=2) + "\n").encode()


def _private(signer: CryptoSigner) -> Ed25519PrivateKey:
    key = load_pem_private_key(signer.private_bytes, None)
    assert isinstance(key, Ed25519PrivateKey)
    return key


def _read(path: Path, what: str) -> bytes:
    try:
        data = read_bounded(path, _KEY_BYTES)
    except (NotRegular, IsADirectoryError) as error:
        raise UsageError(f"the {what} {path} is not a file") from error
    except (OSError, ValueError) as error:
        raise UsageError(
            f"cannot read the {what} {path}: {getattr(error, 'strerror', None) or error}"
        ) from error
    if len(data) > _KEY_BYTES:
        raise UsageError(f"the {what} {path} is no key: it is larger than {_KEY_BYTES // 1024} KiB")
    return data
