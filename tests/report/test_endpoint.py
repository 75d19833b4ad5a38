"""The verdict on an endpoint is never shown without what was not verified."""

from __future__ import annotations

import io
import shlex
from xml.etree import ElementTree

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from bi_harness.certificate.statement import EndpointScope, Scope, Statement
from bi_harness.report import facts
from bi_harness.report.console import print_result
from bi_harness.report.html import render_html
from bi_harness.report.junit import render_junit
from bi_harness.report.markdown import render_markdown
from bi_harness.report.parquet import render_parquet
from bi_harness.report.reproduce import reproduce_command

from . import samples

URL = "http://127.0.0.1:8000"
LINE = f"(endpoint {URL}: invariance mode and configuration not verified by bi-harness)"


def at(url: str = URL, control: str | None = None, name: str = "certified_cpu") -> Statement:
    found = samples.ALL[name]()
    ours = found.predicate.bi_harness
    scope = Scope(**{**dict(ours.scope), "endpoint": EndpointScope(url=url, control=control)})
    ours = ours.model_copy(update={"scope": scope})
    return found.model_copy(update={"predicate": found.predicate.model_copy(update={"bi_harness": ours})})


@pytest.mark.parametrize("name", ["certified_cpu", "failing_h200", "mixed"])
def test_every_report_has_it_in_the_verdict_line(name: str) -> None:
    statement = at(name=name)
    words = facts.VERDICT_WORDS[statement.predicate.bi_harness.verdict]
    if name == "mixed":
        words += ", 1 check waived: not passed"
    assert facts.verdict_line(statement) == f"{words} {LINE}"
    assert f"<h1>{words} {LINE}</h1>" in render_html(statement)
    heading = render_markdown(statement).splitlines()[0]
    assert words in heading
    assert "not verified by bi-harness" in heading
    root = ElementTree.fromstring(render_junit(statement))
    values = {p.get("value") for p in root.iter("property") if p.get("name") == "verdict_line"}
    assert values == {f"{words} {LINE}"}
    stream = io.StringIO()
    print_result(statement, Console(file=stream, width=300))
    assert f"{words} {LINE}" in stream.getvalue()


def test_others_have_the_word_alone() -> None:
    plain = samples.certified_cpu()
    assert facts.verdict_line(plain) == "CERTIFIED"
    assert b"verdict_line" not in render_junit(plain)


def test_what_the_report_says_of_the_rest_is_the_controls() -> None:
    (caveat,) = [line for line in facts.caveats(at()) if line.startswith("Not verified")]
    assert "a server that bi-harness started with invariance off" in caveat
    assert "http://h:1" in "".join(facts.caveats(at(control="http://h:1")))


def test_the_command_that_runs_it_again_asks_the_same_servers() -> None:
    statement = at("http://h/$(rm -rf)", "http://h:1")
    check = statement.predicate.bi_harness.checks[0]
    words = shlex.split(reproduce_command(statement, check))
    assert words[words.index("--endpoint") + 1] == "http://h/$(rm -rf)"
    assert words[words.index("--control-endpoint") + 1] == "http://h:1"


def test_a_row_names_the_endpoint() -> None:
    def endpoints(statement: Statement) -> set[str | None]:
        return set(pq.read_table(io.BytesIO(render_parquet(statement)))["endpoint"].to_pylist())

    assert endpoints(at()) == {URL}
    assert endpoints(samples.certified_cpu()) == {None}
