"""Tools of the viewer: colours, keep ratios, two orders, lists of chains, links, files."""

import dataclasses
import itertools
import json
import time
from xml.etree import ElementTree

import pytest

from greedy_prune_jax.analysis.patterns import LabelledRun
from greedy_prune_jax.analysis.still_right import Verdicts
from greedy_prune_jax.analysis.viewer import viewer_data, write_viewer
from greedy_prune_jax.chains.categories import Category
from tests.analysis.test_viewer import move_slider
from tests.helpers.browser import browser  # noqa: F401 - a fixture
from tests.helpers.planted import pruned_chain

TOKENS = ["So", " 4", " plus", " 3", " is", " 7"]
LABELS = (Category.META_DISCOURSE, *(Category.SYMBOLIC_MATH,) * 5)
SURPRISAL = [4.0, 1.0, 0.25, 0.0, 2.0, 3.0]


def chain(
  order, chain_id="c/0", ranking="greedy", *, answer="7", target="7", tokens=TOKENS, keep=0.5
):
  made = pruned_chain(tokens, order, chain_id, answer=f'{{"answer": "{answer}"}}')
  kept = int(len(tokens) * keep)
  reached = len(tokens) - len(order) <= kept
  return dataclasses.replace(
    made,
    chain=dataclasses.replace(made.chain, target=target),
    ranking=ranking,
    pruned={str(keep): made.spell(made.kept_positions(kept))} if reached else {},
  )


def run(name, *chains, **values):
  labels = [(LABELS * 99)[: len(c.reasoning_ids)] for c in chains]
  return LabelledRun(name, chains, labels, **values)


@pytest.fixture
def show(browser, tmp_path):  # noqa: F811
  """Opens the viewer of some runs and gives a function that runs JavaScript there."""

  def opened(*runs, link=""):
    write_viewer(tmp_path / "viewer.html", runs)
    browser.get_log("browser")
    browser.get("about:blank")
    browser.get((tmp_path / "viewer.html").as_uri() + link)
    return browser.execute_script

  return opened


def choose(script, name, value):
  script(
    "const s = document.getElementById(arguments[0]); s.value = arguments[1];"
    "s.dispatchEvent(new Event('input')); s.dispatchEvent(new Event('change'))",
    name,
    value,
  )


def text_of(script, name):
  return script("return document.getElementById(arguments[0]).textContent", name)


def options(script):
  return script("return [...document.getElementById('chain').options].map(o => o.value)")


def test_tokens_are_coloured_by_rank_and_by_surprisal(show):
  script = show(run("r", chain([2, 0, 4, 3]), surprisals=[SURPRISAL]))
  shares = "return panels[0].spans.map(s => s.style.getPropertyValue('--share'))"
  choose(script, "colour", "rank")
  assert script(shares) == ["25%", "100%", "0%", "75%", "50%", "100%"]
  choose(script, "colour", "surprisal")
  assert script(shares) == ["100%", "50%", "25%", "0%", "71%", "87%"]
  assert "surprisal 0.25 nats" in script("return panels[0].describe(2)")
  colours = script("return panels[0].spans.map(s => getComputedStyle(s).backgroundColor)")
  assert len(set(colours)) == len(TOKENS)
  choose(script, "colour", "category")
  assert script("return document.querySelectorAll('.token.scaled').length") == 0
  assert script("return document.querySelectorAll('.token.c0').length") == 5


def test_tokens_are_coloured_by_attention_from_the_answer(show):
  script = show(run("r", chain([2]), attention=[[0.0, 0.0004, 0.0016, 0.0064, 0.0001, 0.0]]))
  choose(script, "colour", "attention")
  shares = script("return panels[0].spans.map(s => s.style.getPropertyValue('--share'))")
  assert shares == ["0%", "33%", "67%", "100%", "0%", "0%"]
  assert "attention from the answer 0.0016" in script("return panels[0].describe(2)")
  legend = script("return document.querySelector('.legend').textContent")
  assert "attention from the answer: 0.00010 or less" in legend
  assert "0.0064, mean over its tokens, all layers and heads" in legend


def test_keep_ratios_tell_where_a_model_still_answers_right(show):
  verdicts = Verdicts("asked", {"1.0": True, "0.5": False}, pruner_right=2)
  script = show(run("r", chain([2, 0, 4]), verdicts=[verdicts]))
  assert text_of(script, "ratios") == "1.0 \u27130.5 \u2717"
  labels = "return [...document.querySelectorAll('#ratios button')].map(b => b.ariaLabel)"
  assert script(labels) == [
    "Go to keep ratio 1.0, asked answers right", "Go to keep ratio 0.5, asked answers wrong"
  ]  # fmt: skip
  heads = script("return [...document.querySelectorAll('.ratio-head')].map(p => p.textContent)")
  assert heads[1] == "keep 0.5: 3 tokens, asked answers wrong"
  texts = script("return [...document.querySelectorAll('.nll text')].map(t => t.textContent)")
  assert "0.5 \u2717" in texts
  lines = script("return [...document.querySelectorAll('.verdicts')].map(p => p.textContent)")
  assert lines[1].startswith("The pruner still answers right from 4 tokens")
  script("document.querySelector('.verdicts button').click()")
  assert script("return panels[0].step") == 2
  lost = Verdicts(pruner_right=-1)
  script = show(run("r", chain([2, 0, 4]), verdicts=[lost]))
  assert text_of(script, "ratios") == "0.5"
  lines = script("return [...document.querySelectorAll('.verdicts')].map(p => p.textContent)")
  assert lines == ["The pruner answers wrong from the whole chain."]


@pytest.mark.parametrize("colour", ["surprisal", "attention"])
def test_values_that_were_not_stored_are_told(show, colour):
  script = show(run("r", chain([2])))
  choose(script, "colour", colour)
  assert "analyze stores them" in script("return document.querySelector('.legend').textContent")
  assert script("return document.querySelectorAll('.token.scaled').length") == 0


def test_keep_ratios_stand_on_the_slider_and_their_texts_below(show):
  script = show(run("r", chain([2, 0, 4, 3])))
  assert text_of(script, "ratios") == "0.5"
  script("document.querySelector('#ratios button').click()")
  assert text_of(script, "status").startswith("3 of 6 tokens deleted (50%)")
  texts = script("return [...document.querySelectorAll('.left')].map(p => p.textContent)")
  assert texts == [" 4 3 7", " 4 3 7"]
  assert script("return document.querySelector('.ratio-head').textContent") == "keep 0.5: 3 tokens"


@pytest.mark.parametrize("width", [390, 1280])
def test_no_keep_ratio_hides_another(show, browser, width):  # noqa: F811
  made = chain(list(range(30)), tokens=TOKENS * 5)
  ratios = [0.95, 0.9, 0.85, 0.5, 0.3, 0.2, 0.1, 0.05]
  kept = {str(r): made.spell(made.kept_positions(int(30 * r))) for r in ratios}
  verdicts = [Verdicts("asked", {str(r): True for r in [1.0, *ratios]})]
  script = show(run("r", dataclasses.replace(made, pruned=kept), verdicts=verdicts))
  # The window grows, as when it is turned, and the marks find their rows again.
  for shown in (width, width + 200):
    size = {"width": shown, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    time.sleep(0.5)
    for marks in ("#ratios button", ".nll text.ratio"):
      boxes = script(
        "return [...document.querySelectorAll(arguments[0])].map(e => e.getBoundingClientRect())"
        ".map(({left, right, top, bottom}) => [left, right, top + 3, bottom - 3])",
        marks,
      )
      assert len(boxes) == len(ratios) + 1
      for (l0, r0, t0, b0), (l1, r1, t1, b1) in itertools.combinations(boxes, 2):
        assert r0 <= l1 or r1 <= l0 or b0 <= t1 or b1 <= t0
  browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_two_orders_part_where_they_do(show, browser):  # noqa: F811
  script = show(run("a", chain([2, 0, 4])), run("b", chain([2, 5, 0], ranking="random")))
  move_slider(browser, 2)
  assert 'part at deletion 2: "So" and " 7"' in text_of(script, "parting-text")
  assert "now 2 tokens" in text_of(script, "parting-text")
  marked = "return [...document.querySelectorAll('.parted')].map(s => s.id)"
  assert script(marked) == ["t0-0", "t0-5", "t1-0", "t1-5"]
  move_slider(browser, 0)
  assert script(marked) == []
  browser.find_element("id", "part").click()
  assert script("return panels[0].step") == 2
  script = show(run("a", chain([2, 0])), run("b", chain([2, 0])))
  assert "equal for 2 deletions" in text_of(script, "parting-text")
  script = show(run("a", chain([1])), run("b", chain([1], tokens=["other", " tokens"])))
  assert script("return document.getElementById('parting').hidden")


def test_chains_are_searched_sorted_and_filtered(show):
  chains = [
    chain([0], "x/10"),
    chain([0], "x/2", tokens=TOKENS * 2, answer="8"),
    chain([0], "y/1", tokens=TOKENS[:3], target=None),
  ]
  script = show(run("r", *chains))
  assert options(script) == ["x/10", "x/2", "y/1"]
  for order, expected in [
    ("id", ["x/2", "x/10", "y/1"]),
    ("short", ["y/1", "x/10", "x/2"]),
    ("long", ["x/2", "x/10", "y/1"]),
  ]:
    choose(script, "sort", order)
    assert options(script) == expected
  choose(script, "verdict", "false")
  assert options(script) == ["x/2"]
  assert text_of(script, "chain-id") == "x/2"
  assert text_of(script, "target") == "7: the chain is wrong"
  choose(script, "verdict", "true")
  assert text_of(script, "target") == "7: the chain is right"
  choose(script, "verdict", "")
  choose(script, "search", "OF Y")
  assert options(script) == ["y/1"]
  assert text_of(script, "target") == "not known"
  assert text_of(script, "count") == "1 of 3 chains"
  choose(script, "search", "<nothing>")
  assert options(script) == []
  assert script("return document.querySelectorAll('.token').length") == 0


def test_a_link_leads_to_chain_and_step(show, browser):  # noqa: F811
  runs = [run(name, chain([2, 0], "a b/<1>&"), chain([3, 1], "second")) for name in ("r", "s")]
  script = show(*runs)
  choose(script, "chain", "second")
  choose(script, "colour", "rank")
  choose(script, "run1", "")
  move_slider(browser, 2)
  time.sleep(1)  # it is written when the slider rests
  link = script("return location.hash")
  script = show(*runs, link=link)
  assert script("return [panels.length, panels[0].step, panels[0].chain.id]") == [1, 2, "second"]
  assert script("return panels[0].colour") == "rank"
  script("location.hash = '#chain=a+b%2F%3C1%3E%26&step=1'")
  time.sleep(0.3)
  assert script("return [panels[0].step, panels[0].chain.id]") == [1, "a b/<1>&"]


SENTENCES = ["So", " 4", " plus", " 3", ".", " It", " is", " 7", "."]


def sentence_lines(script):
  """Texts of the lines that are laid out, and the tokens that are."""
  shown = "[...document.querySelectorAll(arguments[0])].filter(e => e.offsetParent)"
  shown += ".map(e => e.textContent)"
  return script(f"return {shown}", ".sentence-head"), script(f"return {shown}", ".token")


def test_sentences_fold_to_lines_that_count_what_is_kept(show, browser):  # noqa: F811
  script = show(run("r", chain([0, 2, 5, 6, 7, 8], tokens=SENTENCES)))
  assert sentence_lines(script) == ([], SENTENCES)
  browser.find_element("id", "fold").click()
  assert sentence_lines(script) == (["5 of 5So 4 plus 3.", "4 of 4It is 7."], [])
  for step, lines in [
    (2, ["3 of 54 3.", "4 of 4It is 7."]),
    (6, ["3 of 54 3.", "0 of 4It is 7."]),  # of one that is gone, the whole in grey
    (2, ["3 of 54 3.", "4 of 4It is 7."]),
    (1, ["4 of 54 plus 3.", "4 of 4It is 7."]),
    (3, ["3 of 54 3.", "3 of 4is 7."]),
  ]:
    move_slider(browser, step)
    assert sentence_lines(script) == (lines, [])
    marked = script("return [...document.querySelectorAll('.sentence-head.last')].map(e => e.id)")
    assert marked == ["s0-0" if step <= 2 else "s0-1"]
  texts = {e.text for e in ElementTree.fromstring(script("return pictureAsSvg()")).iter()}
  assert {"3 of 5", "4 3.", "3 of 4", "is 7."} <= texts
  assert not texts & set(SENTENCES[:5])
  browser.find_element("id", "fold").click()
  assert sentence_lines(script) == ([], SENTENCES)


def test_the_keyboard_opens_sentences(show, browser):  # noqa: F811
  from selenium.webdriver.common.keys import Keys

  script = show(run("r", chain([0, 2], tokens=SENTENCES)), link="#chain=c%2F0&step=2&fold=1")
  box = browser.find_element("class name", "tokens")

  def label():
    return browser.find_element("id", box.get_attribute("aria-activedescendant")).get_attribute(
      "aria-label"
    )

  box.send_keys(Keys.ARROW_DOWN)
  assert label() == "Sentence 2, 4 of 4 tokens kept, folded: It is 7."
  box.send_keys(Keys.ENTER)
  assert label() == "Sentence 2, 4 of 4 tokens kept, open: It is 7."
  assert sentence_lines(script)[1] == SENTENCES[5:]
  box.send_keys(Keys.ARROW_RIGHT)
  assert label().startswith('" It"\n')
  box.send_keys(Keys.ARROW_UP, Keys.ENTER)
  assert sentence_lines(script)[1] == []
  browser.find_element("css selector", ".sentence-head").click()
  assert sentence_lines(script)[1] == SENTENCES[:5]
  assert label().startswith("Sentence 1, 3 of 5 tokens kept, open: 4 3.")


@pytest.mark.parametrize(
  "link", ["#chain=%3Cimg%20src=x%3E&step=1e9&run0=9&run1=x&colour=none", "#%E0%A4%A", "#step=-1"]
)
def test_a_link_that_leads_nowhere_shows_the_first_chain(show, browser, link):  # noqa: F811
  script = show(run("r", chain([2, 0])), link=link)
  assert script("return panels[0].chain.id") == "c/0"
  assert script("return panels[0].step") in (0, 2)
  assert script("return document.querySelectorAll('img').length") == 0
  assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_it_plays_to_the_end_and_stops(show):
  script = show(run("r", chain([2, 0, 4])))
  script("document.getElementById('play').click()")
  assert text_of(script, "play") == "Pause"
  deadline = time.monotonic() + 60
  while text_of(script, "play") == "Pause" and time.monotonic() < deadline:
    time.sleep(0.1)
  assert text_of(script, "play") == "Play"
  assert script("return panels[0].step") == 3


def test_what_is_shown_can_be_saved(show, browser):  # noqa: F811
  first = chain([2, 0, 4])
  script = show(run("r", first, surprisals=[SURPRISAL]))
  move_slider(browser, 1)
  (saved,) = json.loads(script("return chainAsJson()"))
  assert saved["tokens"] == TOKENS
  assert saved["deletions"] == [[2], [0], [4]]
  assert saved["left"] == "So 4 3 is 7"
  assert (saved["step"], saved["run"], saved["target"]) == (1, "r", "7")
  for colour in ("category", "rank"):
    choose(script, "colour", colour)
    picture = script("return pictureAsSvg()")
    root = ElementTree.fromstring(picture)
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert set(TOKENS) < set(texts)
    assert "reasoning tokens deleted" in texts
    assert "color(" not in picture
    assert "var(" not in picture
  links = "const a = []; HTMLAnchorElement.prototype.click = function () { a.push([this.download,"
  links += " this.href.split(':')[0]]); }; for (const id of ['svg', 'json'])"
  links += " document.getElementById(id).click(); return a"
  assert script(links) == [["c_0-1.svg", "blob"], ["c_0-1.json", "blob"]]


def test_axes_have_their_own_titles_and_the_range_of_the_curves(show):
  script = show(run("r", chain([2, 0, 4])))
  texts = script("return [...document.querySelectorAll('.nll text')].map(t => t.textContent)")
  assert "NLL, nats per token" in texts
  assert "reasoning tokens deleted" in texts
  numbers = [float(text) for text in texts if text.replace(".", "").isdigit()]
  assert 0.6 in numbers  # answer: 0.5 to 0.65, joint: 1.0 to 1.3
  assert script("return panels[0].chart.range[0]") == pytest.approx(0.5 - 0.04 * 0.8)
  assert script("return document.getElementById('status').textContent").startswith("0 of 6 tokens")


def test_runs_of_one_objective_are_told_apart():
  runs = [run("a", chain([2])), run("b", chain([2], ranking="random"))]
  about = [data["about"] for data in viewer_data(runs)["runs"]]
  assert len(set(about)) == 2
  assert "ranking random, objective joint" in about[1]


def test_no_chain_is_right_whose_answer_cannot_be_read():
  made = chain([2])
  unread = dataclasses.replace(made, chain=dataclasses.replace(made.chain, answer="so be it"))
  runs = [run("a", unread, made)]
  assert [c["right"] for c in viewer_data(runs)["runs"][0]["chains"]] == [None, True]
