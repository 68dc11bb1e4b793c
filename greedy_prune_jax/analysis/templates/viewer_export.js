// Files of what is shown: the chain as JSON, and tokens with curves as a picture in SVG.

function save(name, type, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const fileName = () => byId("chain").value.replace(/[^\w.-]+/g, "_") + "-" + slider.value;

function chainAsJson() {
  const shown = panels.map((panel) => ({
    run: panel.run.name, about: panel.run.about, ...panel.chain, step: panel.step,
    tokens_deleted: panel.numGone[panel.step], left: panel.textAt(panel.step),
  }));
  return JSON.stringify(shown, null, 1);
}

// Colours as every program reads them: `color-mix` computes to `color(srgb r g b)`.
function plainColour(colour) {
  const parts = /^color\(srgb ([\d.e-]+) ([\d.e-]+) ([\d.e-]+)/.exec(colour);
  if (!parts) return colour;
  return `rgb(${parts.slice(1).map((part) => Math.round(255 * Number(part))).join(",")})`;
}

function drawToken(svg, span, left, top) {
  const style = getComputedStyle(span);
  const boxes = [...span.getClientRects()];
  const fill = plainColour(style.backgroundColor);
  for (const box of boxes) {
    const { width, height } = box;
    draw(svg, "rect", { x: box.left - left, y: box.top - top, width, height, fill, rx: 3 });
  }
  if (!boxes.length || !span.textContent.trim()) return;
  draw(svg, "text", {
    x: boxes[0].left - left, y: boxes[0].top - top + 0.78 * boxes[0].height,
    fill: plainColour(style.color), "font-family": style.fontFamily, "font-size": style.fontSize,
    "text-decoration": style.textDecorationLine, style: "white-space: pre",
  }, span.textContent);
}

// A sentence's line: how many tokens are kept, and its text as far as the line goes.
function drawSentence(svg, head, left, top) {
  for (const child of head.children) {
    const { left: x, top: y, width, height } = child.getBoundingClientRect();
    const part = draw(svg, "svg", { x: x - left, y: y - top, width, height });  // clips its text
    const kept = child.style.getPropertyValue("--kept") || "0%";
    const fill = getComputedStyle(document.documentElement).getPropertyValue("--c0");
    draw(part, "rect", { width: kept, height, fill, rx: 3 });
    drawToken(part, child, x, y);
  }
}

function drawChart(svg, chart, top, width) {
  const copy = chart.svg.cloneNode(true);
  const from = chart.svg.querySelectorAll("*"), to = copy.querySelectorAll("*");
  from.forEach((element, index) => {
    const style = getComputedStyle(element);
    for (const name of ["stroke", "fill", "stroke-width", "stroke-dasharray", "paint-order", "font-size", "font-family"]) {
      to[index].setAttribute(name, plainColour(style.getPropertyValue(name)));
    }
  });
  const height = (width * PLOT.height) / PLOT.width;
  for (const [name, value] of Object.entries({ x: 0, y: top, width, height })) copy.setAttribute(name, value);
  svg.append(copy);
  return height;
}

// The panels side by side, as they are laid out now.
function pictureAsSvg() {
  const svg = document.createElementNS(SVG, "svg");
  const page = getComputedStyle(document.body);
  let x = 0, bottom = 0;
  for (const panel of panels) {
    const box = panel.box.getBoundingClientRect();
    const part = draw(svg, "svg", { x, y: 0, width: box.width, overflow: "visible" });
    draw(part, "text", {
      x: 0, y: 18, fill: plainColour(page.color), "font-family": page.fontFamily, "font-size": 15,
    }, `${panel.run.name}: ${panel.chain.id}`);
    for (const item of panel.items) {
      const drawItem = item.dataset.sentence === undefined ? drawToken : drawSentence;
      drawItem(part, item, box.left, box.top - 28);
    }
    const height = drawChart(part, panel.chart, box.height + 40, box.width);
    part.setAttribute("height", box.height + 40 + height);
    bottom = Math.max(bottom, box.height + 40 + height);
    x += box.width + 24;
  }
  const width = x - 24;
  svg.setAttribute("viewBox", `0 0 ${width} ${bottom}`);
  svg.setAttribute("width", width);
  svg.setAttribute("height", bottom);
  const back = document.createElementNS(SVG, "rect");
  for (const [name, value] of Object.entries({ width, height: bottom, fill: plainColour(page.backgroundColor) })) {
    back.setAttribute(name, value);
  }
  svg.prepend(back);
  return new XMLSerializer().serializeToString(svg);
}
