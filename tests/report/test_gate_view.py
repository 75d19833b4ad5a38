"""The gate's page and cases: whole, and safe from what they show."""

from __future__ import annotations

from xml.etree import ElementTree

from bi_harness.certificate.gate import CertificateSeen, GateResult, RequirementSeen
from bi_harness.report.gate_view import gate_junit, gate_lines, gate_markdown, headline

from . import samples

NASTY = f"{samples.HOSTILE}{samples.ANSI}\n| x | <script>alert(1)</script>"


def hostile() -> GateResult:
    return GateResult(
        policy="sha256:" + "0" * 64,
        now="2026-01-15T09:00:00Z",
        passed=False,
        requirements=(
            RequirementSeen(id="a/b", state="met", met_by=(NASTY,)),
            RequirementSeen(id=NASTY, state="failed", why=(NASTY,), would_meet=NASTY),
            RequirementSeen(id="c", state="inconclusive", why=("x" * 10**6,)),
        ),
        certificates=(
            CertificateSeen(place=NASTY, genuine=True, counts=False, verdict=NASTY, vllm=NASTY, why=(NASTY,)),
        ),
        problems=(NASTY,),
    )


def test_no_text_gets_out_of_its_place() -> None:
    page = gate_markdown(hostile())
    assert "<script" not in page.replace("\\<script", "")
    assert "\x1b" not in page
    assert all(line.count("|") >= 4 for line in page.splitlines() if line.startswith("|"))
    lines = list(gate_lines(hostile()))
    assert not any("\x1b" in line or "\n" in line for line in lines)
    assert lines[-1] == "The gate is CLOSED: 1 of 3 requirements met, 1 certificate not genuine"
    assert len(page) < 20_000


def test_every_case_that_is_not_met_is_a_failure() -> None:
    document = ElementTree.fromstring(gate_junit(hostile()))
    assert (document.get("tests"), document.get("failures")) == ("4", "3")
    none = hostile().model_copy(update={"requirements": (), "certificates": (), "problems": ()})
    assert ElementTree.fromstring(gate_junit(none)).get("failures") == "1"
    assert "CLOSED" in headline(none)


def test_the_same_bytes_again() -> None:
    assert gate_junit(hostile()) == gate_junit(hostile())


def test_places_that_were_not_read_are_shown_apart_from_certificates() -> None:
    place = f"reports/h200: a link {NASTY}"
    result = hostile().model_copy(update={"problems": (NASTY, place), "unread": (place,)})
    lines = list(gate_lines(result))
    assert lines[-1] == (
        "The gate is CLOSED: 1 of 3 requirements met, 1 certificate not genuine, 1 place not read"
    )
    assert [line for line in lines if line.startswith("✗ not read: reports/h200: a link")]
    assert not any("\x1b" in line or "\n" in line for line in lines)
    page = gate_markdown(result)
    assert page.count("reports/h200") == 1
    assert "### Not read" in page
    assert "<script" not in page.replace("\\<script", "")
    document = ElementTree.fromstring(gate_junit(result))
    assert (document.get("tests"), document.get("failures")) == ("5", "4")
    alone = result.model_copy(update={"problems": (place,)})
    assert "not genuine" not in headline(alone)
