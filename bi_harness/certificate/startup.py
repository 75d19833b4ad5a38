"""What a cold and a warm start counted, as facts with what they have to be. Pure decisions.

Two layers judge. The rules hold everywhere: a cold start saves something and loads nothing; a warm start
saves, compiles and builds nothing, and loads something; and the graphs that are compiled are far fewer than
the layers. The data (``expected.yaml``) adds what is known of a model on a release. A dated exception lets a
known defect pass by name, until its end. What neither knows is told, not judged.

The control of these facts is the same table with the two starts exchanged: what a start in a full cache
counts must not pass for one in an empty cache, nor the other way round. A table that reads the same either
way shows nothing (``facts_weakness``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from bi_harness.certificate.records import Fact
from bi_harness.spec.startup import NEVER_WARM, Count, StartException, StartExpectation, StartupFile, meets

ABSENT = "not counted"
FEW_GRAPHS = "<= layers / 2"
"""vLLM's own tests have 3 or 4 of 8 layers (tests/compile/h100/test_startup.py)."""

NAMED = 12
"""So many kernels are named in a fact."""

_RULES = "bi-harness"
_TORCH = ("aot_autograd", "inductor")


@dataclass(frozen=True, slots=True)
class CacheChange:
    """What a start left in its cache folder.

    Attributes:
        added, rewritten: files that were not there before, and those that were and are others now.
        kernels: those of both that are compiled code (shared objects, cubins).
        kernel_names: of these, with how often: ``bmm_kernel (5)``.
        retuned: kernels that Inductor tuned again and took another configuration of, with what changed. It
            goes by time: a reduction that is split otherwise adds up in another order, and has other bits.
    """

    added: int
    rewritten: int
    kernels: int
    kernel_names: tuple[str, ...] = ()
    retuned: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StartFound:
    """One start, as its engine and its cache tell of it.

    Attributes:
        counters: by name, of each rank: vLLM's own, torch's as ``aot_autograd.total``.
        layers: of the model.
        cache: what it left in the cache.
        start_s: seconds from the process's start until it was ready.
        settings: what decides what is saved, as the engine reads it, by variable; empty where unknown.
    """

    counters: Mapping[str, tuple[int, ...]]
    layers: int
    cache: CacheChange
    start_s: float
    settings: Mapping[str, bool] = field(default_factory=dict)

    @staticmethod
    def of(ranks: Sequence[Mapping[str, Any]], cache: CacheChange, start_s: float) -> StartFound:
        """From what the ranks of an engine answered, see ``engine.startup_counters``.

        Raises:
            ValueError: no rank, or an answer that is none.
        """
        try:
            flat = [_flat(rank) for rank in ranks]
            layers = {int(rank["layers"]) for rank in ranks}
            settings = [dict(rank.get("settings", {})) for rank in ranks]
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not the counters of a start: {type(error).__name__}: {error}") from error
        if len(layers) != 1:
            raise ValueError(f"the ranks have models of {sorted(layers)} layers")
        if any(rank != settings[0] for rank in settings):
            raise ValueError(f"the ranks read different settings: {settings}")
        names = dict.fromkeys(name for rank in flat for name in rank)
        counters = {name: tuple(rank.get(name, 0) for rank in flat) for name in names}
        return StartFound(counters, layers.pop(), cache, start_s, settings[0])

    def ranks(self, name: str) -> tuple[int, ...] | None:
        """The counter of each rank; ``None`` for one that this release does not have.

        Beside vLLM's and torch's there are ``kernels_built`` (in the cache, of all ranks together) and
        ``unique_graphs``: graphs that were compiled rather than found, which Inductor counts; where it does
        not, whichever of AOTAutograd's misses and vLLM's artifacts counts more. (Without AOT compilation, as
        under batch invariance up to vLLM 0.25, each layer has an artifact, like ones too.)
        """
        if name == "kernels_built":
            return (self.cache.kernels,)
        if name == "unique_graphs":
            compiled = [self.counters.get(f"inductor.fxgraph_cache_{what}") for what in ("miss", "bypass")]
            if any(sum(counts or ()) for counts in compiled) or "inductor.fxgraph_cache_hit" in self.counters:
                nothing = (0,) * len(next(iter(self.counters.values())))
                return tuple(map(sum, zip(*(counts or nothing for counts in compiled), strict=True)))
            missed = self.ranks("aot_autograd.autograd_cache_miss") or ()
            saved = self.ranks("num_compiled_artifacts_saved") or (0,) * len(missed)
            return tuple(max(pair) for pair in zip(missed, saved, strict=True))
        found = self.counters.get(name)
        if found is None and name.partition(".")[0] in _TORCH and self.counters:
            # torch's counters have only what happened.
            return (0,) * len(next(iter(self.counters.values())))
        return found

    def text(self, name: str) -> str:
        """As a fact has it: one number where all ranks agree, else each rank's."""
        found = self.ranks(name)
        if found is None:
            return ABSENT
        return ", ".join(map(str, dict.fromkeys(found) if len(set(found)) == 1 else found))

    @property
    def loaded(self) -> tuple[str, ...]:
        """The counters of what was loaded from the cache."""
        return tuple(name for name in self.counters if name.endswith("_loaded"))

    @property
    def loads(self) -> int:
        """How much was taken from the cache, over all ranks."""
        return sum(sum(self.ranks(n) or ()) for n in (*self.loaded, "aot_autograd.autograd_cache_hit"))

    @property
    def saves(self) -> int:
        """How much was saved to it."""
        names = [name for name in self.counters if name.endswith("_saved")]
        return sum(sum(self.counters[name]) for name in names)


@dataclass(frozen=True, slots=True)
class StartRules:
    """What holds for one engine.

    Attributes:
        expectations: that hold for it.
        exceptions: that hold for it and are not over.
        expired: that would hold and are over.
    """

    expectations: Mapping[str, StartExpectation] = field(default_factory=dict)
    exceptions: Mapping[str, StartException] = field(default_factory=dict)
    expired: Mapping[str, StartException] = field(default_factory=dict)


def rules_for(file: StartupFile, *, vllm: str, torch: str, kind: str, model: str, today: date) -> StartRules:
    """What of the data holds for an engine.

    Args:
        vllm, torch: the releases, as the engine tells them.
        kind: the platform.
        model: id of ``models.yaml``.
        today: UTC.
    """
    where = {"vllm": vllm, "torch": torch, "kind": kind, "model": model}
    known = {name: entry for name, entry in file.exceptions.items() if entry.holds(**where)}
    return StartRules(
        {name: entry for name, entry in file.expectations.items() if entry.holds(**where)},
        {name: entry for name, entry in known.items() if not entry.expired(today)},
        {name: entry for name, entry in known.items() if entry.expired(today)},
    )


def start_facts(cold: StartFound, warm: StartFound, rules: StartRules) -> tuple[Fact, ...]:
    """The facts of both starts, each once. With ``cold`` and ``warm`` exchanged: the control's."""
    table = _Table()
    for exception in rules.exceptions:
        entry = rules.exceptions[exception]
        table.tell(f"exception {exception}", f"until {entry.until}: {entry.reason}", entry.source)
    for exception, entry in rules.expired.items():
        table.tell(f"exception {exception}", f"ended on {entry.until}: {entry.reason}", entry.source)
    _rules(table, cold, warm, rules)
    for name, expectation in rules.expectations.items():
        source = f"{name}: {expectation.source}"
        for when, start, wanted in (("cold", cold, expectation.cold), ("warm", warm, expectation.warm)):
            for counter, count in wanted.items():
                _expect(table, f"{when}: {counter}", start, counter, count, source)
    for counter in _told(cold, warm):
        table.tell(f"cold: {counter}", cold.text(counter))
        table.tell(f"warm: {counter}", warm.text(counter))
    for when, start in (("cold", cold), ("warm", warm)):
        table.tell(f"{when}: files added to the cache", str(start.cache.added))
        table.tell(f"{when}: files rewritten there", str(start.cache.rewritten))
    for when, start in (("cold", cold), ("warm", warm)):
        for variable, on in start.settings.items():
            table.tell(f"{when}: {variable}", "on" if on else "off")
    if warm.cache.kernel_names:
        table.tell("warm: names of the kernels built", _some(warm.cache.kernel_names))
    if warm.cache.retuned:
        source = "Inductor's .best_config files: it chooses by time, at each start that tunes"
        table.tell("warm: kernels tuned to another configuration", _some(warm.cache.retuned), source)
    table.tell("layers", str(cold.layers))
    return table.facts


def time_facts(cold: StartFound, warm: StartFound) -> tuple[Fact, ...]:
    """Both start times and their ratio, for a reader: they depend on what else the host does."""
    return (
        Fact(name="cold: start", found=f"{cold.start_s:.1f} s"),
        Fact(name="warm: start", found=f"{warm.start_s:.1f} s"),
        Fact(name="warm start / cold start", found=f"{warm.start_s / max(cold.start_s, 1e-9):.2f}"),
    )


def _rules(table: _Table, cold: StartFound, warm: StartFound, rules: StartRules) -> None:
    source = f"{_RULES}: a cold start finds an empty cache"
    for name in cold.loaded:
        table.judge(f"cold: {name}", cold.text(name), ("0",), source)
    table.judge("cold: saved something", _yes(cold.saves > 0), ("yes",), source)
    _expect(
        table,
        "cold: unique_graphs",
        cold,
        "unique_graphs",
        FEW_GRAPHS,
        f"{_RULES}: layers that are alike are compiled once (vLLM tests/compile/h100/test_startup.py)",
    )
    source = f"{_RULES}: a warm start takes what the cold one saved"
    for name in NEVER_WARM:
        if cold.ranks(name) is None and warm.ranks(name) is None:
            continue  # this release does not count it
        passing = [(n, e) for n, e in rules.exceptions.items() if name in e.warm]
        named = "".join(f"; exception {n} until {e.until}: {e.reason} ({e.source})" for n, e in passing)
        ended = "".join(
            f"; the exception {n} ended on {e.until}" for n, e in rules.expired.items() if name in e.warm
        )
        allowed = dict.fromkeys(e.warm[name] for _, e in passing)
        if comparisons := [count for count in allowed if isinstance(count, str)]:
            held = all(
                n == 0 or n in allowed or any(meets(n, c, warm.layers) for c in comparisons)
                for n in warm.ranks(name) or ()
            )
            what = ", or ".join(("0", *map(str, allowed)))
            table.judge(f"warm: {name} {what}", _yes(held), ("yes",), f"{source}{named}{ended}")
            continue
        expected = dict.fromkeys(("0", *map(str, allowed)))
        table.judge(f"warm: {name}", warm.text(name), tuple(expected), f"{source}{named}{ended}")
    free = [n for n, e in rules.exceptions.items() if e.loads_nothing]
    if free:
        table.tell("warm: loaded something", _yes(warm.loads > 0), f"{source}; exception {', '.join(free)}")
    else:
        table.judge("warm: loaded something", _yes(warm.loads > 0), ("yes",), source)


def _expect(table: _Table, name: str, start: StartFound, counter: str, count: Count, source: str) -> None:
    if isinstance(count, int):
        table.judge(name, start.text(counter), (str(count),), source)
        return
    # The number is told; what is judged is whether it meets the comparison, so that the control's number
    # is held against the comparison, too.
    found = start.ranks(counter)
    held = ABSENT if not found else _yes(all(meets(n, count, start.layers) for n in found))
    table.judge(f"{name} {count}", held, ("yes",), source)


def _told(*starts: StartFound) -> Iterable[str]:
    """Counters of which something is to be told: those that are not 0 everywhere."""
    names = dict.fromkeys(name for start in starts for name in start.counters)
    for name in (*names, "unique_graphs", "kernels_built"):
        if any(any(start.ranks(name) or ()) for start in starts):
            yield name


def _flat(rank: Mapping[str, Any]) -> dict[str, int]:
    groups = [("", rank["compilation"]), *((f"{name}.", rank[name]) for name in _TORCH)]
    return {f"{prefix}{name}": int(value) for prefix, group in groups for name, value in group.items()}


def _some(names: Sequence[str]) -> str:
    """The first few, and how many more: a fact is a line in a table."""
    shown = "; ".join(names[:NAMED])
    return f"{shown}; and {len(names) - NAMED} more" if len(names) > NAMED else shown


def _yes(held: bool) -> str:
    return "yes" if held else "no"


class _Table:
    """Facts by name. A rule comes first: data cannot make it milder, and a judged fact is not told again."""

    def __init__(self) -> None:
        self._facts: dict[str, Fact] = {}

    @property
    def facts(self) -> tuple[Fact, ...]:
        """Those that are judged first."""
        return tuple(sorted(self._facts.values(), key=lambda fact: not fact.judged))

    def judge(self, name: str, found: str, expected: tuple[str, ...], source: str) -> None:
        known = self._facts.get(name)
        if known is not None and known.judged:
            # Both hold: what is right is what is right by both.
            both = tuple(value for value in known.expected if value in expected)
            if not both:
                both = (f"{' or '.join(known.expected)} and {' or '.join(expected)}",)
            expected, source = both, f"{known.source}; {source}"
        self._facts[name] = Fact(name=name, found=found, expected=expected, source=source)

    def tell(self, name: str, found: str, source: str = "") -> None:
        self._facts.setdefault(name, Fact(name=name, found=found, source=source))
