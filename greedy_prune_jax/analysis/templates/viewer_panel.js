// One run's view of one chain: its tokens, its categories, its curves, its texts.

const categoryName = (index) => (index === null ? "unlabelled" : data.categories[index].name);
const visible = (text) => JSON.stringify(text);

// Keep ratios and their steps, the longest text first.
const ratiosOf = ({ ratios }) => Object.entries(ratios).sort((one, other) => one[1] - other[1]);

// The verdict on a model's answer from what a keep ratio leaves: a mark, and in words.
const markOf = ({ answered }, ratio) => ({ true: " \u2713", false: " \u2717" }[answered[ratio]] ?? "");
const verdictOf = ({ answered, model }, ratio) =>
  ({ true: `, ${model} answers right`, false: `, ${model} answers wrong` }[answered[ratio]] ?? "");

const leastAboveZero = (values) => Math.min(Math.max(0, ...values), ...values.filter((value) => value > 0));

// Values of tokens that analyze's part regression stores: shares from 0 to 1 that colour them, and
// the ends of that scale in words. The few tokens that get most of the attention would leave the
// others alike on any scale but a logarithmic one.
const VALUES = {
  surprisal: {
    name: "surprisals",
    shares: (values) => {
      const top = Math.max(1e-6, ...values);
      return values.map((value) => Math.sqrt(Math.max(0, value) / top));
    },
    ends: (values) => ["0 nats", `${Math.max(...values).toFixed(2)} nats; on a square-root scale`],
  },
  attention: {
    name: "attention weights",
    shares: (values) => {
      const least = leastAboveZero(values), range = Math.log(Math.max(...values) / least);
      return values.map((value) => (value <= least ? 0 : Math.log(value / least) / range));
    },
    ends: (values) => [
      `attention from the answer: ${leastAboveZero(values).toPrecision(2)} or less`,
      `${Math.max(...values).toPrecision(2)}, mean over its tokens, all layers and heads; on a logarithmic scale`,
    ],
  },
};

class Panel {
  constructor(parent, run, chain, index) {
    this.run = run;
    this.chain = chain;
    this.step = 0;
    this.last = [];  // positions that the last deletion removed
    this.isParted = [];
    this.numParted = 0;  // tokens that the other run treats otherwise
    this.root = make(parent, "section", "panel");
    this.root.setAttribute("aria-label", "Run " + run.name);
    make(this.root, "h2", "", run.name);
    make(this.root, "p", "about", run.about);
    this.countDeletions();
    this.addTokens(index);
    this.legend = make(this.root, "ul", "legend");
    this.legend.setAttribute("aria-label", "Colours of the tokens");
    this.chart = new Chart(this.root, chain, this.numGone);
    this.addVerdicts();
    this.addTexts();
    this.root.dataset.step = "0";
  }

  countDeletions() {
    const { tokens, deletions } = this.chain;
    this.stepOf = new Array(tokens.length).fill(Infinity);
    this.numGone = [0];  // tokens, after each deletion of a unit
    deletions.forEach((unit, step) => {
      for (const position of unit) this.stepOf[position] = step + 1;
      this.numGone.push(this.numGone[step] + unit.length);
    });
  }

  addTokens(index) {
    this.box = make(this.root, "div", "tokens");
    this.box.tabIndex = 0;
    this.box.setAttribute("role", "listbox");
    this.sentences = new Sentences(this.box, this.chain, index);
    this.spans = this.chain.tokens.map((text, position) => {
      const span = make(this.sentences.boxOf(position), "span", "token", text);
      span.id = "t" + index + "-" + position;
      span.setAttribute("role", "option");
      span.dataset.position = position;
      return span;
    });
    this.items = this.spans;  // that the arrow keys go through
    this.current = 0;
    this.box.addEventListener("click", (event) => this.onClick(event));
    this.box.addEventListener("mouseover", (event) => this.point(event.target, event));
    this.box.addEventListener("mouseleave", hideTip);
    this.box.addEventListener("focus", () => this.goTo(this.current));
    this.box.addEventListener("blur", hideTip);
    this.box.addEventListener("keydown", (event) => this.onKey(event));
  }

  // How far a model still answers right; only the budget `right` looks between keep ratios.
  addVerdicts() {
    const { answered, model, pruner_right: right, tokens } = this.chain;
    if (Object.keys(answered).length) {
      make(this.root, "p", "verdicts", `\u2713 or \u2717: at this keep ratio ${model} answers right or wrong.`);
    }
    if (right === null) return;
    const text = right < 0
      ? "The pruner answers wrong from the whole chain."
      : `The pruner still answers right from ${tokens.length - this.numGone[right]} tokens (budget right). `;
    const line = make(this.root, "p", "verdicts", text);
    if (right < 0) return;
    const button = make(line, "button", "", "Go there");
    button.type = "button";
    button.addEventListener("click", () => setStep(panels[0].stepAt(this.numGone[right] / tokens.length)));
  }

  addTexts() {
    const details = make(this.root, "details");
    make(details, "summary", "", "Text that is left");
    this.left = make(details, "p", "left");
    const ratios = ratiosOf(this.chain);
    if (!ratios.length) return;
    const kept = make(this.root, "details");
    make(kept, "summary", "", "Text at each keep ratio");
    for (const [ratio, step] of ratios) {
      const left = this.chain.tokens.length - this.numGone[step];
      make(kept, "p", "ratio-head", `keep ${ratio}: ${left} tokens${verdictOf(this.chain, ratio)}`);
      make(kept, "p", "left", this.textAt(step));
    }
  }

  // Shares from 0 to 1 that colour the tokens, by rank or a value of theirs; null for categories.
  shares(colour) {
    const { deletions } = this.chain;
    if (colour === "rank") {
      return this.stepOf.map((step) => Math.min(1, (step - 1) / Math.max(1, deletions.length)));
    }
    const values = this.chain[colour];
    return colour in VALUES && values ? VALUES[colour].shares(values) : null;
  }

  paint(colour) {
    this.colour = colour;
    const shares = this.shares(colour);
    this.spans.forEach((span, position) => {
      const label = this.chain.labels[position];
      const category = label === null ? "cx" : "c" + label;
      for (const name of [...span.classList]) if (/^c\w$|^scaled$/.test(name)) span.classList.remove(name);
      span.classList.add(shares ? "scaled" : category);
      if (shares) span.style.setProperty("--share", Math.round(100 * shares[position]) + "%");
    });
    this.fillLegend();
  }

  fillLegend() {
    this.legend.replaceChildren();
    const { labels } = this.chain;
    if (this.colour !== "category") return this.fillScale();
    const gone = (position) => this.stepOf[position] <= this.step;
    const list = [...data.categories.keys()];
    const total = list.map(() => 0), kept = list.map(() => 0);
    labels.forEach((label, position) => {
      if (label === null) return;
      total[label] += 1;
      if (!gone(position)) kept[label] += 1;
    });
    for (const index of list) {
      if (!total[index]) continue;
      const text = `${categoryName(index)} ${kept[index]}/${total[index]}`;
      make(this.legend, "li", "c" + index, text).title = data.categories[index].meaning;
    }
  }

  fillScale() {
    const kind = VALUES[this.colour], values = this.chain[this.colour];
    if (kind && !values) {
      make(this.legend, "li", "", `no ${kind.name}: analyze stores them with its part regression`);
      return;
    }
    const ends = kind ? kind.ends(values) : ["deleted first", "deleted last, or never"];
    ends.forEach((text, end) => {
      const item = make(this.legend, "li", "scaled", text);
      item.style.setProperty("--share", end * 100 + "%");
    });
  }

  // The first step at which at least a share of the tokens is gone.
  stepAt(share) {
    const wanted = Math.round(share * this.chain.tokens.length);
    const found = this.numGone.findIndex((count) => count >= wanted);
    return found < 0 ? this.chain.deletions.length : found;
  }

  // Tokens without a text and the next that has one make up a character; see `spell_kept`.
  textAt(step, from = 0, to = this.chain.tokens.length) {
    const text = [];
    let group = [];
    for (let position = from; position < to; position += 1) {
      const token = this.chain.tokens[position];
      group.push(this.stepOf[position] > step);
      if (!token && position < to - 1) continue;
      text.push(group.every(Boolean) ? token : "\ufffd".repeat(group.filter(Boolean).length));
      group = [];
    }
    return text.join("");
  }

  fold(isFolded) {
    this.box.classList.toggle("folded", isFolded);
    this.box.setAttribute("aria-label", isFolded
      ? "Sentences of the reasoning; arrow keys go from one to the next, Enter opens and folds it"
      : "Reasoning tokens; arrow keys go from token to token");
    this.leave();
    this.findItems();
    if (isFolded) this.sentences.showAll(this);
  }

  get isFolded() {
    return this.box.classList.contains("folded");
  }

  findItems() {
    const sentence = this.items[this.current]?.parentNode;
    this.items = this.isFolded ? this.sentences.items(this.spans) : this.spans;
    this.current = Math.max(0, this.items.findIndex((item) => item.parentNode === sentence));
  }

  toggleSentence(head) {
    this.leave();
    this.sentences.toggle(Number(head.dataset.sentence), this);
    this.findItems();
    this.goTo(this.items.indexOf(head));
  }

  show(step) {
    const { deletions } = this.chain;
    const [from, to] = [Math.min(step, this.step), Math.max(step, this.step)];
    for (let k = from; k < to; k += 1) {
      for (const position of deletions[k]) this.spans[position].classList.toggle("gone", step > k);
    }
    for (const position of this.last) this.spans[position].classList.remove("last");
    this.last = step ? deletions[step - 1] : [];
    for (const position of this.last) this.spans[position].classList.add("last");
    this.step = step;
    if (this.isFolded) this.sentences.show(from, to, this);
    this.root.dataset.step = step;
    this.left.textContent = this.textAt(step);
    if (this.colour === "category") this.fillLegend();
    this.chart.show(step);
  }

  // Marks the tokens that another run of the same tokens keeps where this one does not.
  markParted(other) {
    this.numParted = 0;
    this.stepOf.forEach((step, position) => {
      const parted = step <= this.step !== other.stepOf[position] <= other.step;
      if (parted) this.numParted += 1;
      if (parted === (this.isParted[position] ?? false)) return;  // touching a class costs a style
      this.isParted[position] = parted;
      this.spans[position].classList.toggle("parted", parted);
    });
  }

  describe(position) {
    const step = this.stepOf[position];
    // The place in the order of deletion, in which the tokens of a unit follow one another.
    const rank = this.numGone[step - 1] + this.chain.deletions[step - 1]?.indexOf(position);
    const when = step === Infinity ? "never deleted" : `deletion ${step}, rank ${rank}`;
    const state = step <= this.step ? "gone" : "still there";
    const name = categoryName(this.chain.labels[position]);
    const { surprisal, attention } = this.chain;
    const nats = surprisal ? `\nsurprisal ${surprisal[position].toFixed(2)} nats` : "";
    const got = attention ? `\nattention from the answer ${attention[position].toPrecision(2)}` : "";
    return `${visible(this.chain.tokens[position])}\n${name}${nats}${got}\n${when}, ${state}`;
  }

  point(target, event) {
    if (target.dataset.position === undefined) return hideTip();
    showTip(this.describe(Number(target.dataset.position)), event.clientX, event.clientY);
  }

  leave() {
    hideTip();
    this.items[this.current]?.classList.remove("current");
    this.items[this.current]?.setAttribute("aria-selected", "false");
  }

  goTo(place) {
    this.leave();
    this.current = place;
    const item = this.items[place];
    item.classList.add("current");
    item.setAttribute("aria-selected", "true");
    this.box.setAttribute("aria-activedescendant", item.id);
    if (item.dataset.position === undefined) return;
    const text = this.describe(Number(item.dataset.position));
    item.setAttribute("aria-label", text);
    const { left, bottom } = item.getBoundingClientRect();
    showTip(text, left, bottom);
  }

  onClick(event) {
    const head = event.target.closest(".sentence-head");
    if (head) this.toggleSentence(head);
  }

  onKey(event) {
    const far = this.isFolded ? 1 : 10;
    const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -far, ArrowDown: far };
    const end = this.items.length - 1;
    const item = this.items[this.current];
    if (["Enter", " "].includes(event.key) && item.dataset.sentence !== undefined) {
      event.preventDefault();
      return this.toggleSentence(item);
    }
    let target = event.key === "Home" ? 0 : event.key === "End" ? end : undefined;
    if (event.key in moves) target = this.current + moves[event.key];
    if (event.key === "Escape") hideTip();
    if (target === undefined) return;
    event.preventDefault();
    const place = Math.min(end, Math.max(0, target));
    this.items[place].scrollIntoView({ block: "nearest" });
    this.goTo(place);
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
