"use strict";
// Every text of a model reaches the page through textContent alone, which never parses it.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const PLOT = { width: 640, height: 230, left: 52, right: 12, top: 12, bottom: 40 };

function make(parent, tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

function draw(parent, tag, attributes, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

const categoryName = (index) => (index === null ? "unlabelled" : data.categories[index].name);
const categoryClass = (index) => "token " + (index === null ? "cx" : "c" + index);
const visible = (text) => JSON.stringify(text);

// One run's view of one chain.
class Panel {
  constructor(parent, run, chain, index) {
    this.chain = chain;
    this.step = 0;
    this.last = [];  // positions that the last deletion removed
    this.root = make(parent, "section", "panel");
    this.root.setAttribute("aria-label", "Run " + run.name);
    make(this.root, "h2", "", run.name);
    make(this.root, "p", "about", run.about);
    this.addTokens(index);
    this.addLegend();
    this.addCurves();
    const details = make(this.root, "details");
    make(details, "summary", "", "Text that is left");
    this.left = make(details, "p", "left");
    this.root.dataset.step = "0";
  }

  addTokens(index) {
    const { tokens, deletions, labels } = this.chain;
    this.stepOf = new Array(tokens.length).fill(Infinity);
    this.numGone = [0];  // tokens, after each deletion of a unit
    deletions.forEach((unit, step) => {
      for (const position of unit) this.stepOf[position] = step + 1;
      this.numGone.push(this.numGone[step] + unit.length);
    });
    this.box = make(this.root, "div", "tokens");
    this.box.tabIndex = 0;
    this.box.setAttribute("role", "listbox");
    this.box.setAttribute("aria-label", "Reasoning tokens; arrow keys go from token to token");
    this.spans = tokens.map((text, position) => {
      const span = make(this.box, "span", categoryClass(labels[position]), text);
      span.id = "t" + index + "-" + position;
      span.setAttribute("role", "option");
      span.dataset.position = position;
      return span;
    });
    this.current = 0;
    this.box.addEventListener("mouseover", (event) => this.point(event.target, event));
    this.box.addEventListener("mouseleave", hideTip);
    this.box.addEventListener("focus", () => this.goTo(this.current));
    this.box.addEventListener("blur", hideTip);
    this.box.addEventListener("keydown", (event) => this.onKey(event));
  }

  addLegend() {
    const list = make(this.root, "ul", "legend");
    list.setAttribute("aria-label", "Tokens of each category that are left");
    this.legend = data.categories.map((category, index) => {
      const item = make(list, "li", "c" + index);
      item.title = category.meaning;
      return item;
    });
    const count = (index) => this.chain.labels.filter((label) => label === index).length;
    this.totals = data.categories.map((_, index) => count(index));
  }

  addCurves() {
    const { joint = [], answer = [] } = this.chain.nll;
    const svg = draw(this.root, "svg", {
      viewBox: `0 0 ${PLOT.width} ${PLOT.height}`, class: "nll", role: "img",
      "aria-label": "Mean negative log-likelihood, joint and of the answer, against deletions",
    });
    const values = [...joint, ...answer].filter((value) => value !== null);
    const low = Math.min(0, ...values), high = Math.max(1e-6, ...values);
    const steps = Math.max(1, this.chain.deletions.length);
    const { width, height, left, right, top, bottom } = PLOT;
    this.x = (step) => left + (step / steps) * (width - left - right);
    const y = (value) => height - bottom - ((value - low) / (high - low)) * (height - top - bottom);
    for (const share of [0, 0.5, 1]) {
      const value = low + share * (high - low);
      draw(svg, "line", { class: "axis", x1: left, x2: width - right, y1: y(value), y2: y(value) });
      draw(svg, "text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, value.toFixed(2));
      const step = Math.round(share * steps);
      const anchor = share === 1 ? "end" : share ? "middle" : "start";
      draw(svg, "text", { x: this.x(step), y: height - bottom + 17, "text-anchor": anchor }, step);
    }
    const middle = (left + width - right) / 2;
    draw(svg, "text", { x: middle, y: height - 4, "text-anchor": "middle" },
      "deletions (NLL in nats per token)");
    for (const [name, curve] of [["joint", joint], ["answer", answer]]) {
      const points = curve.flatMap((value, step) => (
        value === null ? [] : [this.x(step).toFixed(1) + "," + y(value).toFixed(1)]));
      draw(svg, "polyline", { class: name, points: points.join(" ") });
    }
    this.mark = draw(svg, "line", { class: "mark", y1: top, y2: height - bottom });
    this.values = make(this.root, "p", "values");
    this.jointValue = make(this.values, "span", "joint");
    this.values.append(" \u00b7 ");
    this.answerValue = make(this.values, "span", "answer");
    svg.addEventListener("click", (event) => {
      const box = svg.getBoundingClientRect();
      const place = ((event.clientX - box.left) / box.width) * width;
      const share = (place - left) / (width - left - right);
      setStep(Math.round(Math.min(1, Math.max(0, share)) * Number(slider.max)));
    });
  }

  // The first step at which at least a share of the tokens is gone.
  stepAt(share) {
    const wanted = Math.round(share * this.chain.tokens.length);
    const found = this.numGone.findIndex((count) => count >= wanted);
    return found < 0 ? this.chain.deletions.length : found;
  }

  show(step) {
    const { tokens, deletions, labels, nll } = this.chain;
    const [from, to] = [Math.min(step, this.step), Math.max(step, this.step)];
    for (let k = from; k < to; k += 1) {
      for (const position of deletions[k]) this.spans[position].classList.toggle("gone", step > k);
    }
    for (const position of this.last) this.spans[position].classList.remove("last");
    this.last = step ? deletions[step - 1] : [];
    for (const position of this.last) this.spans[position].classList.add("last");
    this.step = step;
    this.root.dataset.step = step;
    const kept = data.categories.map(() => 0);
    const text = [];
    // Tokens without a text and the next that has one make up a character; see `spell_kept`.
    let group = [];
    tokens.forEach((token, position) => {
      const isLeft = this.stepOf[position] > step;
      if (isLeft && labels[position] !== null) kept[labels[position]] += 1;
      group.push(isLeft);
      if (!token && position < tokens.length - 1) return;
      text.push(group.every(Boolean) ? token : "\ufffd".repeat(group.filter(Boolean).length));
      group = [];
    });
    this.legend.forEach((item, index) => {
      item.textContent = `${categoryName(index)} ${kept[index]}/${this.totals[index]}`;
      item.hidden = this.totals[index] === 0;
    });
    this.left.textContent = text.join("");
    const value = (curve) => {
      const found = curve ? curve[step] : undefined;
      return found === undefined || found === null ? "none" : found.toFixed(3);
    };
    this.jointValue.textContent = `\u2014 joint ${value(nll.joint)}`;
    this.answerValue.textContent = `- - answer ${value(nll.answer)}`;
    this.mark.setAttribute("x1", this.x(step));
    this.mark.setAttribute("x2", this.x(step));
  }

  describe(position) {
    const step = this.stepOf[position];
    // The place in the order of deletion, in which the tokens of a unit follow one another.
    const rank = this.numGone[step - 1] + this.chain.deletions[step - 1]?.indexOf(position);
    const when = step === Infinity ? "never deleted" : `deletion ${step}, rank ${rank}`;
    const state = step <= this.step ? "gone" : "still there";
    const name = categoryName(this.chain.labels[position]);
    return `${visible(this.chain.tokens[position])}\n${name}\n${when}, ${state}`;
  }

  point(target, event) {
    if (target.dataset.position === undefined) return hideTip();
    showTip(this.describe(Number(target.dataset.position)), event.clientX, event.clientY);
  }

  goTo(position) {
    this.spans[this.current].classList.remove("current");
    this.spans[this.current].setAttribute("aria-selected", "false");
    this.current = position;
    const span = this.spans[position];
    span.classList.add("current");
    span.setAttribute("aria-selected", "true");
    span.setAttribute("aria-label", this.describe(position));
    this.box.setAttribute("aria-activedescendant", span.id);
    const place = span.getBoundingClientRect();
    showTip(this.describe(position), place.left, place.bottom);
  }

  onKey(event) {
    const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -10, ArrowDown: 10 };
    const end = this.spans.length - 1;
    let target = event.key === "Home" ? 0 : event.key === "End" ? end : undefined;
    if (event.key in moves) target = this.current + moves[event.key];
    if (event.key === "Escape") hideTip();
    if (target === undefined) return;
    event.preventDefault();
    this.goTo(Math.min(end, Math.max(0, target)));
  }
}

function showTip(text, x, y) {
  const tip = byId("tip");
  tip.textContent = text;
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  tip.style.left = Math.max(4, Math.min(x + 12, innerWidth - box.width - 4)) + "px";
  tip.style.top = (y + 16 + box.height > innerHeight ? y - box.height - 24 : y + 16) + "px";
}

function hideTip() {
  byId("tip").hidden = true;
}

const slider = byId("step");
const selects = [byId("run0"), byId("run1")];
let panels = [];

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
}

function showChain() {
  hideTip();
  const id = byId("chain").value;
  byId("panels").replaceChildren();
  panels = [];
  selects.forEach((select, index) => {
    if (select.value === "") return;
    const run = data.runs[Number(select.value)];
    const chain = run.chains.find((candidate) => candidate.id === id);
    if (chain) panels.push(new Panel(byId("panels"), run, chain, index));
    else make(byId("panels"), "section", "panel", `${run.name} has no chain ${id}.`);
  });
  if (!panels.length) return;
  byId("question").textContent = panels[0].chain.question;
  byId("answer").textContent = panels[0].chain.answer;
  slider.max = panels[0].chain.deletions.length;
  setStep(0);
}

function listChains() {
  const select = byId("chain"), before = select.value;
  select.replaceChildren();
  const { chains } = data.runs[Number(selects[0].value)];
  for (const chain of chains) {
    option(select, chain.id, `${chain.id} (${chain.tokens.length} tokens)`);
  }
  if (chains.some((chain) => chain.id === before)) select.value = before;
  showChain();
}

function start() {
  option(selects[1], "", "nothing");
  data.runs.forEach((run, index) => {
    for (const select of selects) option(select, String(index), run.name);
  });
  if (data.runs.length > 1) selects[1].value = "1";
  selects[0].addEventListener("change", listChains);
  selects[1].addEventListener("change", showChain);
  byId("chain").addEventListener("change", showChain);
  slider.addEventListener("input", () => setStep(Number(slider.value)));
  byId("back").addEventListener("click", () => setStep(Number(slider.value) - 1));
  byId("forth").addEventListener("click", () => setStep(Number(slider.value) + 1));
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
  listChains();
}

start();
