// The curves of a panel: NLL against the reasoning tokens that were deleted.

const PLOT = { width: 640, height: 266, left: 66, right: 14, top: 28, bottom: 46 };
const RATIO_WIDTH = 66;  // of a keep ratio and its mark, in the large letters of narrow windows

function draw(parent, tag, attributes, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

// Round values that divide a range into two to six parts.
function ticks(low, high) {
  const rough = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k += 1) found.push(k * step);
  return { values: found, digits: Math.max(0, Math.ceil(-Math.log10(step) - 1e-9)) };
}

// A row for each label, given its left and right end, so that no labels of a row overlap.
function rowsOf(ends) {
  const lastOfRow = [];
  return ends.map(([left, right]) => {
    const free = lastOfRow.findIndex((last) => last <= left);
    const row = free < 0 ? lastOfRow.length : free;
    lastOfRow[row] = right;
    return row;
  });
}

class Chart {
  constructor(parent, chain, numGone) {
    this.chain = chain;
    this.numGone = numGone;
    const { joint = [], answer = [] } = chain.nll;
    this.svg = draw(parent, "svg", {
      viewBox: `0 0 ${PLOT.width} ${PLOT.height}`, class: "nll", role: "img",
      "aria-label": "Mean negative log-likelihood, joint and of the answer, by deleted tokens",
    });
    this.setScales([...joint, ...answer].filter((value) => value !== null));
    this.addAxes();
    for (const [name, curve] of [["joint", joint], ["answer", answer]]) {
      const points = curve.flatMap((value, step) => (value === null
        ? [] : [this.x(numGone[step]).toFixed(1) + "," + this.y(value).toFixed(1)]));
      draw(this.svg, "polyline", { class: name, points: points.join(" ") });
    }
    this.addRatios();
    this.mark = draw(this.svg, "line", { class: "mark", y1: PLOT.top, y2: PLOT.height - PLOT.bottom });
    const values = make(parent, "p", "values");
    this.jointValue = make(values, "span", "joint");
    values.append(" \u00b7 ");
    this.answerValue = make(values, "span", "answer");
    values.append(" nats per token");
    this.svg.addEventListener("click", (event) => this.onClick(event));
  }

  setScales(values) {
    let low = values.length ? Math.min(...values) : 0, high = values.length ? Math.max(...values) : 1;
    const margin = Math.max(0.04 * (high - low), 1e-3);
    [low, high] = [low - margin, high + margin];
    const { width, height, left, right, top, bottom } = PLOT;
    this.range = [low, high];
    this.most = Math.max(1, this.numGone[this.numGone.length - 1]);
    this.x = (tokens) => left + (tokens / this.most) * (width - left - right);
    this.y = (value) => height - bottom - ((value - low) / (high - low)) * (height - top - bottom);
  }

  addAxes() {
    const { width, height, left, right, top, bottom } = PLOT;
    const { values, digits } = ticks(...this.range);
    for (const value of values) {
      const y = this.y(value);
      draw(this.svg, "line", { class: "axis", x1: left, x2: width - right, y1: y, y2: y });
      draw(this.svg, "text", { x: left - 6, y: y + 4, "text-anchor": "end" }, value.toFixed(digits));
    }
    for (const tokens of ticks(0, this.most).values.filter(Number.isInteger)) {
      const place = { x: this.x(tokens), y: height - bottom + 18, "text-anchor": "middle" };
      draw(this.svg, "text", place, tokens);
    }
    const middle = (top + height - bottom) / 2;
    draw(this.svg, "text", {
      x: 15, y: middle, "text-anchor": "middle", transform: `rotate(-90 15 ${middle})`,
    }, "NLL, nats per token");
    draw(this.svg, "text", {
      x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle",
    }, "reasoning tokens deleted");
  }

  // Keep ratios stand above the plot; where they are close to each other, some stand within it.
  addRatios() {
    const { width, height, top, bottom } = PLOT;
    const upright = (name, tokens) => {
      const x = this.x(tokens);
      draw(this.svg, "line", { class: name, x1: x, x2: x, y1: top, y2: height - bottom });
      return Math.min(x, width - RATIO_WIDTH / 2);
    };
    const ratios = ratiosOf(this.chain);
    const places = ratios.map(([, step]) => upright("ratio", this.numGone[step]));
    const furthest = this.chain.pruner_right;
    if (furthest !== null && furthest >= 0) upright("right", this.numGone[furthest]);
    const rows = rowsOf(places.map((x) => [x - RATIO_WIDTH / 2, x + RATIO_WIDTH / 2]));
    ratios.forEach(([ratio], index) => {
      const place = { x: places[index], y: top - 8 + 24 * rows[index], "text-anchor": "middle" };
      draw(this.svg, "text", { class: "ratio", ...place }, ratio + markOf(this.chain, ratio));
    });
  }

  onClick(event) {
    const box = this.svg.getBoundingClientRect();
    const place = ((event.clientX - box.left) / box.width) * PLOT.width;
    const share = (place - PLOT.left) / (PLOT.width - PLOT.left - PLOT.right);
    const tokens = Math.min(1, Math.max(0, share)) * this.most;
    setStep(panels[0].stepAt(tokens / this.chain.tokens.length));
  }

  show(step) {
    const { nll } = this.chain;
    const value = (curve) => {
      const found = curve ? curve[step] : undefined;
      return found === undefined || found === null ? "none" : found.toFixed(3);
    };
    this.jointValue.textContent = `\u2014 joint ${value(nll.joint)}`;
    this.answerValue.textContent = `- - answer ${value(nll.answer)}`;
    const x = this.x(this.numGone[step]);
    this.mark.setAttribute("x1", x);
    this.mark.setAttribute("x2", x);
  }
}
