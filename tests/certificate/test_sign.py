"""Keys and envelopes: what is written, and what is refused."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from bi_harness.certificate.sign import (
    PAYLOAD_TYPE,
    EnvelopeError,
    load_public_key,
    load_signing_key,
    new_key,
    open_envelope,
    seal,
)
from bi_harness.errors import UsageError
from tests.certificate.runs import KEY, OTHER, SIGNER

PAYLOAD = b'{"_type": "https://in-toto.io/Statement/v1"}'


def test_a_new_key_signs_and_its_public_half_verifies(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        keyid = new_key(tmp_path / "k.pem")
    finally:
        os.umask(before)
    assert (tmp_path / "k.pem").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "k.pem.pub").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "k.pem").read_text().startswith("-----BEGIN PRIVATE KEY-----")
    assert (tmp_path / "k.pem.pub").read_text().startswith("-----BEGIN PUBLIC KEY-----")
    signer, public = load_signing_key(tmp_path / "k.pem"), load_public_key(tmp_path / "k.pem.pub")
    assert keyid == public.keyid == signer.public_key.keyid
    found = open_envelope(seal(PAYLOAD, signer), [public])
    assert (found.payload, found.signed_by, found.bad, found.unchecked) == (PAYLOAD, (keyid,), (), ())


@pytest.mark.parametrize("there", ["k.pem", "k.pem.pub"])
def test_a_key_is_never_overwritten(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("dear")
    with pytest.raises(UsageError, match=f"{there} is there already"):
        new_key(tmp_path / "k.pem")
    assert [p.name for p in tmp_path.iterdir()] == [there], "no half of a pair is left"
    assert (tmp_path / there).read_text() == "dear"


def test_a_link_is_not_followed_and_a_folder_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "k.pem").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="is there already"):
        new_key(tmp_path / "k.pem")
    assert not (tmp_path / "elsewhere").exists()
    with pytest.raises(UsageError, match="No such file"):
        new_key(tmp_path / "nowhere" / "k.pem")


def other_type(path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


def with_password(path: Path) -> None:
    encryption = serialization.BestAvailableEncryption(b"secret")
    key = serialization.load_pem_private_key(SIGNER.private_bytes, None)
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    )


BAD_KEYS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "cannot read the signing key"),
    "a folder": (lambda path: path.mkdir(), "is not a file"),
    "a pipe": (lambda path: os.mkfifo(path), "is not a file"),
    "empty": (lambda path: path.touch(), "no private key in PEM"),
    "the public one": (
        lambda path: path.write_text("-----BEGIN PUBLIC KEY-----\n"),
        "it is the public one",
    ),
    "huge": (lambda path: path.write_bytes(b"x" * 100_000), "larger than 64 KiB"),
    "another type": (other_type, "not of the type ed25519"),
    "a password": (with_password, "has a password"),
}


@pytest.mark.parametrize(("make", "message"), BAD_KEYS.values(), ids=BAD_KEYS.keys())
def test_a_signing_key_that_is_none(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    path = tmp_path / "k.pem"
    make(path)
    if path.is_file():
        path.chmod(0o600)
    with pytest.raises(UsageError, match=message):
        load_signing_key(path)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610])
def test_a_signing_key_that_others_can_read(tmp_path: Path, mode: int) -> None:
    new_key(tmp_path / "k.pem")
    (tmp_path / "k.pem").chmod(mode)
    with pytest.raises(UsageError, match=f"mode {mode:o}"):
        load_signing_key(tmp_path / "k.pem")


def test_a_public_key_that_is_none(tmp_path: Path) -> None:
    new_key(tmp_path / "k.pem")
    with pytest.raises(UsageError, match=r"is a private key.*k\.pem\.pub"):
        load_public_key(tmp_path / "k.pem")
    (tmp_path / "x").write_text("nonsense")
    with pytest.raises(UsageError, match="no public key"):
        load_public_key(tmp_path / "x")
    (tmp_path / "ec").write_bytes(
        ec.generate_private_key(ec.SECP256R1())
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    with pytest.raises(UsageError, match="not of the type ed25519"):
        load_public_key(tmp_path / "ec")


def test_the_envelope_is_one_that_other_tools_read() -> None:
    data = json.loads(seal(PAYLOAD, SIGNER))
    assert data["payloadType"] == PAYLOAD_TYPE == "application/vnd.in-toto+json"
    assert base64.b64decode(data["payload"]) == PAYLOAD
    (signature,) = data["signatures"]
    # DSSE's pre-authentication encoding, written here anew.
    pae = b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(PAYLOAD), PAYLOAD)
    public = serialization.load_pem_private_key(SIGNER.private_bytes, None).public_key()
    public.verify(base64.b64decode(signature["sig"]), pae)  # type: ignore[union-attr, call-arg]


def test_the_key_of_another_signs_nothing() -> None:
    found = open_envelope(seal(PAYLOAD, OTHER), [KEY])
    assert (found.signed_by, found.bad, found.unchecked) == ((), (), (OTHER.public_key.keyid,))


def test_a_signature_of_other_content_is_bad() -> None:
    data, other = json.loads(seal(PAYLOAD, SIGNER)), json.loads(seal(b"{}", SIGNER))
    data["signatures"] = other["signatures"]
    found = open_envelope((json.dumps(data, indent=2) + "\n").encode(), [KEY])
    assert (found.signed_by, found.bad) == ((), (KEY.keyid,))


def edited(**changes: object) -> bytes:
    return (json.dumps({**json.loads(seal(PAYLOAD, SIGNER)), **changes}, indent=2) + "\n").encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        edited(payload=None),
        edited(payload="!!!"),
        edited(payloadType="text/plain"),
        edited(signatures=[]),
        edited(signatures=[{"keyid": "x", "sig": "AA=="}]),
        edited(signatures={}),
        edited(more=1),
        edited(signatures=json.loads(seal(PAYLOAD, SIGNER))["signatures"] * 2),
        seal(PAYLOAD, SIGNER) + b"\n",
        seal(PAYLOAD, SIGNER).replace(b"  ", b" "),
    ],
)
def test_what_is_no_envelope(data: bytes) -> None:
    with pytest.raises(EnvelopeError):
        open_envelope(data, [KEY])


@given(st.data())
def test_every_changed_byte_of_an_envelope_is_found(data: st.DataObject) -> None:
    sealed = bytearray(seal(PAYLOAD, SIGNER))
    place = data.draw(st.integers(0, len(sealed) - 1))
    sealed[place] ^= data.draw(st.integers(1, 255))
    try:
        found = open_envelope(bytes(sealed), [KEY])
    except EnvelopeError:
        return
    assert not found.signed_by
