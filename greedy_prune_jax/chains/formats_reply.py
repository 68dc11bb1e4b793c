"""Chains of whole replies: the cutting into reasoning and answer, and gold answers beside them.

A chain's id is empty until its row gives it one, or says which of the row's chains it is.
"""

import contextlib
import dataclasses
import re
from typing import Any

from greedy_prune_jax.chains.answers import BOXED, LETTER, NUMBER, last_answer, last_boxed
from greedy_prune_jax.chains.chain import Chain
from greedy_prune_jax.chains.normal_text import find_turn, hide_tags, without_turn_end
from greedy_prune_jax.chains.numbers import canonical_number
from greedy_prune_jax.chains.question_sets import clean_target
from greedy_prune_jax.chains.thinking import (
  FORMS,
  ThinkingForm,
  bare_thinking,
  has_reasoning,
  hide_thinking,
)
from greedy_prune_jax.chains.unbroken import unbroken
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs import records as fields
from greedy_prune_jax.runs.json_reader import parse_json
from greedy_prune_jax.runs.records import Record


def chain_of_reply(reply: str, *, part: str = "", **known: Any) -> Chain:
  """The chain of a whole reply, which `split_reply` cuts, and of the other fields."""
  reasoning, answer = split_reply(reply)
  return Chain(id=part, reasoning=reasoning, answer=answer, **known)


def of_row(chain: Chain, row_id: str) -> Chain:
  """The chain under its row's id and, behind a slash, the part of the row that its own id tells.

  Raises:
    UserError: question, reasoning or answer is blank, or the question is in a chat template; the
      message names it.
  """
  record = chain.to_record()
  for key in ("question", "reasoning", "answer"):
    fields.get_text(record, key)
  if turn := find_turn(chain.question):
    raise UserError(
      f"the question is a prompt in a chat template ({turn!r}), which would come twice; name the "
      f"key of the user's words alone, as --config.columns.question=KEY"
    )
  return dataclasses.replace(chain, id=f"{row_id}/{chain.id}" if chain.id else row_id)


def split_reply(text: str) -> tuple[str, str]:
  r"""Reasoning and answer of a reply; joined they are the reply, but for an empty thinking.

  A special token that ends a turn is left out at the end: the chat template writes it there.

  Thinking between tags is the reasoning, and the answer begins with the white space before the
  closing tag. Without tags the answer begins at the last answer marker (`\boxed{...}`, `####`,
  `The answer is`), or with the block of code that holds it; where there is none it is the last
  paragraph, or the last line of one, and no code or formula is cut. A formula is cut before a
  marker in it, since it may be most of the reasoning.

  Raises:
    UserError: the thinking never ends, nothing stands before the answer, or nothing behind the
      thinking.
  """
  text = without_turn_end(text)
  while True:
    thinking, form, behind = _cut_thinking(text)
    if form is None or has_reasoning(thinking) or not behind.strip():
      break
    text = behind.lstrip()  # of a model that was asked not to think
  if form is not None:
    if has_reasoning(thinking) and not hide_tags(hide_thinking(behind)).strip():
      raise UserError(_NO_ANSWER)
    return _parts(text, len(thinking.rstrip()), thinking)
  text = text.rstrip()
  whole = unbroken(text)
  for form in (BOXED, NUMBER, LETTER):  # a box is a number's marker too; "A: 5" is no letter
    if (answer := last_answer(text, form)) is None:
      continue
    block = whole.outside(answer.start)
    in_code = text.startswith("```", block) and has_reasoning(text[:block])
    start = block if in_code else answer.start
    if has_reasoning(text[:start]):
      return text[:start], text[start:]
  for border in (r"\n(?:[^\S\n]*\n)+", "\n"):
    ends = [match.end() for match in re.finditer(border, text) if match.end() not in whole]
    if ends:
      return _parts(text, ends[-1], text[: ends[-1]])
  return _parts(text, 0, "")


_NO_ANSWER = "has thinking and no answer behind it"


def _cut_thinking(text: str) -> tuple[str, ThinkingForm | None, str]:
  """Text up to a closing tag, its form, text behind it; a UserError for an opening tag alone."""
  for form in FORMS:
    thinking, tag, behind = text.partition(form.closing)
    if tag:
      return thinking, form, behind
    if text.lstrip().startswith(form.opening):
      raise UserError(f"is cut off: {form.opening} has no {form.closing} behind it")
  return text, None, ""


def _parts(text: str, start: int, reasoning: str) -> tuple[str, str]:
  """The text cut at `start`; a UserError if `reasoning`, what counts before it, says nothing."""
  if not has_reasoning(reasoning):
    raise UserError(f"has no reasoning before its answer: {text[:60]!r}")
  return text[:start], text[start:]


def whole_reply(thinking: str | None, text: str) -> str:
  """The reply that `text` ends, with its thinking if that came apart.

  Raises:
    UserError: there is no answer, or other thinking in the text.
  """
  if thinking is None:
    return text
  if not text.strip():
    raise UserError(_NO_ANSWER)
  if any(form.closing in text for form in FORMS):
    if bare_thinking(thinking) not in split_reply(text)[0]:
      raise UserError("has thinking in its text and other thinking beside it")
    return text
  return f"<think>\n{bare_thinking(thinking)}\n</think>\n\n{text.strip()}"


def gold(row: Record, *keys: str) -> str | None:
  """The gold answer at the first of the keys that has one; None where none has."""
  for key in keys:
    if row.get(key) is None:
      continue
    value = fields.get({key: sole(row[key])}, key, str, int, float)
    text = _stated(value) if isinstance(value, str) else canonical_number(str(value))
    if text and text.lower() not in ("n/a", "none"):
      return text
  return None


def sole(value: Any) -> Any:
  """The string of a list of one string; any other value itself."""
  is_sole = isinstance(value, list) and len(value) == 1 and isinstance(value[0], str)
  return value[0] if is_sole else value


def _stated(text: str) -> str:
  r"""The answer in a gold column's text: of a solution with `####` or a box, or of JSON."""
  if text.lstrip().startswith("{"):
    with contextlib.suppress(UserError):  # a set such as {1, 2}
      found = parse_json(text).get("answer")
      text = str(found) if isinstance(found, str | int | float) else text
  _, mark, behind = text.rpartition("####")
  answer = clean_target(last_boxed(behind) or behind)
  return canonical_number(answer) if mark else answer
