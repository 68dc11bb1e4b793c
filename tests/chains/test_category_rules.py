import pytest

from greedy_prune_jax.analysis.agreement import compare_labels
from greedy_prune_jax.chains.categories import Category
from greedy_prune_jax.chains.category_rules import RuleAnnotator
from greedy_prune_jax.chains.words import split_words
from tests.helpers.real_chains import hand_labelled

LETTERS = {
  "S": Category.SYMBOLIC_MATH,
  "V": Category.VERBAL_MATH,
  "E": Category.ENTITY_NAME,
  "C": Category.COREFERENCE,
  "M": Category.META_DISCOURSE,
  "F": Category.FUNCTION,
}


@pytest.fixture(scope="module")
def annotator():
  return RuleAnnotator()


@pytest.mark.parametrize(
  ("tokens", "expected"),
  [
    # The same sign by its place: decimal point, thousands comma, end of sentence, minus, hyphen.
    ("0|.|5| is| 1|,|000|.", "SSSFSSSF"),
    ("7| -| 3| =| 4", "SSSSS"),
    ("blue|-|green| paint", "EFEE"),
    # Sub-words take their word's label; a blank token is white space.
    ("Janet|'s| du|cks| eat| |3", "EEEEFFS"),
    # `$` opens a formula or stands for money.
    ("so| $|x|^{|2|}$| is", "MSSSSSF"),
    ("costs| $|5| and| $|6", "VSSFSS"),
    # Variables, names that are letters, and the article.
    ("T| +| a| =| 7", "SSSSS"),
    ("a| mass| of| object| A", "FVFEE"),
    # That, by what follows it.
    ("twice| that| of| the| car| that| stops", "VCFFEFF"),
    ("Therefore|,| she| has| four| times| more| eggs|.", "MFCFVVVEF"),
    ("f|(x|)", "SSS"),
    ("red| (|and| green|)", "EFFEF"),
  ],
)
def test_a_token_is_labelled_by_its_place(annotator, tokens, expected):
  tokens = tokens.split("|")
  labels = annotator.annotate([tokens])[0]
  assert dict(enumerate(zip(tokens, labels, strict=True))) == dict(
    enumerate(zip(tokens, (LETTERS[letter] for letter in expected), strict=True))
  )


def test_every_token_of_odd_texts_gets_a_label(annotator):
  chains = [
    [],
    [""],
    [" ", "\n"],
    ["\\begin{align", "} x &", "= 1 \\end{align}"],
    ["\u00e9\ufffd/x"],
  ]
  assert [len(labels) for labels in annotator.annotate(chains)] == [len(c) for c in chains]


@pytest.mark.slow
def test_rules_agree_with_the_hand_labels(annotator, capsys):
  chains = hand_labelled()
  ours = annotator.annotate([tokens for tokens, _, _ in chains])
  windows = [labels[s : s + len(hand)] for labels, (_, s, hand) in zip(ours, chains, strict=True)]
  agreement = compare_labels([hand for _, _, hand in chains], windows)
  assert agreement.num_tokens == 300
  with capsys.disabled():
    per_category = ", ".join(f"{c} {k:.2f}" for c, k in agreement.kappa_of.items() if k is not None)
    print(f"\nrules against 300 hand labels: kappa {agreement.kappa:.3f} ({per_category})")
  assert agreement.kappa > 0.7


@pytest.mark.parametrize("text", ["हिन्दी में पाँच सेब", "ภาษาไทยที่ดี กำลัง", "e\u0301te\u0301 la\u0300"])
def test_a_sign_of_a_letters_own_is_no_word(text):
  assert [(word.text, word.kind) for word in split_words(text)] == [
    (word, "letters") for word in text.split()
  ]
