"""One chain of thought, and what pruning it gives: plain data, to and from JSON objects."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from greedy_prune_jax.chains.kept_text import is_torn, spell_kept
from greedy_prune_jax.chains.thinking import FORMS, find_form
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs import records as fields
from greedy_prune_jax.runs.records import Record

_SHOWN = 80  # characters of a text that changed, in a message


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chain:
  """A question, the reasoning that a teacher wrote on it, and the answer that it reached.

  Attributes:
    id: unique within a run.
    question: the user's question, without any template.
    reasoning: the text to prune. The answer follows it directly, so it ends in what separates them.
    answer: the literal text that follows the reasoning, such as `{"answer": "72"}`.
    system: system prompt, or None.
    target: the gold answer, such as `72`, or None where nobody knows it.
    thinking_form: name of the form of thinking (`chains.thinking.FORMS`) if the reasoning is a
      model's thinking; the answer then begins with the white space and the closing tag.
    extra: further keys of the record (teacher, category), carried along to every output.
  """

  id: str
  question: str
  reasoning: str
  answer: str
  system: str | None = None
  target: str | None = None
  thinking_form: str | None = None
  extra: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)

  @classmethod
  def from_record(cls, record: Record) -> "Chain":
    """Reads a chain from an object of the form in which `to_record` writes it.

    A blank `system` or `target` is none. Keys of a pruned record's results are dropped, so that the
    output of one run can be the input of the next.

    Raises:
      UserError: a key is missing, not a string, or empty; the message names it.
    """
    extra = {key: value for key, value in record.items() if key not in RECORD_KEYS}
    return cls(
      **{key: fields.get_text(record, key) for key in ("id", "question", "reasoning", "answer")},
      system=fields.get_optional_text(record, "system"),
      target=fields.get_optional_text(record, "target"),
      thinking_form=_form(record),
      extra=extra,
    )

  def __post_init__(self):
    taken = RECORD_KEYS.intersection(self.extra)
    if taken:
      raise ValueError(f"extra holds {sorted(taken)}, keys that a record itself has")

  def to_record(self) -> Record:
    """The chain as one JSON object; absent optional texts are left out."""
    own = {key: getattr(self, key) for key in _CHAIN_KEYS}
    return {key: value for key, value in own.items() if value is not None} | dict(self.extra)

  def check_unchanged(self, then: "Chain") -> None:
    """Refuses a chain that is no longer the one with which a workdir was begun.

    Args:
      then: the chain of its id as the workdir has it; further keys may differ.

    Raises:
      UserError: the two differ; the message names each part that does, with both values.
    """
    parts = {key: (getattr(then, key), getattr(self, key)) for key in _CHAIN_KEYS}
    changed = [
      f"{key} was {_shown(was, now)}, is {_shown(now, was)}"
      for key, (was, now) in parts.items()
      if was != now
    ]
    if changed:
      raise UserError(
        f"chain {self.id} is not as it was when this workdir was begun: {'; '.join(changed)}. Put "
        f"the old value back, or choose another workdir"
      )


def _shown(text: str | None, other: str | None) -> str:
  """A text as a message shows it: of a long one, where it begins to differ from the other."""
  if text is None or len(text) <= _SHOWN:
    return repr(text)
  pairs = enumerate(zip(text, other or "", strict=False))
  first = next((i for i, (one, two) in pairs if one != two), min(len(text), len(other or "")))
  start = max(0, first - _SHOWN // 2)
  end = start + _SHOWN
  return f"{'... ' if start else ''}{text[start:end]!r}{' ...' if end < len(text) else ''}"


def _form(record: Record) -> str | None:
  """The form of a record's thinking; a UserError where it is none that we know."""
  name = fields.get_optional_text(record, "thinking_form")
  form = find_form(name)
  if name is not None and (form is None or form.closing not in str(record.get("answer"))):
    known = ", ".join(form.name for form in FORMS)
    raise UserError(
      f'"thinking_form" is {name!r}; expected one of {known}, and its closing tag in "answer"'
    )
  return name


_CHAIN_KEYS = tuple(field.name for field in dataclasses.fields(Chain) if field.name != "extra")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrunedChain:
  """A chain and the order in which its reasoning tokens were deleted.

  N is the number of reasoning tokens.

  Attributes:
    chain: the input.
    pruner: the model that scored the deletions.
    objective: objective that the deletions preserve: `joint` or `answer`.
    ranking: ranking that chose the deletions: `greedy` search, or another of `rankings`.
    search: method by which greedy search found each deletion, such as `exact`; `none` for other
      rankings.
    unit: unit of one deletion: `token`, or a run of them such as `word` or `sentence`.
    unit_sizes: tokens of each unit of the reasoning, in order; None where every token is one.
    reasoning_ids: the pruner's token ids of the reasoning, [N].
    reasoning_tokens: texts of the tokens, [N]; joined they are the reasoning.
    deletion_order: positions in the reasoning, the first deleted (least needed) first; those of a
      unit, which left together, one after the other.
    nll: `joint`, `answer` and `reasoning`: mean negative log-likelihoods in nats per
      token; item 0 is the whole chain, item k the chain after k deletions of a unit. None stands
      for the mean over no token, which JSON has no number for, and for a text that was never scored
      because several units were deleted from one scoring.
    pruned: the text that is left at each keep ratio asked for; keys as `ratio_key` writes them.
    positions_scored: token positions that went through the model; an audit's not counted.
    seconds: wall time spent on this chain; its share of the batch's time where several ran at once.
      Of an audited chain, with the time of scoring every deletion to check each step.
    trust: report on a screened search's errors; see `search.audit`. None for others.
    move_sizes: numbers of tokens that left at once, in their order, in a search by runs; None for
      others.
  """

  chain: Chain
  pruner: str
  objective: str
  ranking: str = "greedy"
  search: str
  unit: str
  unit_sizes: tuple[int, ...] | None = None
  reasoning_ids: tuple[int, ...]
  reasoning_tokens: tuple[str, ...]
  deletion_order: tuple[int, ...]
  nll: Mapping[str, tuple[float | None, ...]] = dataclasses.field(hash=False)
  pruned: Mapping[str, str] = dataclasses.field(hash=False)
  positions_scored: int
  seconds: float
  trust: Mapping[str, Any] | None = dataclasses.field(default=None, hash=False)
  move_sizes: tuple[int, ...] | None = None

  @classmethod
  def from_record(cls, record: Record) -> "PrunedChain":
    """Reads one line of a workdir's `pruned/*.jsonl`.

    Raises:
      UserError: a key is missing or of the wrong kind, or the lists do not fit together; the
        message names the key.
    """
    reasoning_ids = fields.get_items(record, "reasoning_ids", int)
    reasoning_tokens = fields.get_items(record, "reasoning_tokens", str)
    deletion_order = fields.get_items(record, "deletion_order", int)
    unit_sizes = None
    if record.get("unit_sizes") is not None:
      unit_sizes = fields.get_items(record, "unit_sizes", int)
    nll = fields.get(record, "nll", dict)
    pruned = fields.get(record, "pruned", dict)
    if len(reasoning_tokens) != len(reasoning_ids):
      raise UserError(
        f'"reasoning_tokens" has {len(reasoning_tokens)} items, "reasoning_ids" '
        f"{len(reasoning_ids)}; they must have as many"
      )
    if len(set(deletion_order).intersection(range(len(reasoning_ids)))) != len(deletion_order):
      raise UserError(
        f'"deletion_order" repeats a position or has one outside 0 to {len(reasoning_ids) - 1}'
      )
    if unit_sizes is not None:
      _check_units(unit_sizes, len(reasoning_ids), deletion_order)
    found = cls(
      chain=Chain.from_record(record),
      **{key: fields.get_text(record, key) for key in ("pruner", "objective", "search", "unit")},
      # Records written before there were other rankings do not name it.
      ranking=fields.get_optional_text(record, "ranking") or "greedy",
      unit_sizes=unit_sizes,
      reasoning_ids=reasoning_ids,
      reasoning_tokens=reasoning_tokens,
      deletion_order=deletion_order,
      nll={key: fields.get_items(nll, key, float, int, type(None)) for key in nll},
      pruned={key: fields.get(pruned, key, str) for key in pruned},
      positions_scored=fields.get(record, "positions_scored", int),
      seconds=fields.get(record, "seconds", float, int),
      trust=fields.get(record, "trust", dict) if "trust" in record else None,
      move_sizes=fields.get_items(record, "move_sizes", int) if "move_sizes" in record else None,
    )
    _check_results(found)
    return found

  def to_record(self) -> Record:
    """The input's keys, then the results, as one JSON object, without those that are None."""
    results = {key: getattr(self, key) for key in RESULT_KEYS}
    results = {key: value for key, value in results.items() if value is not None}
    for key in ("unit_sizes", "reasoning_ids", "reasoning_tokens", "deletion_order", "move_sizes"):
      if key in results:
        results[key] = list(results[key])
    results["nll"] = {key: list(values) for key, values in self.nll.items()}
    results["pruned"] = dict(self.pruned)
    return self.chain.to_record() | results

  @property
  def deletions(self) -> tuple[tuple[int, ...], ...]:
    """The positions that each deletion removed, first deletion first: `deletion_order` by units."""
    if self.unit_sizes is None:
      return tuple((position,) for position in self.deletion_order)
    size_at = dict(zip(unit_starts(self.unit_sizes), self.unit_sizes, strict=True))
    deletions, place = [], 0
    while place < len(self.deletion_order):
      size = size_at[self.deletion_order[place]]
      deletions.append(self.deletion_order[place : place + size])
      place += size
    return tuple(deletions)

  @property
  def moves(self) -> tuple[tuple[int, ...], ...]:
    """The positions that left at once, first move first: those of a deletion, or of a whole run.

    Which token of a run comes first in `deletion_order` says nothing of how it is needed.
    """
    if self.move_sizes is None:
      return self.deletions
    spans = zip(unit_starts(self.move_sizes), self.move_sizes, strict=True)
    return tuple(self.deletion_order[start : start + size] for start, size in spans)

  @property
  def gone_before(self) -> tuple[int, ...]:
    """Numbers of tokens that had left when each token's move did, [N]; N for those that never left.

    As soon as n tokens are to be gone, those with less than n before them are.
    """
    gone, num_deleted = [len(self.reasoning_ids)] * len(self.reasoning_ids), 0
    for move in self.moves:
      for position in move:
        gone[position] = num_deleted
      num_deleted += len(move)
    return tuple(gone)

  def deletions_to(self, num_kept: int) -> int:
    """The fewest deletions that leave at most `num_kept` reasoning tokens: an index into `nll`.

    Single tokens leave exactly that many; longer units may leave fewer.

    Raises:
      ValueError: the deletions did not go that far.
    """
    left = len(self.reasoning_ids)
    if not left - len(self.deletion_order) <= num_kept <= left:
      raise ValueError(
        f"num_kept={num_kept}: chain {self.chain.id} has {left} reasoning tokens, of which "
        f"{len(self.deletion_order)} were deleted"
      )
    for count, removed in enumerate(self.deletions):
      if left <= num_kept:
        return count
      left -= len(removed)
    return len(self.deletions)

  def kept_positions(self, num_kept: int) -> list[int]:
    """Reasoning positions that are left as soon as at most `num_kept` are, ascending.

    Raises:
      ValueError: the deletions did not go that far.
    """
    return self.kept_after(self.deletions_to(num_kept))

  def kept_after(self, deletions: int) -> list[int]:
    """Reasoning positions that are left after a number of deletions, ascending."""
    gone = {position for unit in self.deletions[:deletions] for position in unit}
    return [position for position in range(len(self.reasoning_ids)) if position not in gone]

  def positions_at(self, keep_ratio: float) -> list[int]:
    """Reasoning positions that are left at a keep ratio, whether pruning was asked for it or not.

    Raises:
      UserError: the deletions did not go that far.
    """
    try:
      return self.kept_positions(share_of(len(self.reasoning_ids), keep_ratio))
    except ValueError as error:
      raise UserError(
        f"chain {self.chain.id} was not pruned to {keep_ratio}: {len(self.deletion_order)} of its "
        f"{len(self.reasoning_ids)} reasoning tokens were deleted; it has "
        f"{', '.join(self.pruned) or 'no ratios'}. Prune to a lower ratio, or ask for one of these"
      ) from error

  def text_at(self, keep_ratio: float) -> str:
    """The reasoning that is left at a keep ratio; see `positions_at`."""
    if keep_ratio == 1:
      return self.chain.reasoning
    stored = self.pruned.get(ratio_key(keep_ratio))
    return self.spell(self.positions_at(keep_ratio)) if stored is None else stored

  def spell(self, kept: Iterable[int]) -> str:
    """The text of the reasoning tokens at some positions; see `spell_kept`."""
    return spell_kept(self.reasoning_tokens, kept)

  def is_torn(self, kept: Iterable[int]) -> bool:
    """Tells whether a character is kept in part; see `kept_text.is_torn`."""
    return is_torn(self.reasoning_tokens, kept)


def unit_starts(unit_sizes: Sequence[int]) -> list[int]:
  """The position of each unit's first token."""
  return [0, *itertools.accumulate(unit_sizes)][:-1]


def _check_units(
  unit_sizes: Sequence[int], num_reasoning: int, deletion_order: Sequence[int]
) -> None:
  """A UserError unless units cover the reasoning, and left whole."""
  if sum(unit_sizes) != num_reasoning or min(unit_sizes, default=1) < 1:
    raise UserError(
      f'"unit_sizes" must be 1 or more each and add up to the {num_reasoning} reasoning tokens; '
      f"they add up to {sum(unit_sizes)}"
    )
  units = {
    start: list(range(start, start + size))
    for start, size in zip(unit_starts(unit_sizes), unit_sizes, strict=True)
  }
  place = 0
  while place < len(deletion_order):
    unit = units.get(deletion_order[place], [])
    if not unit or list(deletion_order[place : place + len(unit)]) != unit:
      raise UserError(
        f'item {place} of "deletion_order", {deletion_order[place]}, does not begin a unit of '
        f'"unit_sizes" that left whole'
      )
    place += len(unit)


def _check_results(pruned: PrunedChain) -> None:
  """A UserError unless NLLs and texts are those of the deletions."""
  deletions = len(pruned.deletions)
  for name in ("joint", "answer", "reasoning"):
    if len(pruned.nll.get(name, ())) != deletions + 1:
      raise UserError(
        f'"nll" must have {deletions + 1} items of "{name}", for {deletions} deletions; it has '
        f"{len(pruned.nll.get(name, ()))}"
      )
  moves, deleted = pruned.move_sizes, len(pruned.deletion_order)
  if moves is not None and (sum(moves) != deleted or min(moves, default=1) < 1):
    raise UserError(
      f'"move_sizes" must be 1 or more each and add up to the {deleted} tokens of '
      f'"deletion_order"; they add up to {sum(moves)}'
    )
  total, left = len(pruned.reasoning_ids), len(pruned.reasoning_ids) - deleted
  for key in pruned.pruned:
    ratio = ratio_of(key)
    if ratio is None or not 0 <= ratio < 1 or share_of(total, ratio) < left:
      raise UserError(
        f'"pruned" has {key!r}; expected keep ratios below 1 that leave {left} tokens or more'
      )


# What a pruned record adds to its chain's.
RESULT_KEYS = tuple(
  field.name for field in dataclasses.fields(PrunedChain) if field.name != "chain"
)


# What no further key of a chain may be called.
RECORD_KEYS = frozenset((*_CHAIN_KEYS, *RESULT_KEYS))


def ratio_key(keep_ratio: float | int) -> str:
  """The key of a keep ratio in `PrunedChain.pruned`: 0.5 is "0.5"."""
  return repr(float(keep_ratio))


def share_of(num_tokens: int, share: float) -> int:
  """Whole tokens in a share of them, such as those that a keep ratio leaves: int(N * r).

  The product is that of the share as it was meant: 0.7 of 90 are 63, and not the 62.99... of
  floats, and 1 / 3 of 90 are 30.
  """
  return int(num_tokens * share + 1e-9)


def ratio_of(key: str) -> float | None:
  """The keep ratio of a key that `ratio_key` wrote; None for any other text."""
  try:
    ratio = float(key)
  except ValueError:
    return None
  return ratio if ratio_key(ratio) == key else None
