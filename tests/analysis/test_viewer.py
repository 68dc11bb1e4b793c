import dataclasses

import numpy as np
import pytest

from greedy_prune_jax.analysis.patterns import LabelledRun
from greedy_prune_jax.analysis.viewer import viewer_data, write_viewer
from greedy_prune_jax.chains.categories import Category
from tests.helpers.browser import browser  # noqa: F401 - a fixture
from tests.helpers.planted import pruned_chain

ALL = list(Category)
HOSTILE = [
  "<script>window.hacked = 1</script>",
  "</script>",
  "<script>",
  "window.hacked = 2",
  '<img src=x onerror="window.hacked = 3">',
  "<!--",
  "{{ 7 * 7 }}",
  "&lt;b&gt;",
  "\u2028",
  "'\"`${window.hacked = 4}",
  "\n",
  " 42",
]


def hostile_run(name, seed):
  rng = np.random.default_rng(seed)
  order = rng.permutation(len(HOSTILE))
  chain = pruned_chain(
    HOSTILE, order[:10], "id/<i>", question="</script><img src=x onerror=alert(1)>", answer="<b>42"
  )
  other = pruned_chain(["a", " b"], [1], "second")
  labels = tuple(None if i == 3 else ALL[i % 6] for i in range(len(HOSTILE)))
  return LabelledRun(name, [chain, other], [labels, (ALL[0], ALL[5])])


def open_page(browser, path):  # noqa: F811
  browser.get_log("browser")
  browser.get(path.as_uri())


def move_slider(browser, step):  # noqa: F811
  browser.execute_script(
    "const s = document.getElementById('step'); s.value = arguments[0];"
    "s.dispatchEvent(new Event('input'))",
    step,
  )


def shown_tokens(browser, panel=0):  # noqa: F811
  """Text, and whether it is marked as gone, of each token of a panel."""
  return browser.execute_script(
    "return [...document.querySelectorAll('.panel')[arguments[0]].querySelectorAll('.token')]"
    ".map(t => [t.textContent, t.classList.contains('gone')])",
    panel,
  )


def test_a_ratio_stands_where_pruning_to_it_ended():
  chain = dataclasses.replace(pruned_chain(["x"] * 90, range(27)), pruned={"0.7": "x" * 63})
  data = viewer_data([LabelledRun("r", [chain], [(None,) * 90])])
  assert data["runs"][0]["chains"][0]["ratios"] == {"0.7": 27}


@pytest.mark.parametrize(
  ("answer", "target", "right"),
  [
    ("(B) is the best answer.", "B", True),
    ("Option B is correct.", "C", False),
    ("The answer is B", "B", True),
    ("\\boxed{\\frac12}", "0.5", True),
    ("I do not know", "B", None),
    ("B", None, None),
  ],
)
def test_a_chains_own_answer_is_judged_in_any_of_its_forms(answer, target, right):
  made = pruned_chain(["a", " b"], [1], answer=answer)
  made = dataclasses.replace(made, chain=dataclasses.replace(made.chain, target=target))
  data = viewer_data([LabelledRun("r", [made], [(None, None)])])
  assert data["runs"][0]["chains"][0]["right"] is right


def test_the_slider_shows_what_the_data_say(browser, tmp_path):  # noqa: F811
  runs = [hostile_run("<u>first", 0), hostile_run("second", 1)]
  write_viewer(tmp_path / "viewer.html", runs)
  open_page(browser, tmp_path / "viewer.html")
  for step in (0, 7, 3, 10, 1):
    move_slider(browser, step)
    for panel, run in enumerate(runs):
      gone = set(run.chains[0].deletion_order[:step])
      expected = [[text, i in gone] for i, text in enumerate(HOSTILE)]
      assert shown_tokens(browser, panel) == expected
    left = browser.execute_script("return document.querySelector('.left').textContent")
    kept = runs[0].chains[0].kept_positions(len(HOSTILE) - step)
    assert left == "".join(HOSTILE[i] for i in kept)
    values = browser.execute_script("return document.querySelector('.values').textContent")
    nll = runs[0].chains[0].nll
    assert f"{nll['joint'][step]:.3f}" in values
    assert f"{nll['answer'][step]:.3f}" in values


def test_longer_units_leave_together(browser, tmp_path):  # noqa: F811
  tokens = ["So", " 4", "2", ".", "\n"]
  words = pruned_chain(tokens, [4, 1, 2, 0], unit_sizes=(1, 2, 1, 1))
  single = pruned_chain(tokens, [0, 1, 2, 3, 4])
  labels = (ALL[0], ALL[1], ALL[1], ALL[2], None)
  runs = [LabelledRun(name, [c], [labels]) for name, c in (("words", words), ("tokens", single))]
  write_viewer(tmp_path / "viewer.html", runs)
  open_page(browser, tmp_path / "viewer.html")
  for step, gone in [(2, {4, 1, 2}), (3, {4, 1, 2, 0}), (1, {4}), (2, {4, 1, 2})]:
    move_slider(browser, step)
    assert [marked for _, marked in shown_tokens(browser)] == [i in gone for i in range(5)]
    others = [marked for _, marked in shown_tokens(browser, 1)]  # as many tokens, not deletions
    assert others == [i < len(gone) for i in range(5)]
    values = browser.execute_script("return document.querySelector('.values').textContent")
    assert f"{words.nll['joint'][step]:.3f}" in values
  ranks = browser.execute_script("return [0, 1, 2, 3, 4].map(i => panels[0].describe(i))")
  assert [text.split("\n")[-1].split(",")[:2] for text in ranks] == [
    ["deletion 3", " rank 3"],
    ["deletion 2", " rank 1"],
    ["deletion 2", " rank 2"],
    ["never deleted", " still there"],
    ["deletion 1", " rank 0"],
  ]
  status = browser.find_element("id", "status").text
  assert status == f'3 of 5 tokens deleted (60%); last gone: " 42", {ALL[1]}'
  assert browser.find_element("id", "step").get_attribute("max") == "3"


def test_texts_of_models_are_never_interpreted(browser, tmp_path):  # noqa: F811
  write_viewer(tmp_path / "viewer.html", [hostile_run("<img src=x onerror=window.hacked=5>", 0)])
  open_page(browser, tmp_path / "viewer.html")
  move_slider(browser, 5)
  assert browser.execute_script("return window.hacked") is None
  assert browser.execute_script("return document.querySelectorAll('img, main script').length") == 0
  question = browser.execute_script("return document.getElementById('question').textContent")
  assert question == "</script><img src=x onerror=alert(1)>"
  assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_the_keyboard_reaches_everything(browser, tmp_path):  # noqa: F811
  from selenium.webdriver.common.keys import Keys

  write_viewer(tmp_path / "viewer.html", [hostile_run("r", 0)])
  open_page(browser, tmp_path / "viewer.html")
  browser.find_element("id", "step").send_keys(Keys.ARROW_RIGHT * 3)
  assert sum(gone for _, gone in shown_tokens(browser)) == 3
  status = browser.find_element("id", "status")
  assert status.text.startswith("3 of 12 tokens deleted (25%)")
  assert status.get_attribute("role") == "status"
  box = browser.find_element("class name", "tokens")
  box.send_keys(Keys.ARROW_RIGHT * 2)
  active = box.get_attribute("aria-activedescendant")
  label = browser.find_element("id", active).get_attribute("aria-label")
  assert label.startswith('"<script>"\n')
  assert "ENTITY_NAME" in label
  assert browser.find_element("id", "tip").is_displayed()


def test_deleted_tokens_can_be_hidden_and_chains_chosen(browser, tmp_path):  # noqa: F811
  from selenium.webdriver.support.ui import Select

  write_viewer(tmp_path / "viewer.html", [hostile_run("r", 0)])
  open_page(browser, tmp_path / "viewer.html")
  move_slider(browser, 4)
  gone = browser.find_elements("css selector", ".token.gone")
  assert all(token.is_displayed() for token in gone if token.text)
  browser.find_element("css selector", "input[value=hide]").click()
  assert not any(token.is_displayed() for token in gone)
  Select(browser.find_element("id", "chain")).select_by_value("second")
  assert shown_tokens(browser) == [["a", False], [" b", False]]


@pytest.mark.slow
def test_of_two_hundred_chains_of_two_thousand_tokens_one_is_laid_out(browser, tmp_path):  # noqa: F811
  """A step changes the tokens that it deletes and their marks, and makes none anew."""
  rng = np.random.default_rng(0)
  words = [" the", " sum", "7", " of", "\n", " apples"]
  chains = [
    pruned_chain([words[w] for w in rng.integers(6, size=2000)], rng.permutation(2000), f"c/{i}")
    for i in range(200)
  ]
  labels = [tuple(ALL[i] for i in rng.integers(6, size=2000)) for _ in chains]
  runs = [LabelledRun(name, chains, labels) for name in ("a", "b")]
  write_viewer(tmp_path / "viewer.html", runs)
  open_page(browser, tmp_path / "viewer.html")
  before, after = browser.execute_script(
    "const spans = () => [...document.querySelectorAll('.token')]; const old = spans();"
    "for (let k = 0; k < 100; k += 1) setStep((k * 37) % 2000);"
    "return [old.length, spans().filter((span, i) => span === old[i]).length]"
  )
  assert before == after == 2 * 2000
  assert sum(gone for _, gone in shown_tokens(browser)) == (99 * 37) % 2000


@pytest.mark.parametrize("template_data", ["</script><script>window.hacked=1</script>"])
def test_the_file_itself_holds_no_markup_of_the_data(tmp_path, template_data):
  chain = pruned_chain([template_data], [0], template_data, question=template_data)
  write_viewer(tmp_path / "viewer.html", [LabelledRun(template_data, [chain], [(None,)])])
  page = (tmp_path / "viewer.html").read_text()
  assert template_data not in page
  assert page.count("<script") == 2
  assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
  assert "https://" not in page
