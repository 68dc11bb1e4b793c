"""A chain as token ids: prompt, reasoning and answer, tokenised separately and joined."""

import dataclasses

import numpy as np
from jaxtyping import Int32
from transformers import PreTrainedTokenizerFast

from greedy_prune_jax.chains.chain import Chain
from greedy_prune_jax.chains.chat_template import ChatTemplate
from greedy_prune_jax.errors import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class Segments:
  """The three parts of a chain as token ids. No token spans a border.

  Attributes:
    prompt: the chat template up to where the model begins to write, P tokens.
    reasoning: N tokens.
    answer: the answer's text and what the template writes after it, A tokens.
  """

  prompt: Int32[np.ndarray, "P"]
  reasoning: Int32[np.ndarray, "N"]
  answer: Int32[np.ndarray, "A"]

  def __len__(self) -> int:
    return len(self.prompt) + len(self.reasoning) + len(self.answer)


def segment(chain: Chain, tokenizer: PreTrainedTokenizerFast, template: ChatTemplate) -> Segments:
  """Tokenises the three parts of a chain, as `fit_chain` made it if it may be thinking."""
  prompt = template.prompt(chain.question, chain.system, thinking_form=chain.thinking_form)
  return Segments(
    prompt=encode(tokenizer, prompt),
    reasoning=encode(tokenizer, chain.reasoning),
    answer=encode_continuation(tokenizer, chain.answer + template.tail),
  )


def check_length(segments: Segments, chain: Chain, max_positions: int) -> None:
  """Refuses a chain in which there is nothing to prune, or that is too long for the model.

  Args:
    segments: the chain's.
    chain: names it in messages.
    max_positions: the model's context, in tokens.

  Raises:
    UserError: fewer than two reasoning tokens, or more than `max_positions` in all.
  """
  if len(segments.reasoning) < 2:
    raise UserError(
      f"chain {chain.id}: its reasoning {chain.reasoning!r} is {len(segments.reasoning)} token; "
      f"pruning needs at least 2"
    )
  if len(segments) > max_positions:
    raise UserError(
      f"chain {chain.id}: it has {len(segments)} tokens ({len(segments.prompt)} prompt, "
      f"{len(segments.reasoning)} reasoning, {len(segments.answer)} answer), more than the model's "
      f"context of {max_positions}; leave it out, shorten it, or use another pruner"
    )


def token_texts(tokenizer: PreTrainedTokenizerFast, text: str) -> list[str]:
  """The text of each token of `text`; joined they are `text`, whatever the tokenizer normalises.

  A character that several tokens make up (bytes of an emoji, say) is the text of the last of them,
  with all that the others hold before it; the others have none. So the tokens without a text and
  the next that has one belong together.
  """
  spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
  # A token's text ends where the next begins, so what nobody claims goes with the token before it.
  nexts = [*(start for start, _ in spans[1:]), len(text)]
  texts, begun = [], 0
  for (_, end), start in zip(spans, nexts, strict=True):
    completed = begun if end > start else max(begun, start)
    texts.append(text[begun:completed])
    begun = completed
  return texts


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> Int32[np.ndarray, "T"]:
  """Token ids of a text that stands by itself."""
  # verbose=False: transformers would warn of long texts; check_length has more to say.
  ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
  return np.asarray(ids, np.int32)


def encode_continuation(tokenizer: PreTrainedTokenizerFast, text: str) -> Int32[np.ndarray, "T"]:
  """Token ids of a text that follows another, without the space that it is not preceded by.

  SentencePiece tokenizers (Llama 2, Mistral) begin every text with a space of their own. At the
  start of a reply models expect it; inside one it would be a space that nobody wrote. Behind a
  newline there is none, so the text is tokenised there, and the newline is taken away again.
  """
  ids, newline, both = (encode(tokenizer, t) for t in (text, "\n", "\n" + text))
  first = tokenizer.convert_ids_to_tokens(encode(tokenizer, "a").tolist())[0]
  if first.startswith(("\N{LOWER ONE EIGHTH BLOCK}", "Ġ")) and np.array_equal(
    both[: len(newline)], newline
  ):
    return both[len(newline) :]
  return ids
