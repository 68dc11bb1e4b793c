"""Starts of words and sentences, in texts like those that models write."""

# ruff: noqa: RUF001

import itertools
import json
from pathlib import Path

import pytest

from greedy_prune_jax.chains.segments import token_texts
from greedy_prune_jax.chains.words import split_words
from greedy_prune_jax.search import units
from tests.helpers.attacks import limits
from tests.helpers.tokenizers_for_tests import byte_level, sentence_piece

WORDS = [
  "Natalia| sold| 48|/|2| =| 24| clips|.|\n",
  "She| paid| $|1,234.5|,| not| $|.50|!",
  "It| isn't| Natalia's|,| it’s| the| boys'|.",
  "On| the| 2nd| day| at| 5pm|,| twenty-five| left|:| x|-|y|,| 3x|+|2|.",
  r"So| $|\frac|{|1|}|{|2|}|$| is| half|.",
  "**|Step| 1|.|**| Wait|...| i.e.| no| (|see| above|)|.|\n\n-| So|  \n",
  "Caf\u00e9| nai\u0308ve| \u0939\u093f\u0928\u094d\u0926\u0940| 是三|。",
  "So| \U0001f468\u200d\U0001f469\u200d\U0001f467|\U0001f44d\U0001f3fd|\U0001f1e9\U0001f1ea|!",
  "\u0645\u06cc\u200c\u062e| yes\u200d|.",
]
SENTENCES = [
  # GSM8K.
  "Natalia sold 48/2 = 24 clips in May.\n|She sold 48+24 = 72 clips altogether.\n",
  "Janet eats 3.5 eggs a day.| She sells the rest for $2.| That is 16 - 3 - 4 = 9 eggs.\n|A: 9",
  "He runs 3 sprints.|  He runs 60 meters each.",
  # Abbreviations, initials, items, headings.
  "Mr. Lee and Dr. Wu met at 5 p.m. on Monday, e.g. at noon.| They left.",
  "J. R. Smith of the U.S. Army has 2.| Then he buys 3 oz. of tea.",
  "Let us see:\n|1. Add 3 and 4.\n|2. Multiply by 2.| Done.\n|",
  "Step 1. Add 3 and 4.| Step 2. Stop.\n|A. apples\n|**B.** pears",
  "The answer is B.| Therefore (B).",
  "x = 3.| y = 4.| We get x + y = 7",
  "So 8! / (5! * 2!) is 168, n! = 6, and (9-1)! \\cdot 2 more.| Wow!| 5 is 5!| Nice!| - Yes",
  'She said "Stop!" and left.| "Why?"| He stayed.\n\n|**So: 5.**| Yes?!| Yes.',
  # Formulas and code.
  "We\n|\\[\nx = 1. Then y = 2.\n\\]\n|So $x = 1.$|  Also\n|\\begin{align*}\na\n\\end{align*}\n|",
  "We get $$a = 1.$$| Then $$b = 2$$| $$c = 3$$ for all d.| Done.",
  "So \\[x\\]\n|\\[y\\]| Hence $$z$$, which is \\(\\frac{1}{2}. A\\).",
  "Hence \\begin{align*}\na &= b\\\\\n|&= c. D \\\\[2pt] |&= d\n\\end{align*}|We know $x$.",
  "Now \\begin{split} m&= \\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix} \\\\ |&= 3 \\end{split}.| End.",
  "Run this:\n|```python\nx = 1\n\nprint(x)\n```\n|It prints 1.",
  "\n\nFirst.  \n\n|  Second.",
  "她有三个。|他有两个！|一共五个。",
]


def _cut(text, starts):
  return [text[i:j] for i, j in itertools.pairwise([*starts, len(text)])]


@pytest.mark.parametrize("marked", WORDS)
def test_words(marked):
  expected = marked.split("|")
  assert _cut("".join(expected), units.word_starts("".join(expected))) == expected


@pytest.mark.parametrize("marked", SENTENCES)
def test_sentences(marked):
  expected = [part for part in marked.split("|") if part]
  assert _cut("".join(expected), units.sentence_starts("".join(expected))) == expected


@pytest.mark.parametrize("piece", [" ", "\t ", ".", "?!", '."', "\u3000", "…)"])
def test_a_long_run_of_one_kind_is_gone_through_once(piece):
  assert units.sentence_starts(piece * 300_000) == [0]  # a matter of hours, from each place anew


@pytest.mark.slow
@pytest.mark.parametrize(
  "piece",
  ["\\[", "\\(", "$$", "$$a$$\n", "\\begin{align}", "[asy]", "```\n", "\\[a\\] A. ", "a. ", "A. "],
)
def test_formulas_and_stops_without_end_take_linear_time(piece):
  text = piece * (300_000 // len(piece))
  with limits(seconds=60):  # squares take many minutes
    assert units.sentence_starts(text)
    assert split_words(text)


def test_tokens_belong_to_the_unit_in_which_they_start():
  tokens = ["A", " b", "c. ", "D", "", "e", ".\n", "F. G", "."]
  assert units.unit_sizes("sentence", tokens) == (3, 4, 2)
  # `c. ` and `F. G` begin in words whose signs and neighbours begin within them.
  assert units.unit_sizes("word", tokens) == (1, 2, 3, 1, 1, 1)
  assert units.unit_sizes("token", tokens) is None


def test_bytes_of_a_character_are_not_torn_apart():
  tokens = ["So", " ", "", "", "\U0001f600", " it"]
  assert units.unit_sizes("word", tokens) == (1, 4, 1)


@pytest.mark.parametrize("unit", ["word", "sentence"])
@pytest.mark.parametrize("make", [byte_level, sentence_piece])
def test_units_of_a_tokenizer_cover_the_text(make, unit):
  text = "Natalia sold 1,234.5 clips. \U0001f600 She isn't done.\nSo 48/2 = 24.\n"
  tokens = token_texts(make(), text)
  sizes = units.unit_sizes(unit, tokens)
  assert sum(sizes) == len(tokens)
  stops = list(itertools.accumulate(sizes))
  found = ["".join(tokens[stop - size : stop]) for size, stop in zip(sizes, stops, strict=True)]
  expected = _cut(text, units.word_starts(text) if unit == "word" else units.sentence_starts(text))
  assert found == expected  # no token of these tokenizers straddles a word


DATA = Path(__file__).parents[2] / ".." / "shared" / "data"


@pytest.mark.skipif(not DATA.is_dir(), reason="no real data beside the checkout")
def test_units_of_real_chains_put_together_are_the_text():
  with (DATA / "mmlu_pro_llama31_8b_chains.jsonl").open() as lines:
    texts = [json.loads(line)["reasoning"] for line in itertools.islice(lines, 200)]
  for text in texts:
    words, sentences = units.word_starts(text), units.sentence_starts(text)
    for starts in (words, sentences):
      assert starts[0] == 0
      assert all(a < b for a, b in itertools.pairwise([*starts, len(text)]))
    assert all(part.strip() for part in _cut(text, sentences))
    assert all(len(part.split()) <= 1 for part in _cut(text, words))
