"""Ranking by a text model that compresses the reasoning."""

import functools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from greedy_prune_jax.chains.chain import ratio_key
from greedy_prune_jax.chains.kept_text import nearest_positions
from greedy_prune_jax.chains.thinking import hide_thinking
from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.parallel import mesh_of
from greedy_prune_jax.rankings.interface import (
  RankedTokens,
  RankingInput,
  RankingSettings,
  RankTokens,
  UnrankedError,
)
from greedy_prune_jax.runs.jsonl import process_records, process_writer
from greedy_prune_jax.runs.records import Record, check_form
from greedy_prune_jax.teachers.load import load_teacher
from greedy_prune_jax.teachers.replies import watch_served
from greedy_prune_jax.teachers.settings import EndpointSettings, WritingSettings
from greedy_prune_jax.teachers.teacher import (
  STOPPED,
  ChatPrompt,
  Reply,
  Teacher,
  served_key,
  unanswered,
)

FOLDER = "compressions"  # of the workdir: every reply, with the ratio that it achieved
_PROMPT = "prompt"  # key of a stored reply: the digest of its prompt
_MAX_NEW_TOKENS = 2048

_SYSTEM = (
  "You shorten worked solutions by deleting words, symbols and numbers that are not needed to "
  "reach the answer. Copy what you keep exactly, in its order. Do not add, change or explain "
  "anything."
)


def text_model(model: Model, settings: RankingSettings) -> RankTokens:
  """The token that the fewest compressions by a text model keep leaves first.

  The model is asked for one compression to each keep ratio. A reply is read as a choice of the
  reasoning's words (see `nearest_positions`); words that the model adds or rephrases are ignored.
  A token's importance is the number of compressions that keep it, and of equals the lower position
  leaves first. So each keep ratio is met exactly, whatever ratio the model achieved. The folder
  `compressions` of the workdir holds each reply with that ratio and the digest of its request; a
  resumed run reads replies to the same requests from there instead of asking again.

  Source: a baseline of TokenSkip, arXiv 2502.12067. There students are trained on the model's text
  itself; here its choice of words ranks tokens.

  Raises:
    UserError: the model cannot be used.
    UnrankedError: raised by `rank`: the model gives no reply to a chain, or a cut-off one.
  """
  folder = settings.folder or Path(tempfile.mkdtemp(prefix="greedy_prune_jax-"))
  stored = _read(folder / FOLDER)
  served = {record["served"] for record in stored.values() if "served" in record}

  @functools.cache
  def open_teacher() -> Teacher:
    writing = WritingSettings(max_new_tokens=_MAX_NEW_TOKENS)
    endpoint = settings.endpoint or EndpointSettings()
    return load_teacher(settings.text_model, writing, endpoint, mesh=mesh_of(model.params))

  def rank(chain: RankingInput) -> RankedTokens:
    prompts = _prompts(chain, settings.keep_ratios)
    _ask(chain, prompts, stored, open_teacher, folder / FOLDER, served)
    kept_by = np.zeros(len(chain.tokens), np.int64)
    for prompt in prompts.values():
      kept_by[_kept(chain, stored[_place(prompt, stored)]["text"])] += 1
    return RankedTokens.of(kept_by, chain)

  return rank


def _kept(chain: RankingInput, reply: str) -> list[int]:
  """Positions of the tokens that a reply keeps; thinking in it is no part of the compression."""
  return nearest_positions(chain.tokens, hide_thinking(reply).lstrip("\n"))


def _prompts(chain: RankingInput, ratios: Sequence[float]) -> dict[float, ChatPrompt]:
  """Requests for the compressions of a chain, by keep ratio; none for 0, which keeps nothing."""
  return {
    ratio: ChatPrompt(
      id=f"{chain.chain_id}@{ratio_key(ratio)}",
      question=write_request(chain, ratio),
      system=_SYSTEM,
    )
    for ratio in ratios
    if ratio > 0
  }


# Replies by the ids and the digests of their prompts; None for those of former versions, which
# stored no digest.
_Stored = dict[tuple[str, str | None], Record]


def _read(folder: Path) -> _Stored:
  """All stored replies."""
  records = process_records(folder, _check)
  return {(record["id"], record.get(_PROMPT)): record for record in records}


def _check(record: Record) -> None:
  check_form(record, {"id": str, "text": str, f"{_PROMPT}?": str, "served?": str})


def _place(prompt: ChatPrompt, stored: _Stored) -> tuple[str, str | None]:
  """The key of the reply to a prompt: with its digest, unless only one without is stored."""
  place = prompt.id, prompt.digest
  old = prompt.id, None
  return old if place not in stored and old in stored else place


def _ask(
  chain: RankingInput,
  prompts: Mapping[float, ChatPrompt],
  stored: _Stored,
  open_teacher: Callable[[], Teacher],
  folder: Path,
  served: set[str],
) -> None:
  """Asks for the compressions of a chain that are not stored yet, and stores the replies."""
  asked = {p.id: (ratio, p) for ratio, p in prompts.items() if _place(p, stored) not in stored}
  if not asked:
    return
  failed = ""
  with process_writer(folder, jax.process_index()) as writer:
    replies = open_teacher().write([prompt for _, prompt in asked.values()])
    for reply in watch_served(replies, served):
      if (why := _why_not(reply)) is not None:
        failed = why
        continue
      kept, (ratio, prompt) = _kept(chain, reply.text), asked[reply.id]
      record = {
        "id": reply.id,
        "chain": chain.chain_id,
        "asked": ratio,
        "achieved": len(kept) / len(chain.tokens),
        "text": reply.text,
        "finish_reason": reply.finish_reason,
        _PROMPT: prompt.digest,
        **served_key(reply),
      }
      stored[reply.id, prompt.digest] = record
      writer.write(record)
  if failed:
    raise UnrankedError(f"the text model did not compress chain {chain.chain_id}: {failed}")


def _why_not(reply: Reply) -> str | None:
  """Reason why a reply is not a compression of the whole chain; None where it is one."""
  fault = unanswered(reply.text, reply.finish_reason, reply.thinking_end)
  if reply.error is not None:
    return reply.error
  if reply.finish_reason == "length":
    return (
      f"its reply was cut off after {_MAX_NEW_TOKENS} tokens, and all that it lacks would count as "
      f"deleted; use shorter chains (max_reasoning_tokens), or a model that does not think first"
    )
  if fault == "empty":
    return "its reply is empty, and everything would count as deleted; use another model"
  if fault == "still thinking":
    return "its thinking never ends, and no compression follows; use a model that does not think"
  if reply.finish_reason == STOPPED:
    return None
  return (
    f"its reply ended with {reply.finish_reason!r}, not by itself, and all that it lacks would "
    f"count as deleted"
  )


def write_request(chain: RankingInput, ratio: float) -> str:
  """The request for a compression of a chain's reasoning to a share of its words."""
  reasoning = "".join(chain.tokens)
  num_words = len(reasoning.split())
  wanted = max(min(round(num_words * ratio), num_words - 1), 1)
  return (
    f"Shorten this solution to {_percentage(ratio)} of its length: about {wanted} of its "
    f"{num_words} words. Write the shortened solution and nothing else.\n\n{reasoning.strip()}"
  )


def _percentage(ratio: float) -> str:
  """A ratio between 0 and 1 as a percentage with as few digits as tell it from 0% and 100%."""
  texts = (f"{ratio:.{digits}%}" for digits in range(16))
  return next((text for text in texts if 0 < float(text[:-1]) < 100), f"{ratio:%}")
