"""An annotator that runs offline: signs by their neighbours, words by list and part of speech."""

from collections.abc import Sequence

from greedy_prune_jax.chains import lexicon
from greedy_prune_jax.chains.categories import Annotator, Category, Labels, token_spans
from greedy_prune_jax.chains.lexicon import is_listed
from greedy_prune_jax.chains.words import Word, split_words, word_of_spans
from greedy_prune_jax.errors import UserError, check_package

# Signs that mean mathematics wherever they stand.
_MATH_SIGNS = frozenset("=+*<>^_%°$€£¥÷±≈≠≤≥√∑∏∫∂∇∞π∈∩→⇒⇔·⋅{}|~\\@#²³¹⁰½¼¾&")
_MATH_SIGNS |= {"\N{MULTIPLICATION SIGN}", "\N{UNION}"}
# Signs that mean mathematics between two symbols.
_BINARY_SIGNS = frozenset("-\N{EN DASH}\N{MINUS SIGN}/:!,.'")
_OPENING, _CLOSING = "([", ")]"
_SENTENCE_ENDS = frozenset(".?!:;")


def offline_annotator(name: str) -> Annotator:
  """The annotator of that name, if it asks no model; `rules` is the only one.

  Raises:
    UserError: it is another, or its package is not installed.
  """
  if name != "rules":
    raise UserError(
      f"annotator={name!r}; expected rules or, in the job analyze alone, model, which asks a text "
      "model"
    )
  return RuleAnnotator()


class RuleAnnotator:
  """Labels by the rules of this module over the word lists of `lexicon`.

  The parts of speech come from TextBlob's lexicon-and-context tagger, whose data is part of its
  package: no model has to be fetched.

  Raises:
    UserError: TextBlob is not installed.
  """

  def __init__(self):
    check_package("textblob", "the annotator rules", "analysis")
    from textblob.en.taggers import PatternTagger

    self._tagger = PatternTagger()

  def annotate(self, chains: Sequence[Sequence[str]]) -> list[Labels]:
    """See `Annotator`; every token gets a label."""
    return [self._annotate_one(tokens) for tokens in chains]

  def _annotate_one(self, tokens: Sequence[str]) -> Labels:
    text = "".join(tokens)
    words = split_words(text)
    categories = categorise(words, self._parts_of_speech(words))
    places = word_of_spans(words, token_spans(tokens), text)
    return tuple(Category.FUNCTION if i is None else categories[i] for i in places)

  def _parts_of_speech(self, words: Sequence[Word]) -> list[str]:
    """Penn Treebank tags, one a word; formulas and numbers are shown to the tagger as `1`."""
    shown = [
      {"letters": word.text, "sign": word.text, "newline": "."}.get(word.kind, "1")
      for word in words
    ]
    if not shown:
      return []
    tags = [tag for _, tag in self._tagger.tag(" ".join(shown), tokenize=False)]
    if len(tags) != len(words):
      raise RuntimeError(f"the tagger gave {len(tags)} tags for {len(words)} words: {shown}")
    return tags


def categorise(words: Sequence[Word], tags: Sequence[str]) -> list[Category]:
  """The category of each word, given its part of speech (Penn Treebank tag)."""
  symbolic = _symbolic(words)
  return [
    Category.SYMBOLIC_MATH
    if symbolic[i]
    else _category_of_letters(words, tags, i)
    if words[i].kind == "letters"
    else Category.FUNCTION
    for i in range(len(words))
  ]


def _symbolic(words: Sequence[Word]) -> list[bool]:
  """Marks words that are mathematics in symbols: first the certain ones, then what joins them."""
  symbolic = [
    word.kind in ("formula", "number") or (word.kind == "sign" and word.text in _MATH_SIGNS)
    for word in words
  ]
  for i, word in enumerate(words):
    if word.kind == "letters":
      symbolic[i] = _is_symbol(words, symbolic, i)
  _mark_brackets(words, symbolic)
  for i, word in enumerate(words):
    if word.kind == "sign" and word.text in _BINARY_SIGNS:
      symbolic[i] = _is_math_sign(words, symbolic, i)
  return symbolic


def _is_symbol(words: Sequence[Word], symbolic: Sequence[bool], i: int) -> bool:
  """Tells whether letters are a variable, a function's name or a written unit."""
  word = words[i]
  before = i > 0 and symbolic[i - 1]
  after = i + 1 < len(words) and symbolic[i + 1]
  glued_before = before and word.joined and words[i - 1].text not in "$€£¥%"
  glued_after = after and words[i + 1].joined and words[i + 1].text not in "%"
  called = (
    i + 1 < len(words) and words[i + 1].joined and words[i + 1].text == "(" and len(word.text) < 4
  )
  after_slash = i > 1 and words[i - 1].text == "/" and symbolic[i - 2]
  if word.lower in lexicon.UNIT_SYMBOLS and (
    after_slash or (before and word.lower not in ("a", "in"))
  ):
    return True
  if after_slash and len(word.text) < 4:
    return True
  if len(word.text) == 1:
    if word.text in "aAI":
      return bool(glued_before or glued_after or called) or (before and after)
    named = i > 0 and is_listed(words[i - 1].lower, lexicon.NAMED_BY_LETTERS)
    return not (word.text.isupper() and named)
  return bool(glued_before or glued_after or called) and len(word.text) < 6


def _mark_brackets(words: Sequence[Word], symbolic: list[bool]) -> None:
  """Marks pairs of brackets that hold a formula, or follow a symbol without a blank."""
  open_places: list[int] = []
  for i, word in enumerate(words):
    if word.kind != "sign":
      continue
    if word.text in _OPENING:
      open_places.append(i)
    elif word.text in _CLOSING and open_places:
      start = open_places.pop()
      inside = [
        j for j in range(start + 1, i) if words[j].kind != "sign" or words[j].text not in ",.-/ "
      ]
      called = start > 0 and symbolic[start - 1] and words[start].joined
      if inside and (called or all(symbolic[j] for j in inside)):
        symbolic[start] = symbolic[i] = True


def _is_math_sign(words: Sequence[Word], symbolic: Sequence[bool], i: int) -> bool:
  """Tells whether a sign such as `-` or `/` works between symbols, or is the minus of a number."""
  word = words[i]
  before = i > 0 and symbolic[i - 1]
  after = i + 1 < len(words) and symbolic[i + 1]
  joined_after = i + 1 < len(words) and words[i + 1].joined
  if word.text == "/":
    return before or after
  if word.text == "!":
    return before and word.joined
  if word.text in ",.:'":
    return before and after and word.joined and joined_after
  return after and (before or joined_after)


def _category_of_letters(words: Sequence[Word], tags: Sequence[str], i: int) -> Category:
  """The category of a word in letters that is no symbol."""
  word, tag = words[i], tags[i]
  lower = word.lower
  if lower in lexicon.COREFERENCE:
    return Category.COREFERENCE
  if lower == "that" and _points_back(words, tags, i):
    return Category.COREFERENCE
  if len(word.text) == 1 and lower != "i":
    return Category.FUNCTION if lower == "a" and not _names(words, i) else Category.ENTITY_NAME
  if _is_first(words, i) and lower in lexicon.META_WHEN_FIRST:
    return Category.META_DISCOURSE
  if lower in lexicon.FUNCTION:
    return Category.FUNCTION
  if is_listed(lower, lexicon.META):
    return Category.META_DISCOURSE
  if is_listed(lower, _VERBAL):
    return Category.VERBAL_MATH
  if tag.startswith(("NN", "JJ", "FW")) or (word.text[0].isupper() and not _is_first(words, i)):
    return Category.ENTITY_NAME
  return Category.FUNCTION


_VERBAL = (
  lexicon.NUMBER_WORDS
  | lexicon.QUANTIFIERS
  | lexicon.UNITS
  | lexicon.QUANTITIES
  | lexicon.OPERATIONS
)


def _points_back(words: Sequence[Word], tags: Sequence[str], i: int) -> bool:
  """Tells whether `that` refers to what was said: `twice that of`, `after that,`, `That is`."""
  if i + 1 == len(words) or words[i + 1].lower == "of":
    return True
  if words[i + 1].kind in ("sign", "newline"):
    return True
  begins = _is_first(words, i) or words[i - 1].lower in ("so", "and")
  return begins and tags[i + 1] in ("VBZ", "VBD", "MD")


def _names(words: Sequence[Word], i: int) -> bool:
  """Tells whether a single letter is a name, as in `object A` and `(A)`."""
  return (
    words[i].text.isupper()
    and i > 0
    and (is_listed(words[i - 1].lower, lexicon.NAMED_BY_LETTERS) or words[i - 1].text == "(")
  )


def _is_first(words: Sequence[Word], i: int) -> bool:
  """Tells whether a word begins a sentence, a line, or what follows a comma."""
  return i == 0 or words[i - 1].kind == "newline" or words[i - 1].text in _SENTENCE_ENDS | {","}
