"""A chain as token ids: prompt, reasoning and answer, tokenised separately and joined."""

import dataclasses
from typing import NamedTuple, cast

import numpy as np
from jaxtyping import Int32
from transformers import PreTrainedTokenizerFast

from greedy_prune_jax.chains.chain import Chain
from greedy_prune_jax.chains.chat_template import ChatTemplate
from greedy_prune_jax.chains.thinking import find_form
from greedy_prune_jax.errors import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class Segments:
  """The three parts of a chain as token ids. No token spans a border.

  Attributes:
    prompt: the chat template up to where the model begins to write, P tokens.
    reasoning: N tokens.
    answer: the answer's text and what the template writes after it, A tokens.
    closing: answer tokens of the closing tag of a thinking, from the first up to this one; (0, 0)
      where there is none.
  """

  prompt: Int32[np.ndarray, "P"]
  reasoning: Int32[np.ndarray, "N"]
  answer: Int32[np.ndarray, "A"]
  closing: tuple[int, int] = dataclasses.field(default=(0, 0), kw_only=True)

  @property
  def parts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Prompt, reasoning and answer."""
    return self.prompt, self.reasoning, self.answer

  def __len__(self) -> int:
    return sum(map(len, self.parts))


def segment(chain: Chain, tokenizer: PreTrainedTokenizerFast, template: ChatTemplate) -> Segments:
  """Tokenises the three parts of a chain, as `fit_chain` made it if it may be thinking."""
  prompt = template.prompt(chain.question, chain.system, thinking_form=chain.thinking_form)
  parts = encode_parts(tokenizer, prompt, chain.reasoning, chain.answer + template.tail)
  form, answer = find_form(chain.thinking_form), parts[2].ids
  closing = (0, 0) if form is None else _tokens_of(form.closing, answer, tokenizer)
  return Segments(*(part.ids for part in parts), closing=closing)


def reasoning_texts(
  chain: Chain, tokenizer: PreTrainedTokenizerFast, template: ChatTemplate
) -> list[str]:
  """The text of each of `segment`'s reasoning tokens; see `token_texts`."""
  prompt = template.prompt(chain.question, chain.system, thinking_form=chain.thinking_form)
  return token_texts(tokenizer, chain.reasoning, prompt)


def _tokens_of(
  tag: str, ids: Int32[np.ndarray, "A"], tokenizer: PreTrainedTokenizerFast
) -> tuple[int, int]:
  """The run of tokens that spell the first occurrence of a tag; (0, 0) if it does not occur."""
  start = 0
  for stop in range(1, len(ids) + 1):
    # SentencePiece puts a space behind a special token.
    text = "".join(cast(str, tokenizer.decode(ids[:stop])).split())
    if tag in text:
      return start, stop
    if not any(text.endswith(tag[:size]) for size in range(1, len(tag))):
      start = stop  # nothing of the tag is there yet
  return 0, 0


def check_length(segments: Segments, chain: Chain, max_positions: int, least: int = 2) -> None:
  """Refuses a chain in which there is nothing to prune, or that is too long for the model.

  Args:
    max_positions: the model's context, in tokens.
    least: least number of reasoning tokens; 1 where nothing is pruned.

  Raises:
    UserError: fewer than `least` reasoning tokens, or more than `max_positions` in all.
  """
  if len(segments.reasoning) < least:
    raise UserError(
      f"chain {chain.id}: its reasoning {chain.reasoning!r} is {len(segments.reasoning)} token; "
      f"{'pruning' if least > 1 else 'scoring'} needs at least {least}"
    )
  if len(segments) > max_positions:
    raise UserError(
      f"chain {chain.id}: it has {len(segments)} tokens ({len(segments.prompt)} prompt, "
      f"{len(segments.reasoning)} reasoning, {len(segments.answer)} answer), more than the model's "
      f"context of {max_positions}; leave it out, shorten it, or use another pruner"
    )


class Encoding(NamedTuple):
  """A text's tokens.

  Attributes:
    ids: token ids, [T].
    spans: first character of each token in the text, and the one behind its last; a token that
      begins with spaces of the text before begins below 0.
  """

  ids: Int32[np.ndarray, "T"]
  spans: list[tuple[int, int]]


def token_texts(tokenizer: PreTrainedTokenizerFast, text: str, before: str = "") -> list[str]:
  """The text of each token of `text`; joined they are `text`, whatever the tokenizer normalises.

  A character that several tokens make up (bytes of an emoji, say) is the text of the last of them,
  with all that the others hold before it; the others have none. So the tokens without a text and
  the next that has one belong together.

  Args:
    before: prompt that the text follows.
  """
  [_, encoding] = encode_parts(tokenizer, before, text)
  # A token's text ends where the next begins, so what nobody claims goes with the token before it.
  nexts = [*(start for start, _ in encoding.spans[1:]), len(text)]
  texts, begun = [], 0
  for (_, end), start in zip(encoding.spans, nexts, strict=True):
    completed = begun if end > start else max(begun, start)
    texts.append(text[begun:completed])
    begun = completed
  return texts


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> Encoding:
  """Tokens of a text that stands by itself."""
  # verbose=False: transformers would warn of long texts; check_length has more to say.
  found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
  return Encoding(np.asarray(found["input_ids"], np.int32), found["offset_mapping"])


def encode_parts(tokenizer: PreTrainedTokenizerFast, prompt: str, *parts: str) -> list[Encoding]:
  """Tokens of a prompt and of the parts that follow it, each as what stands before it has it.

  No token spans a border, with one exception. Where a prompt ends in a space, models learned that
  space as the beginning of the reply's first token (Llama 2 writes `[/INST]` and ` The`), so there
  it goes with that token; and a pruned reasoning that begins with its first word's space has no
  second one.
  """
  if prompt.endswith(" ") and "".join(parts).startswith(" "):
    prompt = prompt[:-1]
  moved = _spaces_of_first_token(tokenizer, prompt, "".join(parts))
  before, spaces = prompt[: len(prompt) - moved], " " * moved
  encodings = [encode(tokenizer, before)]
  for part in parts:
    ids, spans = _encode_behind(tokenizer, before, spaces + part if part else "")
    shift = len(spaces)
    encodings.append(Encoding(ids, [(start - shift, end - shift) for start, end in spans]))
    if part:  # spaces wait for the first part that has a token
      before, spaces = before + spaces + part, ""
  return encodings


def _spaces_of_first_token(tokenizer: PreTrainedTokenizerFast, prompt: str, text: str) -> int:
  """Number of spaces at a prompt's end that belong to the first token of the text behind it."""
  border = len(prompt)
  for start, end in encode(tokenizer, prompt + text).spans if prompt.endswith(" ") else ():
    if start < border < end and not prompt[start:].strip(" "):
      return border - start
  return 0


def _encode_behind(tokenizer: PreTrainedTokenizerFast, before: str, text: str) -> Encoding:
  """Tokens of a text that follows another, as those of both together have it.

  SentencePiece tokenizers (Llama 2, Mistral) begin texts with a space of their own, which would be
  one that nobody wrote. Where a token spans the border, the text is tokenised behind another border
  that holds, so that it gets no such space there either.
  """
  for context in (before, *_BORDERS):
    border = len(context)
    ids, spans = encode(tokenizer, context + text)
    first = sum(start < border for start, _ in spans)
    if all(end <= border for _, end in spans[:first]):
      return Encoding(ids[first:], [(start - border, end - border) for start, end in spans[first:]])
  return encode(tokenizer, text)


# Texts at whose end tokenizers seldom merge; a line break first, behind which words have no space.
_BORDERS = ("\n", "a", "1", ".", " ")
