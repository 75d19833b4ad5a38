"use strict";
(() => {
  // Every text of the data goes into the page as text (textContent) or as an attribute's value, never as markup.
  const $ = (id) => document.getElementById(id);
  const D = JSON.parse($("fleet").textContent);
  const WORD = { f: "fail", e: "error", i: "inconclusive", w: "waived", k: "part passed", s: "skip", p: "pass", ".": "missing" };
  const MARK = { f: "✗", e: "!", i: "?", w: "≈", k: "◐", s: "–", p: "✓", ".": "·" };
  const KIND = { f: "fail", e: "error", i: "inconclusive", w: "waived", k: "part", s: "skip", p: "pass", ".": "missing" };
  const ORDER = "feiwkps.";
  const N = D.nights;
  const INFO = new Map(Object.entries(D.info)), VERSIONS = new Map(Object.entries(D.versions));
  const DAY = 86400000;
  const first = N ? Date.parse(D.first + "T00:00:00Z") : 0;
  const night = (i) => new Date(first + i * DAY).toISOString().slice(0, 10);
  const MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(" ");

  const unpack = (text) => {
    let out = "", count = "";
    for (const c of text) {
      if (c >= "0" && c <= "9") count += c;
      else { out += c.repeat(count ? Number(count) : 1); count = ""; }
    }
    return out;
  };
  const cells = D.cells.map((c, index) => {
    const [d, m, b, p, o, s, v, page, packed, since] = c;
    // The last answer, and how many nights ago: all of the nights are unpacked where they are shown.
    const [, now, behind] = packed.match(/([a-z])(?:(\d*)\.)?$/);
    const age = behind === undefined ? 0 : Number(behind || 1);
    const one = {
      index, page, since, now, age,
      get nights() { return (this.unpacked ??= unpack(packed)); },
      device: D.devices[d], model: D.models[m], backend: D.backends[b], par: D.parallels[p],
      mode: D.modes[o], suite: D.suites[s], variant: D.variants[v],
    };
    one.stale = one.age > D.stale;
    one.text = [one.device, one.model, one.backend, one.par, one.mode, one.suite, one.variant].join(" ").toLowerCase();
    return one;
  });

  // ---- what is asked for, kept in the address
  const FIELDS = ["device", "model", "backend", "mode", "suite"];
  const want = { q: "", status: "", sort: "name", nights: "" };
  for (const name of FIELDS) want[name] = "";
  const spans = [...new Set([30, 90, 180, N].filter((n) => n > 0 && n <= N))];
  let span = N;
  const natural = () => (innerWidth <= 760 ? Math.min(30, N) : innerWidth <= 1100 ? Math.min(90, N) : N);

  const fill = (select, values) => {
    for (const value of values) {
      const option = document.createElement("option");
      option.value = value;
      option.textContent = value || "(none)";
      select.append(option);
    }
  };
  for (const name of FIELDS) fill($("f-" + name), [...new Set(cells.map((c) => c[name]))].filter(Boolean).sort());
  for (const n of spans) {
    const option = document.createElement("option");
    option.value = String(n);
    option.textContent = n === N ? "all " + n : "last " + n;
    $("f-nights").append(option);
  }
  const is = {
    stale: (c) => c.stale,
    "not good": (c) => c.stale || !"ps".includes(c.now),
  };
  for (const k of ORDER) if (k !== ".") is[WORD[k]] = (c) => c.now === k && !(k === "p" && c.stale);

  const readHash = () => {
    const text = location.hash.slice(1);
    const found = text.includes("=") ? new URLSearchParams(text) : new URLSearchParams();
    if (text && !text.includes("=")) return false;
    for (const name of FIELDS) want[name] = [...$("f-" + name).options].some((o) => o.value === found.get(name)) ? found.get(name) : "";
    want.q = (found.get("q") || "").slice(0, 200);
    want.status = Object.hasOwn(is, found.get("status") || "") ? found.get("status") : "";
    want.sort = ["name", "now", "since", "age"].includes(found.get("sort")) ? found.get("sort") : "name";
    want.nights = spans.includes(Number(found.get("nights"))) ? found.get("nights") : "";
    return true;
  };
  const writeHash = () => {
    const text = new URLSearchParams();
    for (const name of [...FIELDS, "q", "status", "sort", "nights"])
      if (want[name] && !(name === "sort" && want.sort === "name")) text.set(name, want[name]);
    const next = text.toString();
    if (next !== location.hash.slice(1)) history.replaceState(null, "", next ? "#" + next : location.pathname.split("/").pop() || "#");
  };

  // ---- what is shown
  let entries = [], tops = [0], shownCells = [];
  const phone = matchMedia("(max-width: 760px)");
  const heights = () => (phone.matches ? [66, 82] : [26, 54]);
  const SORT = {
    name: () => 0,
    now: (a, b) => ORDER.indexOf(a.now) - ORDER.indexOf(b.now),
    since: (a, b) => (b.since ?? -1) - (a.since ?? -1),
    age: (a, b) => b.age - a.age,
  };
  const select = () => {
    const words = want.q.toLowerCase().split(/\s+/).filter(Boolean);
    const base = cells.filter((c) => FIELDS.every((f) => !want[f] || c[f] === want[f]) && words.every((w) => c.text.includes(w)));
    chips(base);
    shownCells = want.status ? base.filter(is[want.status]) : base;
    const groups = new Map();
    for (const c of shownCells) (groups.get(c.device) ?? groups.set(c.device, []).get(c.device)).push(c);
    entries = [];
    for (const [device, list] of groups) {
      list.sort((a, b) => SORT[want.sort](a, b) || a.index - b.index);
      entries.push({ group: device, list });
      for (const c of list) entries.push({ cell: c });
    }
    span = Number(want.nights) || natural();
    const all = `${cells.length.toLocaleString("en")} cells, ${span} ${span === 1 ? "night" : "nights"}`;
    $("count").textContent = shownCells.length === cells.length ? all : `${shownCells.length.toLocaleString("en")} of ${all}`;
    $("grid").setAttribute("aria-rowcount", String(entries.length + 1));
    active = Math.min(active, Math.max(0, entries.length - 1));
    layout();
  };
  const chips = (base) => {
    const box = $("chips");
    box.textContent = "";
    for (const name of ["not good", ...[...ORDER].filter((k) => k !== ".").map((k) => WORD[k]), "stale"]) {
      const count = base.filter(is[name]).length;
      if (!count && want.status !== name) continue;
      const letter = Object.keys(WORD).find((k) => WORD[k] === name);
      const button = document.createElement("button");
      button.type = "button";
      button.className = "st st-" + (letter ? KIND[letter] : name === "stale" ? "stale" : "skip");
      button.setAttribute("aria-pressed", String(want.status === name));
      const sy = document.createElement("span");
      sy.className = "sy";
      sy.setAttribute("aria-hidden", "true");
      sy.textContent = letter ? MARK[letter] : name === "stale" ? "○" : "≠";
      button.append(sy, ` ${name} ${count.toLocaleString("en")}`);
      button.addEventListener("click", () => {
        want.status = want.status === name ? "" : name;
        changed();
        [...box.children].find((b) => b.textContent.includes(name))?.focus();
      });
      box.append(button);
    }
  };
  const layout = () => {
    const [row, group] = heights();
    tops = [0];
    for (const e of entries) tops.push(tops[tops.length - 1] + (e.group !== undefined ? group : row));
    sizer.style.height = tops[tops.length - 1] + "px";
    for (const el of drawn.values()) el.remove();
    drawn.clear();
    axis();
    draw();
  };

  const NS = "http://www.w3.org/2000/svg";
  // Height and place tell the state as the colour does.
  const SHAPE = { p: [[5, 6]], k: [[5, 2], [9, 2]], f: [[0, 16]], e: [[0, 6], [10, 6]], i: [[9, 7]], w: [[2, 5], [9, 5]], s: [[7, 2]] };
  const strip = (nights, from) => {
    const svg = document.createElementNS(NS, "svg");
    svg.setAttribute("class", "strip");
    svg.setAttribute("viewBox", `0 0 ${N - from} 16`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    const paths = {};
    for (let i = from; i < N; ) {
      const c = nights[i];
      let j = i + 1;
      while (j < N && nights[j] === c) j += 1;
      for (const [y, h] of SHAPE[c] || []) paths[c] = (paths[c] || "") + `M${i - from} ${y}h${j - i}v${h}h${i - j}z`;
      i = j;
    }
    for (const [c, d] of Object.entries(paths)) {
      const path = document.createElementNS(NS, "path");
      path.setAttribute("class", c);
      path.setAttribute("d", d);
      svg.append(path);
    }
    return svg;
  };
  const div = (cls, role) => {
    const el = document.createElement("div");
    if (cls) el.className = cls;
    if (role) el.setAttribute("role", role);
    return el;
  };
  const cellOf = (cls, text) => {
    const el = div(cls, "gridcell");
    if (text !== undefined) { el.textContent = text; el.title = text; }
    return el;
  };
  const tally = (nights, from) => {
    const counts = {};
    for (let i = from; i < N; i += 1) counts[nights[i]] = (counts[nights[i]] || 0) + 1;
    return [...ORDER].filter((k) => counts[k]).map((k) => `${counts[k]} ${WORD[k]}`).join(", ");
  };
  const makeRow = (c) => {
    const el = div("g-row" + (c.stale ? " stale" : ""), "row");
    const name = cellOf("c-name");
    const link = document.createElement("a");
    link.href = "cells/" + c.page;
    link.tabIndex = -1;
    link.textContent = c.model;
    link.title = c.variant ? `${c.model} (${c.variant})` : c.model;
    name.append(link);
    if (c.variant) {
      const tag = document.createElement("span");
      tag.className = "tag";
      tag.textContent = " " + c.variant;
      name.append(tag);
    }
    const now = cellOf("c-now st st-" + (c.stale ? "stale" : KIND[c.now]));
    const sy = document.createElement("span");
    sy.className = "sy";
    sy.setAttribute("aria-hidden", "true");
    sy.textContent = c.stale ? "○" : MARK[c.now];
    now.append(sy, c.stale ? ` stale, ${WORD[c.now]}` : " " + WORD[c.now]);
    const line = cellOf("c-strip");
    line.setAttribute("aria-label", tally(c.nights, N - span));
    line.append(strip(c.nights, N - span));
    el.append(name, cellOf("c-back", c.backend), cellOf("c-par", c.par), cellOf("c-mode", c.mode), cellOf("c-suite", c.suite), now,
      cellOf("c-since", c.since === null ? "" : night(c.since)), line);
    return el;
  };
  const makeGroup = (e) => {
    const el = div("g-row g-group", "row");
    const name = div("g-name", "gridcell");
    name.setAttribute("aria-colspan", "7");
    const b = document.createElement("b");
    b.textContent = e.group || "(no device)";
    const good = e.list.filter((c) => c.now === "p" && !c.stale).length;
    const note = document.createElement("span");
    note.className = "muted";
    note.textContent = `${good} of ${e.list.length} pass`;
    const info = INFO.get(e.group);
    const verdict = document.createElement("span");
    if (info) { verdict.className = "st st-" + info[1]; verdict.textContent = `${info[0]} ${info[2]}`; }
    name.append(b, verdict, note);
    const lanes = div("lanes", "gridcell");
    const told = [];
    ["vLLM", "torch", "bi-harness"].forEach((what, lane) => {
      const line = div("lane");
      let label = "";
      for (const [at, count, text] of (VERSIONS.get(e.group) || [[], [], []])[lane]) {
        const from = Math.max(at, N - span), to = at + count;
        if (to <= N - span) continue;
        const s = document.createElement("span");
        s.style.left = `${(100 * (from - N + span)) / span}%`;
        s.style.width = `${(100 * (to - from)) / span}%`;
        s.textContent = `${what} ${text}`;
        s.title = `${what} ${text} from ${night(at)}`;
        line.append(s);
        label += ` ${what} ${text} from ${night(at)};`;
      }
      told.push(label);
      line.setAttribute("aria-hidden", "true");
      lanes.append(line);
    });
    lanes.setAttribute("aria-label", "Versions:" + told.join(""));
    el.append(name, lanes);
    return el;
  };
  const axis = () => {
    const box = $("axis");
    box.textContent = "";
    const from = N - span;
    const minimum = Math.max(1, Math.ceil((span * 56) / Math.max(120, box.clientWidth || 400)));
    let before = -1e9;
    for (let i = from; i < N; i += 1) {
      const date = night(i);
      const start = date.endsWith("-01") || (span <= 62 && (i - from) % 7 === 0);
      if (!(start || i === from) || i - before < minimum || (span > 62 && i !== from && i - from < minimum)) continue;
      if (span - (i - from) < minimum && i !== from) continue;
      before = i;
      const s = document.createElement("span");
      s.style.left = `${(100 * (i - from)) / span}%`;
      const month = MONTHS[Number(date.slice(5, 7)) - 1];
      s.textContent = span <= 62 || i === from ? `${Number(date.slice(8))} ${month}` : date.slice(5, 7) === "01" ? date.slice(0, 4) : month;
      box.append(s);
    }
  };

  // ---- only the rows in sight are in the page
  const view = $("view");
  const sizer = div("", "presentation");
  sizer.id = "sizer";
  const cursor = div("");
  cursor.id = "cursor";
  cursor.hidden = true;
  view.append(sizer);
  sizer.append(cursor);
  const drawn = new Map();
  let active = 0, at = -1, printing = false;
  const find = (y) => {
    let low = 0, high = entries.length;
    while (low < high) { const mid = (low + high) >> 1; if (tops[mid + 1] <= y) low = mid + 1; else high = mid; }
    return low;
  };
  const draw = () => {
    const height = view.clientHeight || 600;
    const low = printing ? 0 : Math.max(0, find(view.scrollTop) - 6);
    const high = printing ? Math.min(entries.length, 400) : Math.min(entries.length, find(view.scrollTop + height) + 7);
    for (const [i, el] of drawn) if ((i < low || i >= high) && el !== document.activeElement) { el.remove(); drawn.delete(i); }
    let previous = cursor;
    for (let i = low; i < high; i += 1) {
      let el = drawn.get(i);
      if (!el) {
        const e = entries[i];
        el = e.group !== undefined ? makeGroup(e) : makeRow(e.cell);
        el.dataset.i = String(i);
        el.setAttribute("aria-rowindex", String(i + 2));
        el.style.transform = `translateY(${tops[i]}px)`;
        drawn.set(i, el);
        previous.after(el);
      }
      el.tabIndex = i === active ? 0 : -1;
      previous = el;
    }
    if (entries.length && !drawn.has(active)) { const el = drawn.get(low); if (el) el.tabIndex = 0; }
  };
  let waiting = false;
  view.addEventListener("scroll", () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; draw(); });
  }, { passive: true });

  const told = (e, i) => {
    if (!e || i < 0) return;
    const versions = (VERSIONS.get(e.group ?? e.cell.device) || [[], [], []]).map((lane, n) => {
      const hit = lane.find(([from, count]) => i >= from && i < from + count);
      return hit ? `${["vLLM", "torch", "bi-harness"][n]} ${hit[2]}` : "";
    }).filter(Boolean).join(", ");
    const c = e.cell;
    $("detail").textContent = c
      ? `${night(i)} · ${MARK[c.nights[i]]} ${WORD[c.nights[i]]} · ${c.model} ${c.backend} ${c.par} ${c.mode} ${c.suite}${c.nights[i] === "." ? "" : versions ? " · " + versions : ""}`
      : `${night(i)} · ${e.group}${versions ? " · " + versions : " · no report"}`;
  };
  const point = (i) => {
    at = i;
    const line = view.querySelector(".strip, .lanes");
    cursor.hidden = i < 0 || !line;
    if (cursor.hidden) return;
    const box = line.getBoundingClientRect(), outer = sizer.getBoundingClientRect();
    cursor.style.left = `${box.left - outer.left + ((i - N + span + 0.5) / span) * box.width}px`;
  };
  view.addEventListener("pointermove", (event) => {
    const line = event.target.closest?.(".c-strip, .lanes");
    const row = event.target.closest?.(".g-row");
    if (!line || !row) return;
    const box = line.getBoundingClientRect();
    const i = N - span + Math.min(span - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * span)));
    point(i);
    told(entries[Number(row.dataset.i)], i);
  });
  view.addEventListener("focusin", (event) => {
    const row = event.target.closest?.(".g-row");
    if (row && Number(row.dataset.i) !== active) {
      const before = drawn.get(active);
      if (before) before.tabIndex = -1;
      active = Number(row.dataset.i);
      row.tabIndex = 0;
    }
  });
  const go = (i) => {
    const before = drawn.get(active);
    if (before) before.tabIndex = -1;
    active = Math.min(entries.length - 1, Math.max(0, i));
    const top = tops[active], bottom = tops[active + 1];
    if (top < view.scrollTop) view.scrollTop = top;
    else if (bottom > view.scrollTop + view.clientHeight) view.scrollTop = bottom - view.clientHeight;
    draw();
    drawn.get(active)?.focus({ preventScroll: true });
  };
  view.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || !entries.length) return;
    const page = Math.max(1, Math.floor(view.clientHeight / heights()[0]) - 1);
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page };
    if (event.key in moves) go(active + moves[event.key]);
    else if (event.key === "Home") go(0);
    else if (event.key === "End") go(entries.length - 1);
    else if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      const next = at < 0 ? N - 1 : Math.min(N - 1, Math.max(N - span, at + (event.key === "ArrowLeft" ? -1 : 1)));
      point(next);
      told(entries[active], next);
    } else if (event.key === "Enter" && event.target.tagName !== "A") drawn.get(active)?.querySelector("a")?.click();
    else return;
    event.preventDefault();
  });

  // ---- controls
  const show = () => {
    for (const name of [...FIELDS, "q", "sort"]) $("f-" + name).value = want[name];
    $("f-nights").value = String(Number(want.nights) || natural());
    for (const head of document.querySelectorAll("#g-head [data-sort]")) {
      if (head.dataset.sort === want.sort) head.setAttribute("aria-sort", want.sort === "name" ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    }
  };
  const changed = () => { writeHash(); show(); view.scrollTop = 0; active = 0; select(); };
  for (const name of [...FIELDS, "sort", "nights"]) $("f-" + name).addEventListener("change", (event) => {
    want[name] = event.target.value;
    at = -1; cursor.hidden = true;
    changed();
  });
  let typing = 0;
  $("f-q").addEventListener("input", (event) => {
    clearTimeout(typing);
    typing = setTimeout(() => { want.q = event.target.value.slice(0, 200); changed(); }, 60);
  });
  $("tools").addEventListener("submit", (event) => event.preventDefault());
  $("f-clear").addEventListener("click", () => {
    for (const name of Object.keys(want)) want[name] = name === "sort" ? "name" : "";
    changed();
  });
  for (const head of document.querySelectorAll("#g-head [data-sort]"))
    head.firstElementChild.addEventListener("click", () => { want.sort = head.dataset.sort; changed(); });
  addEventListener("hashchange", () => { if (readHash()) { show(); select(); } });
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; show(); select(); } });
  addEventListener("beforeprint", () => { printing = true; draw(); });
  addEventListener("afterprint", () => { printing = false; layout(); });

  readHash();
  show();
  select();
  document.documentElement.dataset.ready = "1";
  performance.mark("grid-shown");
})();
