"""Replies gathered from a teacher: stored as they come, or put back in the prompts' order."""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from absl import logging
from tqdm import tqdm

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs.records import Record
from greedy_prune_jax.runs.workdir import Workdir
from greedy_prune_jax.teachers.failures import shortened
from greedy_prune_jax.teachers.teacher import ChatPrompt, Reply, Teacher

_PROMPT = "prompt"  # key of a stored reply: the digest of its prompt


_GO_ON = "than when this workdir was begun; continue with those inputs, or choose another workdir"


class Asked(NamedTuple):
  """An item that is asked: question and gold answer as its record holds them, and its prompts."""

  question: str
  target: str
  prompts: Sequence[ChatPrompt]

  @property
  def digest(self) -> str:
    """Hash of what the prompts say and of the gold answer, which the item's record holds."""
    parts = [*(prompt.digest for prompt in self.prompts), self.target]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def check_asked(now: Mapping[str, Asked], then: Iterable[Record]) -> None:
  """Refuses inputs that have changed since a workdir was begun.

  Args:
    now: items as they would be asked now, by id.
    then: finished records; those of former versions have no digest.

  Raises:
    UserError: two differ; it says in what.
  """
  for record in then:
    asked = now.get(record["id"])
    if asked is None or record.get("asked") in (None, asked.digest):
      continue
    then_and_now = {
      "question": (record.get("question"), asked.question),
      "gold answer": (record.get("target"), asked.target),
    }
    changes = [
      f"another {name} ({_parting(str(one), other)})"
      for name, (one, other) in then_and_now.items()
      if one != other
    ]
    what = " and ".join(changes) or "the question and gold answer of then, but another prompt"
    raise UserError(f"{record['id']} has {what} {_GO_ON}")


def _parting(then: str, now: str) -> str:
  """Two texts from a little before the place where they part."""
  same = (one == other for one, other in zip(then, now, strict=False))
  place = next((at for at, equal in enumerate(same) if not equal), min(len(then), len(now)))
  one, other = (shortened(text[max(0, place - 20) :]) for text in (then, now))
  return f"{one!r} then, {other!r} now"


def collect_replies(
  groups: Mapping[str, Sequence[ChatPrompt]],
  workdir: Workdir,
  open_teacher: Callable[[], Teacher],
  finish: Callable[[str, list[Reply]], None],
  beside: Mapping[str, Any] | None = None,
  served: set[str] | None = None,
) -> int:
  """Gets the replies to groups of prompts, and finishes each group as soon as it has all of its.

  Args:
    groups: prompts by the id of the item that they belong to.
    workdir: knows what earlier runs have got, and takes each reply as it comes.
    open_teacher: called only if there is something left to ask.
    finish: called with an item's id and its replies, in its prompts' order; is to store the item.
    beside: keys by which `skipped.jsonl` tells a reply beside its item's id; None: it names the
      prompt instead.
    served: models that wrote the workdir's finished items; see `watch_served`.

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
  for prompt_id, state in stored.items():
    if state.pop(_PROMPT, None) not in (None, digests[prompt_id]):
      raise UserError(f"{prompt_id} has another prompt {_GO_ON}")
  replies = {prompt_id: Reply.from_record(state) for prompt_id, state in stored.items()}
  served = set() if served is None else served
  served.update(reply.served for reply in replies.values() if reply.served)

  def finish_if_whole(item_id: str) -> None:
    prompts = groups[item_id]
    if all(prompt.id in replies for prompt in prompts):
      finish(item_id, [replies.pop(prompt.id) for prompt in prompts])

  missing = [p for prompts in groups.values() for p in prompts if p.id not in replies]
  failed = 0
  for item_id in groups:
    finish_if_whole(item_id)
  for reply in watch_served(_shown(open_teacher, missing), served):
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


# A date behind a model's name: gpt-4o-2024-08-06, gpt-4-0613.
_DATE = re.compile(r"[-@](?:\d{4}-\d\d-\d\d|\d{4}|\d{6}|\d{8})$")


def watch_served(replies: Iterable[Reply], known: set[str]) -> Iterator[Reply]:
  """Passes replies on, and warns once of each model that an endpoint had not served before.

  A name without its date stands for any date.

  Args:
    known: models that wrote the run's replies, those of former runs included; new ones are added.
  """
  for reply in replies:
    now = reply.served
    if now and now not in known:
      others = [then for then in known if now != _DATE.sub("", then) and then != _DATE.sub("", now)]
      if others:
        logging.warning(
          "the endpoint says that %s wrote the reply to %s, but %s wrote earlier ones in this "
          'workdir: it may serve another model now. Records hold the name as "served"; choose '
          "another workdir to keep the models apart",
          shortened(now),
          reply.id,
          shortened(", ".join(sorted(others))),
        )
      known.add(now)
    yield reply


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
