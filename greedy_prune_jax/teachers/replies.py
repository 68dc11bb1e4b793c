"""Replies gathered from a teacher: stored as they come, or put back in the prompts' order."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from absl import logging
from tqdm import tqdm

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs.workdir import Workdir
from greedy_prune_jax.teachers.teacher import ChatPrompt, Reply, Teacher

_PROMPT = "prompt"  # key of a stored reply: the digest of its prompt


def asked_digest(prompts: Sequence[ChatPrompt], target: str) -> str:
  """Hash of what an item's prompts say and of its gold answer, which its record holds."""
  parts = [*(prompt.digest for prompt in prompts), target]
  return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def check_asked(now: Mapping[str, str], then: Mapping[str, str | None]) -> None:
  """Refuses inputs that have changed since a workdir was begun.

  Args:
    now: digests of what would be asked now, by id.
    then: those of what was asked; None where a former version stored none.

  Raises:
    UserError: two differ.
  """
  for item_id, digest in now.items():
    if then.get(item_id) not in (None, digest):
      raise UserError(
        f"{item_id} has another prompt or gold answer than when this workdir was begun; go on with "
        "the inputs of then, or choose another workdir"
      )


def collect_replies(
  groups: Mapping[str, Sequence[ChatPrompt]],
  workdir: Workdir,
  open_teacher: Callable[[], Teacher],
  finish: Callable[[str, list[Reply]], None],
  beside: Mapping[str, Any] | None = None,
) -> int:
  """Gets the replies to groups of prompts, and finishes each group as soon as it has all of its.

  Args:
    groups: prompts by the id of the item that they belong to.
    workdir: knows what earlier runs have got, and takes each reply as it comes.
    open_teacher: called only if there is something left to ask.
    finish: called with an item's id and its replies, in its prompts' order; is to store the item.
    beside: keys by which `skipped.jsonl` tells a reply beside its item's id; None: it names the
      prompt instead.

  Returns:
    How many prompts there is no reply to; each is in the log and in `skipped.jsonl`, until a later
    run gets its reply. Their items stay unfinished, and the next run asks for them again.

  Raises:
    UserError: a reply that is stored is one to another prompt.
  """
  digests = {prompt.id: prompt.digest for prompts in groups.values() for prompt in prompts}
  group_of = {prompt.id: item_id for item_id, prompts in groups.items() for prompt in prompts}
  stored = workdir.load_unfinished()
  stored = {prompt_id: stored[prompt_id] for prompt_id in group_of if prompt_id in stored}
  check_asked(digests, {prompt_id: state.pop(_PROMPT, None) for prompt_id, state in stored.items()})
  replies = {prompt_id: Reply.from_record(state) for prompt_id, state in stored.items()}

  def finish_if_whole(item_id: str) -> None:
    prompts = groups[item_id]
    if all(prompt.id in replies for prompt in prompts):
      finish(item_id, [replies.pop(prompt.id) for prompt in prompts])

  missing = [p for prompts in groups.values() for p in prompts if p.id not in replies]
  failed = 0
  for item_id in groups:
    finish_if_whole(item_id)
  for reply in _shown(open_teacher, missing):
    skip_id = reply.id if beside is None else group_of[reply.id]
    if reply.error is not None:
      failed += 1
      logging.warning("no reply for %s: %s", reply.id, reply.error)
      named = {"place": "", "id": skip_id} | dict(beside or {})
      workdir.write_skipped(named | {"reason": reply.error})
      continue
    workdir.write_unfinished(reply.id, 1, reply.to_record() | {_PROMPT: digests[reply.id]})
    for left_out in (skip_id, reply.id):  # former versions named the prompt for every job
      workdir.drop_skipped(left_out)
    replies[reply.id] = reply
    finish_if_whole(group_of[reply.id])
  return failed


def _shown(open_teacher: Callable[[], Teacher], prompts: Sequence[ChatPrompt]) -> Iterator[Reply]:
  """The replies, with a progress bar that shows the tokens written a second."""
  if not prompts:
    return
  teacher, tokens = open_teacher(), 0
  with tqdm(total=len(prompts), unit="reply", smoothing=0.1) as bar:
    for reply in teacher.write(prompts):
      tokens += reply.num_tokens or 0
      elapsed = bar.format_dict["elapsed"]
      bar.set_postfix_str(f"{tokens / elapsed if elapsed else 0.0:.0f} tokens/s", refresh=False)
      bar.update()
      yield reply
