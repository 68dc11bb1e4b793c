"""Which of a question's samples is kept as its chain."""

from greedy_prune_jax.chains.chain import Chain
from greedy_prune_jax.chains.fields import Record


def first_correct(record: Record) -> Chain | None:
  """The chain that is kept of a question's samples.

  That is the first that reached the answer in the ordinary way: with reasoning before it, and with
  an end of its own.
  """
  for index, sample in enumerate(record["samples"]):
    if not sample["correct"] or sample["finish_reason"] != "stop":
      continue
    if not sample["reasoning"].strip():
      continue
    return Chain(
      id=record["id"],
      question=record["question"],
      reasoning=sample["reasoning"],
      answer=sample["answer"],
      system=record["system"],
      target=record["target"],
      extra=record["extra"] | {"teacher": record["teacher"], "sample": index},
    )
  return None
