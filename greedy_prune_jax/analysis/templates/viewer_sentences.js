// A chain's sentences: each can be folded to one line, which tells how many of its tokens are kept.

const PREVIEW = 160;  // characters of a sentence that its line shows at most

class Sentences {
  constructor(box, chain, index) {
    this.starts = [0];
    for (const size of chain.sentences) this.starts.push(this.starts[this.starts.length - 1] + size);
    this.of = chain.sentences.flatMap((size, sentence) => new Array(size).fill(sentence));
    this.isOpen = chain.sentences.map(() => false);
    this.boxes = chain.sentences.map(() => make(box, "span", "sentence"));
    this.heads = this.boxes.map((place, sentence) => {
      const head = make(place, "span", "sentence-head");
      head.id = "s" + index + "-" + sentence;
      head.dataset.sentence = sentence;
      head.setAttribute("role", "option");
      make(head, "span", "sentence-count");
      make(head, "span", "sentence-text");
      return head;
    });
  }

  boxOf(position) {
    return this.boxes[this.of[position]];
  }

  // Lines of sentences, and the tokens of those that are open, in the order of the text.
  items(spans) {
    return this.heads.flatMap((head, sentence) => (this.isOpen[sentence]
      ? [head, ...spans.slice(this.starts[sentence], this.starts[sentence + 1])] : [head]));
  }

  toggle(sentence, panel) {
    this.isOpen[sentence] = !this.isOpen[sentence];
    this.boxes[sentence].classList.toggle("open", this.isOpen[sentence]);
    this.showOne(sentence, panel);
  }

  showAll(panel) {
    this.heads.forEach((_, sentence) => this.showOne(sentence, panel));
  }

  // Brings the lines up to date whose tokens left or came back between two steps, or are the last.
  show(from, to, panel) {
    const touched = panel.chain.deletions.slice(Math.max(0, from - 1), to).flat();
    for (const sentence of new Set(touched.map((position) => this.of[position]))) {
      this.showOne(sentence, panel);
    }
  }

  showOne(sentence, panel) {
    const [from, to] = [this.starts[sentence], this.starts[sentence + 1]];
    const head = this.heads[sentence];
    const [count, text] = head.children;
    const kept = panel.stepOf.slice(from, to).filter((step) => step > panel.step).length;
    const shown = kept ? panel.textAt(panel.step, from, to) : panel.textAt(0, from, to);
    const line = shown.trim().replace(/\s+/g, " ");
    const share = kept / (to - from);
    count.textContent = `${kept} of ${to - from}`;
    count.style.setProperty("--kept", Math.round(100 * share) + "%");
    text.textContent = line.length > PREVIEW ? line.slice(0, PREVIEW) + "\u2026" : line;
    text.classList.toggle("gone", !kept);
    head.classList.toggle("empty", !kept);
    head.classList.toggle("last", panel.last.some((position) => this.of[position] === sentence));
    const state = this.isOpen[sentence] ? "open" : "folded";
    const left = kept ? line : "nothing is left of: " + line;
    head.setAttribute("aria-label",
      `Sentence ${sentence + 1}, ${kept} of ${to - from} tokens kept, ${state}: ${left}`);
  }
}
