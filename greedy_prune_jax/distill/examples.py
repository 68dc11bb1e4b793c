"""Training examples: a question, and what the student is to write on it."""

import collections
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Int32
from transformers import PreTrainedTokenizerFast

from greedy_prune_jax.chains.chain import Chain, PrunedChain, ratio_key
from greedy_prune_jax.chains.chat_template import ChatTemplate
from greedy_prune_jax.chains.formats import ColumnSettings
from greedy_prune_jax.chains.question_sets import split_source
from greedy_prune_jax.chains.ratio_form import check_ratio_form, check_ratios, told_question
from greedy_prune_jax.chains.reading import BadChain, read_chains, read_pruned, warn_of_unfinished
from greedy_prune_jax.chains.segments import segment
from greedy_prune_jax.chains.thinking_chains import AUTO, MODES, OFF, find_thinking, fit_chain
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs.files import user_path
from greedy_prune_jax.runs.settings import JobSettings, check_choice, check_least


@dataclasses.dataclass(frozen=True, eq=False)
class Example:
  """A text to train on.

  Attributes:
    id: the chain's and, behind an @, the keep ratio.
    token_ids: prompt, reasoning and answer, in the student's tokens.
    num_prompt: number of prompt tokens, on which there is no loss.
    thinking_form: form of its thinking; None where its reasoning is visible.
  """

  id: str
  token_ids: Int32[np.ndarray, "T"]
  num_prompt: int
  thinking_form: str | None = None

  def __len__(self) -> int:
    return len(self.token_ids)

  @property
  def num_scored(self) -> int:
    """Tokens that the loss is on: all of the completion."""
    return len(self) - self.num_prompt


@dataclasses.dataclass(frozen=True)
class ExampleSet:
  """Examples to train on, and to validate with.

  Attributes:
    train: examples by chain, one for each keep ratio; every epoch sees one of them.
    validation: examples of held-out chains.
    left_out: examples that cannot be trained on.
  """

  train: tuple[tuple[Example, ...], ...]
  validation: tuple[Example, ...]
  left_out: tuple[BadChain, ...]

  @property
  def fingerprint(self) -> str:
    """Hash of all ids, prompt lengths and tokens, by which a resumed run knows its examples."""
    groups = [
      [(example.id, example.num_prompt, example.token_ids.tolist()) for example in group]
      for group in (*self.train, self.validation)
    ]
    return hashlib.sha256(json.dumps(groups).encode()).hexdigest()

  @property
  def longest(self) -> int:
    """Tokens of the longest example, prompt included."""
    groups = (*self.train, self.validation)
    return max(len(example.token_ids) for group in groups for example in group)

  @property
  def thinking_form(self) -> str | None:
    """The form in which most examples think; None if most do not."""
    forms = collections.Counter(e.thinking_form for group in self.train for e in group)
    return forms.most_common(1)[0][0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExampleSettings(JobSettings):
  """The form in which chains become examples.

  Keep ratios are told as in TokenSkip, arXiv 2502.12067.
  """

  keep_ratios: tuple[float, ...]
  ratio_form: str
  max_length: int
  thinking: str

  def __post_init__(self):
    super().__post_init__()
    check_choice("thinking", self.thinking, MODES)
    check_least(self, 2, "max_length")
    check_ratios(self.keep_ratios)
    check_ratio_form(self.ratio_form)


_TORN = (
  "its reasoning has parts of a character whose other tokens were deleted, which no text can "
  "spell; prune with unit=word to keep characters whole"
)


def read_texts(
  source: str,
  keep_ratios: Sequence[float],
  *,
  num_chains: int = 0,
  seed: int = 0,
  columns: ColumnSettings | None = None,
) -> list[tuple[Chain, dict[float, str | None]]]:
  """Chains by id, and the reasoning of each at every keep ratio.

  None stands for a reasoning with parts of a character, which no text can spell.

  Args:
    source: the workdir of a `prune` run, one of its files, or, where the only ratios are 1 and 0,
      anything that `read_chains` knows.
    num_chains: number of chains; 0 for all. A question set's first in its order, else the first
      by id, since files hold them as they happened to be finished.
    seed: seed of a question set's order.

  Raises:
    UserError: nothing usable at `source`, or it was not pruned as far as a keep ratio asks.
  """
  if split_source(source) is None and user_path(source).exists():
    warn_of_unfinished(source)
  texts: Iterable[tuple[Chain, dict[float, str | None]]]
  if set(keep_ratios) <= {0.0, 1.0}:
    wanted = num_chains if split_source(source) is not None else 0
    texts = (
      (chain, {ratio: chain.reasoning if ratio else "" for ratio in keep_ratios})
      for chain in map(
        find_thinking, read_chains(source, num_chains=wanted, seed=seed, columns=columns)
      )
    )
  else:
    texts = (
      (pruned.chain, {ratio: _whole_text_at(pruned, ratio) for ratio in keep_ratios})
      for pruned in read_pruned(source)
    )
  return sorted(texts, key=lambda item: item[0].id)[: num_chains or None]


def _whole_text_at(pruned: PrunedChain, keep_ratio: float | int) -> str | None:
  if keep_ratio == 0:  # also where the deletions did not go that far
    return ""
  if keep_ratio != 1 and pruned.is_torn(pruned.positions_at(keep_ratio)):
    return None
  return pruned.text_at(keep_ratio)


def _example_id(chain: Chain, keep_ratio: float | int) -> str:
  """The chain's id and, behind an @, the keep ratio."""
  return f"{chain.id}@{ratio_key(keep_ratio)}"


def make_example(
  chain: Chain,
  reasoning: str,
  keep_ratio: float | int,
  tokenizer: PreTrainedTokenizerFast,
  template: ChatTemplate,
  ratio_form: str = "",
  thinking: str = AUTO,
) -> Example:
  """A chain whose reasoning was replaced, in the student's tokens, chat template and thinking."""
  question = told_question(chain.question, keep_ratio, ratio_form)
  shown = dataclasses.replace(chain, question=question, reasoning=reasoning)
  if thinking == AUTO and template.layout is None:
    thinking = OFF  # a student without a form of thinking learns the chain as its visible reply
  shown = fit_chain(shown, template, thinking)
  parts = segment(shown, tokenizer, template)
  return Example(
    id=_example_id(chain, keep_ratio),
    token_ids=np.concatenate([parts.prompt, parts.reasoning, parts.answer]),
    num_prompt=len(parts.prompt),
    thinking_form=shown.thinking_form,
  )


def make_examples(
  texts: Iterable[tuple[Chain, Mapping[float, str | None]]],
  settings: ExampleSettings,
  tokenizer: PreTrainedTokenizerFast,
  template: ChatTemplate,
  *,
  num_validation: int = 0,
  seed: int = 0,
) -> ExampleSet:
  """Examples of all chains.

  Which chains are held out depends on nothing but their ids and questions and the seed, so that
  runs on the same chains, pruned in other ways, hold out the same; nor does the order of files
  matter. No question is both trained on and validated with.

  Args:
    texts: texts from `read_texts`.
    tokenizer, template: the student's.
    num_validation: chains to hold out, at least: those of one question go together.

  Raises:
    UserError: no example is left to train on, or none of those that were to be held out.
  """
  chains = sorted(texts, key=lambda item: _place(item[0].id, seed))
  held = _held_questions([chain for chain, _ in chains], num_validation)
  trained, validated, left_out = [], [], []
  for chain, reasonings in chains:
    group = []
    for ratio, text in reasonings.items():
      if text is None:
        left_out.append(BadChain(place="", id=_example_id(chain, ratio), reason=_TORN))
        continue
      example = make_example(
        chain, text, ratio, tokenizer, template, settings.ratio_form, settings.thinking
      )
      if len(example) <= settings.max_length:
        group.append(example)
        continue
      reason = f"it has {len(example)} tokens, more than the max_length of {settings.max_length}"
      left_out.append(BadChain(place="", id=example.id, reason=reason))
    (validated if chain.question in held else trained).append(tuple(group))
  train = tuple(group for group in trained if group)
  if not train:
    raise UserError(
      f"there is nothing to train on: of {len(chains)} chains {len(validated)} are held out for "
      f"validation (all of a question together), and {len(left_out)} examples are left out"
      + (f" ({left_out[0].id}: {left_out[0].reason})" if left_out else "")
    )
  held_out = tuple(example for group in validated for example in group)
  if num_validation and not held_out:
    raise UserError(
      f"there is nothing to validate on: all examples of the num_validation={num_validation} "
      f"chains that are held out are left out ({left_out[0].id}: {left_out[0].reason}); hold out "
      f"more"
    )
  return ExampleSet(train, held_out, tuple(left_out))


def _held_questions(chains: Sequence[Chain], num_validation: int) -> set[str]:
  """The questions of the first chains, until those have the number of chains that is wanted."""
  counts = collections.Counter(chain.question for chain in chains)
  held, num_held = set(), 0
  for chain in chains:
    if num_held >= num_validation:
      break
    if chain.question not in held:
      held.add(chain.question)
      num_held += counts[chain.question]
  return held


def _place(chain_id: str, seed: int) -> str:
  return hashlib.sha256(f"{seed}/{chain_id}".encode()).hexdigest()
