"""Runs one stage: asks a teacher about every chain, checks the replies, asks again, stores."""

import hashlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

from greedy_prune_jax.drp.prompts import write_prompt
from greedy_prune_jax.drp.records import finished_record
from greedy_prune_jax.drp.refusal import RefusedReplyError
from greedy_prune_jax.drp.stages import Item, Stage
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs.records import Record
from greedy_prune_jax.runs.workdir import Workdir
from greedy_prune_jax.teachers.replies import collect_replies
from greedy_prune_jax.teachers.structured import mend_object
from greedy_prune_jax.teachers.teacher import Prompt, Reply, Teacher


class Asking(NamedTuple):
  """How stages ask.

  Attributes:
    teacher: its name, for the records.
    max_attempts: how often a chain is asked about, the first time included.
    seed: of the replies' randomness.
  """

  teacher: str
  max_attempts: int
  seed: int


class _Waiting(NamedTuple):
  """A chain that is to be asked about: what was refused so far, and the tokens that it took."""

  item: Item
  refused: tuple[Record, ...] = ()
  num_tokens: int = 0


def ask_teacher(
  stage: Stage,
  items: Mapping[str, Item],
  asking: Asking,
  workdir: Workdir,
  open_teacher: Callable[[], Teacher],
) -> int:
  """Gets a stage's results for chains, and stores a record of each.

  All chains are asked about once, then those whose replies were refused once more, with what was
  wrong. After the last attempt a chain's record says why it failed. Every reply is stored as it
  comes, and a run that is started again checks the stored ones as if they had just come.

  Args:
    stage: what is asked.
    items: chains by id.
    asking: how.
    workdir: has an output for the stage.
    open_teacher: called only if there is something left to ask.

  Returns:
    How many chains there is no reply on; they have no record, and the next run asks again.
  """
  output, no_reply = workdir.output(stage.output), 0
  waiting = {item_id: _Waiting(item) for item_id, item in items.items()}
  for attempt in range(asking.max_attempts):
    again: dict[str, _Waiting] = {}

    def finish(
      item_id: str,
      replies: list[Reply],
      waiting: Mapping[str, _Waiting] = waiting,
      again: dict[str, _Waiting] = again,
    ) -> None:
      (reply,), asked = replies, waiting[item_id]
      num_tokens = asked.num_tokens + (reply.num_tokens or 0)
      try:
        results = read_reply(stage, asked.item, reply)
      except RefusedReplyError as error:
        refused = {"reason": error.reason, "complaint": error.complaint}
        again[item_id] = _Waiting(asked.item, (*asked.refused, refused), num_tokens)
      else:
        output.write(
          finished_record(
            stage, asked.item, asking.teacher, results, refused=asked.refused, num_tokens=num_tokens
          )
        )

    groups = {
      item_id: [_prompt(stage, asked, attempt, asking.seed)] for item_id, asked in waiting.items()
    }
    no_reply += collect_replies(groups, workdir, open_teacher, finish)
    waiting = again
  for asked in waiting.values():
    output.write(
      finished_record(
        stage, asked.item, asking.teacher, None, refused=asked.refused, num_tokens=asked.num_tokens
      )
    )
  return no_reply


def read_reply(stage: Stage, item: Item, reply: Reply) -> Record:
  """The keys that a stage adds to a record, from a reply that passes all checks.

  Raises:
    RefusedReplyError: it does not pass one.
  """
  if reply.finish_reason == "length":
    raise RefusedReplyError("cut_off", "it was too long and was cut off; be brief")
  try:
    found = mend_object(reply.text, stage.schema["required"])
  except UserError as error:
    raise RefusedReplyError("not_json", str(error)) from error
  try:
    return stage.read(item, found)
  except UserError as error:
    raise RefusedReplyError("bad_form", str(error)) from error


def _prompt(stage: Stage, asked: _Waiting, attempt: int, seed: int) -> Prompt:
  prompt_id = f"{stage.name}/{asked.item.chain.id}#{attempt}"
  # A hash, so that it depends on nothing but the prompt.
  digest = hashlib.sha256(f"{seed}/{prompt_id}".encode()).digest()
  complaint = asked.refused[-1]["complaint"] if asked.refused else ""
  return Prompt(
    id=prompt_id,
    question=write_prompt(stage.name, stage.values(asked.item), complaint),
    seed=int.from_bytes(digest[:4], "big"),
    schema=stage.schema,
  )
