"use strict";
// Every text of a model reaches the page through textContent alone, which never parses it.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

function make(parent, tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

{% include "viewer_chart.js" %}
{% include "viewer_sentences.js" %}
{% include "viewer_panel.js" %}
{% include "viewer_export.js" %}

const slider = byId("step");
const selects = [byId("run0"), byId("run1")];
let panels = [];
let player = null;  // the timer while it plays
let linkTimer = null;
let parting = null;  // a sentence on where the two orders part; null where they cannot be compared

function option(select, value, text) {
  make(select, "option", "", text).value = value;
}

// The second run deletes the same share of its tokens as the first, whose tokens may be others.
function setStep(step) {
  const clipped = Math.min(Number(slider.max), Math.max(0, step));
  slider.value = clipped;
  if (!panels.length) return;
  const [first] = panels;
  const total = first.chain.tokens.length;
  const numGone = first.numGone[clipped];
  for (const panel of panels) {
    panel.show(panel === first ? clipped : panel.stepAt(numGone / total));
  }
  const percent = Math.round((100 * numGone) / total);
  const text = first.last.map((position) => first.chain.tokens[position]).join("");
  const names = new Set(first.last.map((position) => categoryName(first.chain.labels[position])));
  const gone = clipped ? `; last gone: ${visible(text)}, ${[...names].join(", ")}` : "";
  byId("status").textContent = `${numGone} of ${total} tokens deleted (${percent}%)${gone}`;
  slider.setAttribute("aria-valuetext", byId("status").textContent);
  showParting();
  writeLink();
}

const sameTokens = (one, other) => one.length === other.length && one.every((text, i) => text === other[i]);

// Two runs of the same tokens: the first deletion in which they differ.
function findParting() {
  const [first, second] = panels;
  parting = null;
  if (!second || !sameTokens(first.chain.tokens, second.chain.tokens)) return;
  const [one, other] = [first.chain.deletions, second.chain.deletions];
  const shorter = Math.min(one.length, other.length);
  const step = one.findIndex((unit, k) => k >= shorter || unit.join() !== other[k].join());
  const words = (unit) => visible(unit.map((position) => first.chain.tokens[position]).join(""));
  const isThere = step >= 0 && step < shorter;
  parting = isThere
    ? `The two orders part at deletion ${step + 1}: ${words(one[step])} and ${words(other[step])}`
    : `The two orders are equal for ${shorter} deletions`;
  byId("part").hidden = !isThere;
  byId("part").onclick = () => setStep(step + 1);
}

function showParting() {
  byId("parting").hidden = parting === null;
  if (parting === null) return;
  const [first, second] = panels;
  first.markParted(second);
  second.markParted(first);
  const now = `now ${first.numParted} tokens are kept by one and not by the other (dotted)`;
  byId("parting-text").textContent = `${parting}; ${now}.`;
}

function addRatios() {
  const [{ chain, numGone }] = panels;
  const steps = Math.max(1, chain.deletions.length);
  byId("ratios").replaceChildren();
  for (const [ratio, step] of ratiosOf(chain)) {
    const button = make(byId("ratios"), "button", "", ratio + markOf(chain, ratio));
    button.setAttribute("aria-label", `Go to keep ratio ${ratio}${verdictOf(chain, ratio)}`);
    button.type = "button";
    button.style.setProperty("--place", step / steps);
    button.title = `${chain.tokens.length - numGone[step]} tokens${verdictOf(chain, ratio)}`;
    button.addEventListener("click", () => setStep(step));
  }
  placeRatios();
}

// Keep ratios that are too close to stand side by side stand one below the other.
function placeRatios() {
  const buttons = [...byId("ratios").children];
  const rows = rowsOf(buttons.map((button) => {
    const { left, right } = button.getBoundingClientRect();
    return [left, right + 2];
  }));
  buttons.forEach((button, index) => button.style.setProperty("--row", rows[index]));
  byId("ratios").style.setProperty("--rows", Math.max(1, ...rows.map((row) => row + 1)));
}

function showChain() {
  hideTip();
  play(false);
  const id = byId("chain").value;
  byId("panels").replaceChildren();
  panels = [];
  selects.forEach((select, index) => {
    if (select.value === "") return;
    const run = data.runs[Number(select.value)];
    const chain = run.chains.find((candidate) => candidate.id === id);
    if (chain) panels.push(new Panel(byId("panels"), run, chain, index));
    else if (id) make(byId("panels"), "section", "panel", `${run.name} has no chain ${id}.`);
  });
  byId("about").hidden = !panels.length;
  if (!panels.length) return;
  const { chain } = panels[0];
  byId("chain-id").textContent = chain.id;
  byId("question").textContent = chain.question;
  byId("answer").textContent = chain.answer;
  const verdict = { true: ": the chain is right", false: ": the chain is wrong" }[chain.right] || "";
  byId("target").textContent = chain.target === null ? "not known" : chain.target + verdict;
  slider.max = chain.deletions.length;
  for (const panel of panels) {
    panel.paint(byId("colour").value);
    panel.fold(byId("fold").checked);
  }
  addRatios();
  findParting();
  setStep(0);
}

const ORDERS = {
  file: () => 0,
  id: (one, other) => one.id.localeCompare(other.id, undefined, { numeric: true }),
  short: (one, other) => one.tokens.length - other.tokens.length,
  long: (one, other) => other.tokens.length - one.tokens.length,
};

function listChains() {
  const select = byId("chain"), before = select.value;
  const wanted = byId("search").value.toLowerCase(), verdict = byId("verdict").value;
  const { chains } = data.runs[Number(selects[0].value)];
  const found = chains
    .filter((chain) => !verdict || String(chain.right) === verdict)
    .filter((chain) => (chain.id + "\n" + chain.question).toLowerCase().includes(wanted))
    .sort(ORDERS[byId("sort").value]);
  select.replaceChildren();
  for (const chain of found) {
    const verdictText = { true: ", right", false: ", wrong" }[chain.right] || "";
    option(select, chain.id, `${chain.id} (${chain.tokens.length} tokens${verdictText})`);
  }
  byId("count").textContent = `${found.length} of ${chains.length} chains`;
  if (found.some((chain) => chain.id === before)) select.value = before;
  if (select.value !== before || !panels.length || !found.length) showChain();
}

function play(on) {
  clearInterval(player);
  player = null;
  byId("play").textContent = on ? "Pause" : "Play";
  if (!on) return;
  const most = Number(slider.max);
  if (Number(slider.value) >= most) setStep(0);
  const stride = Math.max(1, Math.round(most / 150));  // long chains take half a minute, too
  player = setInterval(() => {
    setStep(Number(slider.value) + stride);
    if (Number(slider.value) >= most) play(false);
  }, 200);
}

// The link's part behind `#`: what is shown, so that a link leads here again. Browsers allow few
// changes of it a second, so it is written when the slider rests.
function writeLink() {
  clearTimeout(linkTimer);
  linkTimer = setTimeout(writeLinkNow, 200);
}

function writeLinkNow() {
  const names = { chain: byId("chain").value, step: slider.value, colour: byId("colour").value };
  if (byId("fold").checked) names.fold = "1";
  selects.forEach((select, index) => { names["run" + index] = select.value; });
  try {
    history.replaceState(null, "", "#" + new URLSearchParams(names));
  } catch {
    // A page within a notebook has no address of its own.
  }
}

const has = (select, value) => [...select.options].some((choice) => choice.value === value);

function readLink() {
  const link = new URLSearchParams(location.hash.slice(1));
  for (const [name, select] of [["run0", selects[0]], ["run1", selects[1]], ["colour", byId("colour")]]) {
    if (link.has(name) && has(select, link.get(name))) select.value = link.get(name);
  }
  byId("fold").checked = link.get("fold") === "1";
  listChains();
  if (has(byId("chain"), link.get("chain"))) byId("chain").value = link.get("chain");
  showChain();
  const step = Number(link.get("step"));
  if (Number.isInteger(step)) setStep(step);
}

function start() {
  option(selects[1], "", "nothing");
  data.runs.forEach((run, index) => {
    for (const select of selects) option(select, String(index), run.name);
  });
  if (data.runs.length > 1) selects[1].value = "1";
  byId("verdict-label").hidden = !data.runs.some((run) => run.chains.some((chain) => chain.right !== null));
  selects[0].addEventListener("change", () => { listChains(); showChain(); });
  selects[1].addEventListener("change", showChain);
  byId("chain").addEventListener("change", showChain);
  for (const id of ["search", "sort", "verdict"]) byId(id).addEventListener("input", listChains);
  slider.addEventListener("input", () => setStep(Number(slider.value)));
  byId("back").addEventListener("click", () => setStep(Number(slider.value) - 1));
  byId("forth").addEventListener("click", () => setStep(Number(slider.value) + 1));
  byId("play").addEventListener("click", () => play(player === null));
  byId("colour").addEventListener("change", () => {
    for (const panel of panels) panel.paint(byId("colour").value);
    writeLink();
  });
  byId("fold").addEventListener("change", () => {
    for (const panel of panels) panel.fold(byId("fold").checked);
    writeLink();
  });
  byId("svg").addEventListener("click", () => save(fileName() + ".svg", "image/svg+xml", pictureAsSvg()));
  byId("json").addEventListener("click", () => save(fileName() + ".json", "application/json", chainAsJson()));
  for (const radio of document.getElementsByName("deleted")) {
    radio.addEventListener("change", () => {
      byId("panels").classList.toggle("hide", radio.value === "hide" && radio.checked);
    });
  }
  byId("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const now = root.dataset.theme ||
      (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
  });
  addEventListener("hashchange", readLink);
  addEventListener("resize", placeRatios);
  readLink();
}

start();
