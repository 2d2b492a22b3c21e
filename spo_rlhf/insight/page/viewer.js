"use strict";
// Everything that comes from a run is set as text, never as markup. An entry's tokens are unpacked when it is looked at.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const LIST_PART = 300;

function make(tag, options = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") node.textContent = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}
const number = (value, digits = 2) => (value === null || value === undefined ? "–" : Number(value).toFixed(digits).replace("-", "−"));
const signed = (value) => (value > 0 ? "+" : "") + number(value);
const short = (text, length) => (text.length > length ? text.slice(0, length - 1) + "…" : text);
const oneLine = (text) => text.replace(/\s+/g, " ").trim();

// ---- colours ----------------------------------------------------------------------------------------------------------------
const STEPS = 4;
function level(adv) {
  const size = Math.min(STEPS, Math.ceil((Math.abs(adv) / data.scale) * STEPS - 1e-9));
  return size < 1 ? "" : (adv > 0 ? "p" : "n") + size;
}
function legend() {
  const scale = make("span", { class: "scale", role: "img", "aria-label": `advantage from −${number(data.scale)} in orange over 0 without colour to +${number(data.scale)} in blue` });
  scale.append(make("span", { text: `−${number(data.scale)}` }));
  for (let step = STEPS; step >= 1; step--) scale.append(make("i", { class: "n" + step }));
  scale.append(make("i"));
  for (let step = 1; step <= STEPS; step++) scale.append(make("i", { class: "p" + step }));
  scale.append(make("span", { text: `+${number(data.scale)}` }));
  byId("legend").append(
    make("span", {}, make("b", { text: "advantage of a segment" })), scale,
    make("span", {}, make("span", { class: "border", text: "0.50" }), " border, with V"),
    make("span", {}, make("span", { class: "mono under", text: "bold" }), " under the loss, ", make("span", { class: "mono", text: "plain" }), " masked"),
    make("span", {}, make("span", { class: "hesitated", text: "dotted" }), " the policy hesitated"),
    make("span", { class: "soft", text: "keys: j k responses, ← → segments, / search, Esc" }),
  );
}

// ---- payloads ---------------------------------------------------------------------------------------------------------------
const unpacked = new Map();
async function rowsOf(index) {
  if (!unpacked.has(index)) {
    const bytes = Uint8Array.from(atob(byId("e" + index).textContent), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    unpacked.set(index, await new Response(stream).json());
    if (unpacked.size > 60) unpacked.delete(unpacked.keys().next().value);
  }
  return unpacked.get(index);
}

// ---- tooltip ----------------------------------------------------------------------------------------------------------------
const tip = byId("tip");
const facts = new WeakMap();
function showTip(node) {
  const rows = facts.get(node);
  if (!rows) return;
  tip.replaceChildren(make("table", {}, make("tbody", {}, ...rows.map(([name, value]) => make("tr", {}, make("th", { scope: "row", text: name }), make("td", { text: value }))))));
  tip.hidden = false;
  node.setAttribute("aria-describedby", "tip");
  const box = (node.getClientRects()[0] || node.getBoundingClientRect());
  const left = Math.max(8, Math.min(box.left, innerWidth - tip.offsetWidth - 8));
  const above = box.top - tip.offsetHeight - 8;
  tip.style.left = left + "px";
  tip.style.top = (above > 4 ? above : Math.min(box.bottom + 8, innerHeight - tip.offsetHeight - 4)) + "px";
}
function hideTip() {
  tip.hidden = true;
  for (const node of document.querySelectorAll("[aria-describedby=tip]")) node.removeAttribute("aria-describedby");
}
document.addEventListener("pointerover", (event) => {
  const node = event.target.closest?.(".seg, .border");
  if (node && facts.has(node)) showTip(node);
  else if (!document.activeElement?.classList.contains("seg")) hideTip();
});
document.addEventListener("focusin", (event) => (event.target.classList?.contains("seg") ? showTip(event.target) : hideTip()));
addEventListener("scroll", () => {
  // Moving the focus may scroll: what is told of the focused segment goes with it.
  const here = document.activeElement;
  if (here?.classList.contains("seg")) showTip(here); else hideTip();
}, { passive: true });

// ---- a response -------------------------------------------------------------------------------------------------------------
const estimate = (row, k) => (row.v.length ? `${number(row.v[k])} ± ${number(row.e[k])}  (${row.n[k]} outcome${row.n[k] === 1 ? "" : "s"})` : "not estimated");
const VISIBLE = { "\n": "↵\n", "\t": "→\t" };

function segmentsOf(row) {
  if (row.a.length) return row.b.slice(0, -1).map((start, k) => ({ start, end: row.b[k + 1], adv: row.a[k], k }));
  // Advantages that differ within a segment: runs of equal ones.
  const runs = [];
  (row.ta || []).forEach((adv, t) => {
    const last = runs[runs.length - 1];
    if (last && Math.abs(last.adv - adv) < 1e-6) last.end = t + 1;
    else runs.push({ start: t, end: t + 1, adv, k: runs.length });
  });
  return runs.length ? runs : [{ start: 0, end: row.t.length, adv: 0, k: 0 }];
}
function response(row) {
  const box = make("div", { class: "response", role: "group", "aria-label": "Response, by segment; arrow keys move between segments" });
  const segments = segmentsOf(row);
  const own = row.a.length > 0;
  segments.forEach((segment, place) => {
    const tokens = segment.end - segment.start;
    const under = [...row.m.slice(segment.start, segment.end)].filter((bit) => bit === "1").length;
    const lines = [["segment", `${segment.k + 1} of ${segments.length}, ${tokens} tokens, ${under} under the loss`], ["advantage", signed(segment.adv)]];
    const inLoss = row.ta ? row.ta[segment.start] : segment.adv;
    if (row.trained && Math.abs(inLoss - segment.adv) > 1e-4) lines.push(["in the loss", signed(inLoss)]);
    if (own) lines.push(["V at its start", estimate(row, segment.k)], ["V at its end", estimate(row, segment.k + 1)]);
    if (own && row.v.length) {
      const mark = make("span", { class: "border", text: number(row.v[segment.k]), "aria-hidden": "true" });
      facts.set(mark, [["V here", estimate(row, segment.k)], ["token", String(segment.start)]]);
      box.append(mark);
    } else if (place) box.append(make("span", { class: "border", "aria-hidden": "true" }));
    const span = make("span", { class: ("seg " + level(segment.adv)).trim(), tabindex: place ? -1 : 0, role: "group", "aria-label": `segment ${segment.k + 1} of ${segments.length}, advantage ${signed(segment.adv)}` });
    facts.set(span, lines);
    appendTokens(span, row, segment);
    box.append(span);
  });
  if (own && row.v.length) {
    const last = row.v.length - 1;
    const mark = make("span", { class: "border", text: number(row.v[last]), "aria-hidden": "true" });
    facts.set(mark, [["V at the end", estimate(row, last)]]);
    box.append(mark);
  }
  return box;
}
function appendTokens(span, row, segment) {
  // Neighbours of one kind share an element.
  let kind = null, text = "";
  const flush = () => {
    if (!text) return;
    const style = [kind[0] === "1" ? "under" : "", kind[1] === "1" ? "hesitated" : ""].filter(Boolean).join(" ");
    span.append(style ? make("span", { class: style, text }) : document.createTextNode(text));
    text = "";
  };
  for (let t = segment.start; t < segment.end; t++) {
    const here = row.m[t] + row.c[t];
    if (here !== kind) { flush(); kind = here; }
    const token = row.t[t];
    if (kind !== "00" && token.trim() === "") { // a blank that matters has to be seen
      flush();
      span.append(make("span", { class: "control " + (kind[0] === "1" ? "under" : ""), text: VISIBLE[token] ?? token.replace(/ /g, "·") }));
    } else text += token;
  }
  flush();
}
document.addEventListener("keydown", (event) => {
  const here = document.activeElement;
  if (event.key === "Escape") { hideTip(); if (here?.id === "find") here.blur(); return; }
  if (here?.classList?.contains("seg")) {
    const all = [...here.closest(".response").querySelectorAll(".seg")];
    const at = all.indexOf(here);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (to !== undefined && all[to]) { move(here, all[to]); event.preventDefault(); return; }
  }
  if (/^(INPUT|SELECT|TEXTAREA)$/.test(here?.tagName) || event.ctrlKey || event.metaKey || event.altKey) return;
  const list = here?.closest?.("#list");
  const by = { j: 1, k: -1, ...(list ? { ArrowDown: 1, ArrowUp: -1 } : {}) }[event.key];
  if (by) { step(by, Boolean(list)); event.preventDefault(); }
  if (event.key === "/") { byId("find").focus(); event.preventDefault(); }
});
function move(from, to) { from.tabIndex = -1; to.tabIndex = 0; to.focus(); to.scrollIntoView({ block: "nearest" }); }

// ---- one entry --------------------------------------------------------------------------------------------------------------
function factList(entry, row) {
  const items = [["step", entry.s], ["reward", entry.r === null ? "–" : number(entry.r)], ["tokens", entry.l], ["weights", `version ${entry.w}`]];
  const list = make("ul", { class: "facts" }, ...items.map(([name, value]) => make("li", {}, make("span", { class: "soft", text: name + " " }), make("b", { text: String(value) }))));
  for (const part of row?.parts || []) if (part.name !== "reward") list.append(make("li", {}, make("span", { class: "soft", text: part.name + " " }), make("b", { text: number(part.value) })));
  if (entry.c) list.append(make("li", {}, make("span", { class: "badge bad", text: entry.k === "t" ? `${entry.c} leaves cut by the length limit` : "cut by the length limit" })));
  if (entry.k === "r") list.append(make("li", {}, make("span", { class: "badge", text: row?.trained ? "trained in this step" : "not trained in this step" })));
  return list;
}
function nodeOf(row, below, depth) {
  const children = below.get(row.i) || [];
  const head = [`node ${row.i}`, `advantage ${signed(row.a[0])}`, row.r === null ? `V ${estimate(row, 1)}` : `reward ${number(row.r)}`, row.trained ? "trained" : "", row.cut ? "cut by the length limit" : ""];
  return make("details", { class: "node" + (children.length ? "" : " leaf"), open: depth < 2 || !children.length },
    make("summary", { text: head.filter(Boolean).join(" · ") }), response(row), ...children.map((child) => nodeOf(child, below, depth + 1)));
}
function treeOf(rows) {
  const below = new Map();
  for (const row of rows) below.set(row.p, [...(below.get(row.p) || []), row]);
  const box = make("div", { class: "tree" });
  const all = (open) => box.querySelectorAll("details").forEach((one) => (one.open = open));
  box.append(make("div", { class: "chips" }, make("button", { type: "button", text: "unfold all", onclick: () => all(true) }), make("button", { type: "button", text: "fold all", onclick: () => all(false) })));
  box.append(...(below.get(0) || []).map((row) => nodeOf(row, below, 0)));
  return box;
}
const body = (entry, rows) => (entry.k === "t" ? treeOf(rows) : response(rows[0]));
const name = (entry) => (entry.k === "t" ? "tree" : `response ${entry.n}`);

let shown = -1, comparing = false;
async function show(index, focus) {
  shown = index;
  const detail = byId("detail");
  for (const button of document.querySelectorAll("#list button")) button.setAttribute("aria-current", String(Number(button.dataset.index) === index));
  document.querySelector("#list [aria-current=true]")?.scrollIntoView({ block: "nearest" });
  if (index < 0) { detail.replaceChildren(make("p", { class: "empty", text: "No response fits these filters." })); return; }
  const entry = data.entries[index], prompt = data.prompts[entry.q];
  const rows = await rowsOf(index);
  if (shown !== index) return;
  const parts = [
    make("h2", { text: `Step ${entry.s}, ${name(entry)}` }), factList(entry, rows[0]),
    make("pre", { class: "prompt", tabindex: 0, "aria-label": "prompt", text: prompt.text }),
    make("p", {}, make("span", { class: "soft", text: "label " }), make("code", { text: prompt.label })),
  ];
  const same = data.entries.map((one, at) => [one, at]).filter(([one]) => one.q === entry.q);
  const steps = [...new Set(same.map(([one]) => one.s))];
  if (same.length > 1) {
    parts.push(make("h2", { text: steps.length > 1 ? `This prompt at ${steps.length} steps` : "This prompt in this step" }));
    for (const at of steps) {
      const here = same.filter(([one]) => one.s === at), known = here.map(([one]) => one.r).filter((reward) => reward !== null);
      const mean = known.length ? known.reduce((sum, reward) => sum + reward, 0) / known.length : null;
      const chips = make("div", { class: "chips", role: "group", "aria-label": `Responses of step ${at}` }, make("span", { class: "at soft", text: `step ${at}, mean ${number(mean)}` }));
      for (const [one, place] of here) chips.append(make("button", { type: "button", "aria-pressed": String(place === index), text: `${one.k === "t" ? "tree" : `${one.n}:`} ${number(one.r)}`, onclick: () => show(place, true) }));
      parts.push(chips);
    }
    parts.push(make("div", { class: "chips" }, make("button", { type: "button", id: "compare", "aria-pressed": String(comparing), text: "compare all", onclick: () => { comparing = !comparing; show(index, false); } })));
  }
  detail.replaceChildren(...parts);
  if (!comparing) detail.append(body(entry, rows));
  else {
    const grid = make("div", { class: "compare" });
    detail.append(grid);
    for (const [one, at] of same) {
      const place = make("article", {}, make("h2", { text: `Step ${one.s}, ${name(one)}` }), make("p", { class: "soft", text: "…" }));
      grid.append(place);
      whenSeen(place, async () => { const its = await rowsOf(at); place.replaceChildren(place.firstChild, factList(one, its[0]), body(one, its)); });
    }
  }
  if (focus) detail.focus({ preventScroll: true });
}
const watcher = new IntersectionObserver((seen) => {
  for (const { isIntersecting, target } of seen) if (isIntersecting) { watcher.unobserve(target); waiting.get(target)?.(); }
}, { rootMargin: "300px" });
const waiting = new WeakMap();
function whenSeen(node, work) { waiting.set(node, work); watcher.observe(node); }

// ---- the list ---------------------------------------------------------------------------------------------------------------
const FITS = {
  high: (one) => one.r > 0, low: (one) => one.r !== null && one.r <= 0, cut: (one) => one.c > 0,
  pos: (one) => one.hi > 0, neg: (one) => one.lo < 0, both: (one) => one.hi > 0 && one.lo < 0, none: (one) => one.hi <= 0 && one.lo >= 0,
};
const KEYS = { step: (one) => one.s, prompt: (one) => one.q, reward: (one) => one.r ?? -Infinity, size: (one) => Math.max(one.hi, -one.lo), length: (one) => one.l };
let order = [], listed = 0;
function select(anew) {
  const chosen = (id) => byId(id).value;
  const find = chosen("find").toLowerCase();
  order = data.entries.map((_, index) => index).filter((index) => {
    const one = data.entries[index], prompt = data.prompts[one.q];
    return (!find || prompt.text.toLowerCase().includes(find) || prompt.label.toLowerCase().includes(find))
      && (chosen("prompt") === "" || one.q === Number(chosen("prompt"))) && (chosen("step") === "" || one.s === Number(chosen("step")))
      && (!chosen("reward") || FITS[chosen("reward")](one)) && (!chosen("sign") || FITS[chosen("sign")](one));
  });
  const sort = chosen("sort"), key = KEYS[sort.replace("-", "")], turn = sort.startsWith("-") ? -1 : 1;
  const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
  order.sort((a, b) => turn * compare(key(data.entries[a]), key(data.entries[b])) || a - b);
  byId("list").replaceChildren();
  listed = 0;
  more();
  byId("count").textContent = `${order.length} of ${data.entries.length} ${data.entries[0]?.k === "t" ? "trees" : "responses"}`;
  show(!anew && order.includes(shown) ? shown : order[0] ?? -1, false);
}
function more() {
  const list = byId("list");
  list.querySelector(".more")?.remove();
  for (const index of order.slice(listed, listed + LIST_PART)) list.append(item(index));
  listed = Math.min(order.length, listed + LIST_PART);
  if (listed < order.length) list.append(make("li", { class: "more" }, make("button", { type: "button", text: `${order.length - listed} more`, onclick: more })));
}
function item(index) {
  const one = data.entries[index];
  const bar = make("span", { class: "bar", "aria-hidden": "true" });
  for (const [share, adv] of one.bar) { const piece = make("i", { class: level(adv) }); piece.style.flex = String(share); bar.append(piece); }
  const line = `step ${one.s} · ${name(one)} · reward ${number(one.r)}${one.c ? " · cut" : ""}`;
  return make("li", {}, make("button", { type: "button", "data-index": String(index), "aria-current": "false", onclick: () => show(index, false) },
    make("span", { text: line }), make("span", { class: "prompt-line", text: short(oneLine(data.prompts[one.q].text), 90) }), bar));
}
function step(by, focus) {
  const at = order.indexOf(shown) + by;
  if (at < 0 || at >= order.length) return;
  while (at >= listed) more();
  show(order[at], false);
  if (focus) document.querySelector(`#list [data-index="${order[at]}"]`).focus();
}

// ---- start ------------------------------------------------------------------------------------------------------------------
function options(id, all, pairs) { byId(id).append(make("option", { value: "", text: all }), ...pairs.map(([value, text]) => make("option", { value: String(value), text }))); }
const times = new Map();
for (const one of data.entries) times.set(one.q, (times.get(one.q) || 0) + 1);
options("prompt", "all prompts", data.prompts.map((prompt, q) => [q, `${short(oneLine(prompt.text), 70)} (${times.get(q) || 0})`]));
options("step", "all steps", [...new Set(data.entries.map((one) => one.s))].map((one) => [one, `step ${one}`]));
byId("summary").textContent = data.summary;
legend();
byId("controls").addEventListener("input", (event) => {
  if (event.target.id === "values") document.body.classList.toggle("no-values", event.target.value === "off");
  else select(event.target.id === "sort");
});
byId("controls").addEventListener("submit", (event) => event.preventDefault());
const measure = () => document.documentElement.style.setProperty("--header", document.querySelector("header").offsetHeight + "px");
addEventListener("resize", measure);
measure();
select(true);
document.documentElement.dataset.ready = "yes";
