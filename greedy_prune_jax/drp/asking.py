"""Runs one stage: asks a teacher about every chain, checks the replies, asks again, stores."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from greedy_prune_jax.drp.checks import RefusedReplyError
from greedy_prune_jax.drp.items import Item
from greedy_prune_jax.drp.prompts import stage_prompt
from greedy_prune_jax.drp.records import finished_record
from greedy_prune_jax.drp.settings import DrpSettings
from greedy_prune_jax.drp.stages import Stage
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs.records import Record
from greedy_prune_jax.runs.workdir import Workdir
from greedy_prune_jax.teachers.replies import collect_replies
from greedy_prune_jax.teachers.structured import mend_object
from greedy_prune_jax.teachers.teacher import (
  ChatPrompt,
  Reply,
  Teacher,
  prompt_seed,
  served_key,
  unanswered,
)

# What is told to a teacher of a reply that `unanswered` calls so.
_COMPLAINTS = {
  "cut off": "it was too long and was cut off; be brief",
  "still thinking": "its thinking did not end, and no JSON followed; think less",
  "refused": "it refused, though a text is only to be edited",
  "tool call": "it called a tool, and there is none; write the JSON as text",
  "empty": "it had no text outside its thinking; write the JSON",
  "broken down": "it broke off",
}


class _Pending(NamedTuple):
  """A chain without an accepted reply, with its refusals so far, their tokens and last model."""

  item: Item
  refused: tuple[Record, ...] = ()
  num_tokens: int = 0
  served: Mapping[str, str] = MappingProxyType({})


def ask_teacher(
  stage: Stage,
  items: Mapping[str, Item],
  settings: DrpSettings,
  workdir: Workdir,
  open_teacher: Callable[[], Teacher],
  served: set[str],
) -> int:
  """Gets a stage's results for chains, and stores a record of each.

  All chains are asked about once, then those whose replies were refused once more, with what was
  wrong. After the last attempt a chain's record says why it failed. Every reply is stored as it
  comes, and a run that is started again checks the stored ones as if they had just come.

  Args:
    open_teacher: called only if there is something left to ask.
    served: models that wrote the workdir's replies so far; see `watch_served`.

  Returns:
    Number of chains without a reply; they have no record, and the next run asks again.
  """
  no_reply = 0
  pending = {item_id: _Pending(item) for item_id, item in items.items()}

  def store(chain: _Pending, results: Record | None) -> None:
    record = finished_record(
      stage,
      chain.item,
      settings.teacher_name,
      results,
      refused=chain.refused,
      num_tokens=chain.num_tokens,
      made_by=chain.served,
    )
    workdir.output(stage.output).write(record)

  def finish(item_id: str, replies: list[Reply]) -> None:
    (reply,) = replies
    chain = pending.pop(item_id)
    num_tokens = chain.num_tokens + (reply.num_tokens or 0)
    chain = chain._replace(num_tokens=num_tokens, served=served_key(reply))
    try:
      results = read_reply(stage, chain.item, reply)
    except RefusedReplyError as error:
      refused = {"reason": error.reason, "complaint": error.complaint}
      again[item_id] = chain._replace(refused=(*chain.refused, refused))
    else:
      store(chain, results)

  for attempt in range(settings.max_attempts):
    again: dict[str, _Pending] = {}
    groups = {
      item_id: [_prompt(stage, chain, attempt, settings.seed)] for item_id, chain in pending.items()
    }
    beside = {"stage": stage.name, "attempt": attempt}
    no_reply += collect_replies(groups, workdir, open_teacher, finish, beside, served)
    pending = again
  for chain in pending.values():
    store(chain, None)
  return no_reply


def read_reply(stage: Stage, item: Item, reply: Reply) -> Record:
  """The keys that a stage adds to a record, from a reply; a RefusedReplyError if a check fails."""
  fault = unanswered(reply.text, reply.finish_reason, reply.thinking_end)
  if fault is not None:
    complaint = _COMPLAINTS[fault] + (f": {reply.text!r}" if fault == "refused" else "")
    raise RefusedReplyError(fault.replace(" ", "_"), complaint)
  try:
    object_ = mend_object(reply.text, stage.schema)
  except UserError as error:
    raise RefusedReplyError("not_json", str(error)) from error
  try:
    return stage.read(item, object_)
  except UserError as error:
    raise RefusedReplyError("bad_form", str(error)) from error


def _prompt(stage: Stage, chain: _Pending, attempt: int, seed: int) -> ChatPrompt:
  prompt_id = f"{stage.name}/{chain.item.chain.id}#{attempt}"
  complaint = chain.refused[-1]["complaint"] if chain.refused else ""
  return ChatPrompt(
    id=prompt_id,
    question=stage_prompt(stage.name, stage.values(chain.item), complaint),
    seed=prompt_seed(seed, prompt_id),
    schema=stage.schema,
  )
