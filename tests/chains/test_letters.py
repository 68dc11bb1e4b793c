"""Letters of options, beside what only looks like one: species, initials, pronouns, units."""

import json
from pathlib import Path

import pytest

from greedy_prune_jax.chains.answers import LETTER, split_response
from greedy_prune_jax.chains.chain import Chain
from greedy_prune_jax.chains.expected import expected_answer

DATA = Path(__file__).parents[3] / "shared" / "data" / "mmlu_pro_llama31_8b_chains.jsonl"


def letter(reply: str) -> str | None:
  split = split_response(reply, LETTER)
  return split and split.value


SPECIES = [
  *("E. coli", "B. subtilis", "C. elegans", "D. melanogaster", "H. sapiens", "H. pylori"),
  *("A. thaliana", "G. lamblia", "F. tularensis", "I. scapularis", "C. difficile", "D. rerio"),
  *("A. mississippiensis", "J. vulgaris", "C. sinensis", "B. cereus", "A. fumigatus"),
]
FRAMES = ["The answer is {}.", "\\boxed{{{}}}", '{{"answer": "{}"}}', "Answer: *{}*", "#### ${}$"]


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("species", SPECIES)
def test_the_initial_of_a_genus_is_no_letter(frame, species):
  assert letter(frame.format(species)) is None


@pytest.mark.parametrize("species", SPECIES)
@pytest.mark.parametrize(
  ("reply", "value"),
  [
    ("The answer is {}, (B)", "B"),
    ("The answer is {} (option B).", "B"),
    ("The answer is {}, which is option G.", "G"),
    ("The answer is A. {}", "A"),
    ("The answer is (D) {}", "D"),
    ("The answer is C: {}", "C"),
    ("The answer is {} bacteria.", None),
    ("Answer: I choose {}", None),
  ],
)
def test_letters_beside_a_species(species, reply, value):
  assert letter(reply.format(species)) == value


@pytest.mark.parametrize(
  ("text", "value"),
  [
    ("E.", "E"),
    ("C. four", "C"),
    ("A. because it holds", "A"),
    ("B. 42", "B"),
    ("C. The mitochondria", "C"),
    ("C. mitochondria", "C"),
    ("B. mitosis", "B"),
    ("A. an increase in demand", "A"),
    ("D. all of the above", "D"),
    ("I. increases", "I"),
    ("H. hydrogen", "H"),
    ("F. fungus", "F"),
    ("A. bacteria", "A"),
    ("J. S. Mill", None),
    ("A.A. Milne", None),
    ("B.C.", None),
    ("A.M.", None),
    ("D.C. current", None),
    ("C++", None),
    ("F#", None),
    ("D&D", None),
    ("F-test", None),
    ("J/kg", None),
    ("A's theory", None),
    ("G.D.P.", None),
    ("C major", None),
    ("G protein", None),
    ("E. O. Wilson", None),
    ("H. G. Wells, (C)", "C"),
    ("I.e. (D)", "D"),
  ],
)
def test_option_texts_and_words_that_begin_with_a_letter(text, value):
  assert letter(f"The answer is {text}") == value


@pytest.mark.parametrize(
  ("said", "value"),
  [
    ("I choose D.", "D"),
    ("I'd go with D.", "D"),
    ("I think it's D", "D"),
    ("I pick option D", "D"),
    ("I would say (D)", "D"),
    ("I believe C", "C"),
    ("I select A because it holds", "A"),
    ("I would choose A.", "A"),
    ("we choose D", "D"),
    ("let's go with D", "D"),
    ("it must be D", "D"),
    ("I chose D over B", "D"),
    ("I say that it is C. four", "C"),
    ("I am not sure, but I'd go with D", "D"),
    ("I choose B or C", "B, C"),
    ("I choose neither B nor C", None),
    ("I would not choose D", None),
    ("I don't choose D", None),
    ("I rule out D", None),
    ("I think unclear", None),
    ("I think a lot", None),
    ("I guess", None),
    ("A and I agree", None),
  ],
)
def test_the_letter_that_somebody_chooses(said, value):
  assert letter(f"Answer: {said}") == value


@pytest.mark.parametrize(
  "target",
  [
    *(
      "B",
      "b",
      " B.",
      "(B)",
      "(b)",
      "**B**",
      "$B$",
      r"\text{B}",
      r"\text{(B)}",
      r"\textbf{(B) } 4",
    ),
    *("B. four", "B) four", "B: four", "(B) four", "Option B", "Answer: B", "The letter B"),
  ],
)
def test_a_gold_letter_is_read_in_the_forms_in_which_replies_are(target):
  assert LETTER.is_right("B", target)
  assert not LETTER.is_right("C", target)
  chain = Chain(id="c", question="q", reasoning="r", answer="The answer is (B).", target=target)
  assert expected_answer(chain).form is LETTER
  assert LETTER.is_right("B, C", "B and C")


@pytest.mark.parametrize(
  "target",
  [
    *("A cat", "I think", "E. coli", "C++", "20 (C)", "carbon (C)", "C 14", "C major", "B-cell"),
    *("D is the derivative", "F = ma", "C_2", "vitamin C", "H 2 O", "Be", "5", "(A, B)", "G.D.P."),
  ],
)
def test_a_gold_answer_that_is_no_letter_does_not_become_one(target):
  assert not any(LETTER.is_right(letter, target) for letter in "ABCDEFGHIJ")


@pytest.mark.slow
def test_every_option_of_real_questions_is_read_as_its_letter():
  if not DATA.exists():
    pytest.skip(f"needs {DATA}")
  read, wrong = 0, []
  for line in DATA.read_text().splitlines():
    for option in json.loads(line)["question"].partition("\n\nOptions:\n")[2].splitlines():
      if len(option) > 3 and option[0] in "ABCDEFGHIJ" and option[1:3] == ". ":
        read += 1
        said = letter(f"The answer is {option}") or ""
        wrong += [(option, said)] * (said != option[0])
  assert read > 20_000
  assert not wrong
