"""The chains of a prune run, each with the deletions known so far."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from transformers import PreTrainedTokenizerFast

from greedy_prune_jax.chains.chain import Chain, PrunedChain, share_of
from greedy_prune_jax.chains.chat_template import load_chat_template
from greedy_prune_jax.chains.kept_chains import read_kept
from greedy_prune_jax.chains.question_sets import is_generated, rows_to_read
from greedy_prune_jax.chains.reading import BadChain, read_chains
from greedy_prune_jax.chains.segments import check_length, reasoning_texts, segment
from greedy_prune_jax.chains.thinking_chains import fit_chain
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.pruning.settings import TaskSettings
from greedy_prune_jax.runs.jsonl import read_output
from greedy_prune_jax.runs.records import Record
from greedy_prune_jax.runs.workdir import Workdir
from greedy_prune_jax.search.path import PrunePath
from greedy_prune_jax.search.skill_steps import SKILL_STEP, skill_step_sizes
from greedy_prune_jax.search.units import unit_sizes


@dataclasses.dataclass(frozen=True)
class PruneTask:
  """A chain, and what is known of its deletion order.

  Attributes:
    tokens: texts of the reasoning tokens, [N].
    path: path of the run's search or ranking.
    audit: path of the exact search beside it; None for a chain that is not audited.
  """

  chain: Chain
  tokens: tuple[str, ...]
  path: PrunePath
  audit: PrunePath | None = None


def audit_id(chain: Chain) -> str:
  """Under which the workdir knows the exact search of an audit until it is finished."""
  return f"{chain.id}\0audit"  # no chain has such an id


def check_texts(tasks: Sequence[PruneTask], workdir: Workdir) -> None:
  """A UserError if a chain or its units are not those which an earlier run finished."""
  by_id = {task.chain.id: task for task in tasks}
  for record in read_output(workdir.path, "pruned", PrunedChain.from_record):
    task = by_id.get(record["id"])
    if task is None:
      continue  # the run warns of it
    task.chain.check_unchanged(Chain.from_record(record))
    sizes = record.get("unit_sizes")
    if task.path.unit_sizes != (sizes and tuple(sizes)):
      raise UserError(_others(task.chain, "units"))


def _others(chain: Chain, what: str) -> str:
  return (
    f"chain {chain.id} has other {what} than when this workdir was begun; go on with the old ones, "
    f"or choose another workdir"
  )


def check_any(
  tasks: Sequence[PruneTask], settings: TaskSettings, workdir: Workdir | None = None
) -> None:
  """Raises a UserError if there is nothing to prune, which says what has left chains out."""
  if tasks:
    return
  limit = settings.max_reasoning_tokens
  shorter = f" of at most max_reasoning_tokens={limit} tokens" if limit else ""
  skipped = workdir and workdir.path / "skipped.jsonl"
  more = f"; see {skipped}" if skipped and skipped.exists() else ""
  raise UserError(f"{settings.chains} has no chain{shorter} that can be pruned{more}")


def read_tasks(
  settings: TaskSettings,
  tokenizer: PreTrainedTokenizerFast,
  max_positions: int,
  unfinished: Mapping[str, Record],
  skip: Callable[[BadChain], None] | None,
) -> Iterator[PruneTask]:
  """The first chains of the settings' source that can be pruned; see `make_tasks`.

  Chains that are left out do not count: further ones are read in their place.
  """
  tasks = make_tasks(_chains(settings, skip), settings, tokenizer, max_positions, unfinished, skip)
  num_chains = rows_to_read(settings.chains, settings.num_chains)
  return itertools.islice(tasks, num_chains or None)


def _chains(settings: TaskSettings, skip: Callable[[BadChain], None] | None) -> Iterator[Chain]:
  """Chains of the settings' source, read as they are asked for; of a generator 100 times more."""
  if settings.chains_ratio < 1:
    return read_kept(settings.chains, settings.chains_ratio, on_bad=skip)

  def read(num_chains: int) -> Iterator[Chain]:
    return read_chains(
      settings.chains,
      num_chains=num_chains,
      seed=settings.seed,
      columns=settings.columns,
      on_bad=skip,
    )

  if not is_generated(settings.chains):
    return read(0)
  wanted = rows_to_read(settings.chains, settings.num_chains)

  def further() -> Iterator[Chain]:
    yield from itertools.islice(read(100 * wanted), wanted, None)

  # The first rows of many are those of few; more are made only where chains are left out.
  return itertools.chain(read(wanted), further())


def make_tasks(
  chains: Iterable[Chain],
  settings: TaskSettings,
  tokenizer: PreTrainedTokenizerFast,
  max_positions: int,
  unfinished: Mapping[str, Record],
  skip: Callable[[BadChain], None] | None,
  least_tokens: int = 2,
) -> Iterator[PruneTask]:
  """The tasks of chains that can be pruned, the first `settings.audit` of them with an audit.

  Chains whose reasoning has more than `max_reasoning_tokens` are left out without a word.

  Args:
    max_positions: the pruner's context, in tokens.
    unfinished: states of the paths of an earlier run, by chain id.
    skip: called with every chain that cannot be used; None to let the error out.
    least_tokens: least number of reasoning tokens; 1 where nothing is pruned.
  """
  template = load_chat_template(settings.chat_template, tokenizer)
  limit = settings.max_reasoning_tokens
  sizes_of = _unit_sizes(settings)

  def start(chain: Chain) -> PruneTask | None:
    try:
      chain = fit_chain(chain, template, settings.thinking)
      parts = segment(chain, tokenizer, template)
      if limit and len(parts.reasoning) > limit:
        return None
      check_length(parts, chain, max_positions, least_tokens)
      tokens = tuple(reasoning_texts(chain, tokenizer, template))
      sizes = sizes_of(chain, tokens)
    except UserError as error:
      if skip is None:
        raise
      skip(BadChain(place="", id=chain.id, reason=str(error)))
      return None
    marks = tuple(share_of(len(parts.reasoning), ratio) for ratio in settings.keep_ratios)

    def path(path_id: str) -> PrunePath:
      state = dict(unfinished.get(path_id, {}))
      path = PrunePath(parts, floor=min(marks), unit_sizes=sizes, marks=marks)
      if state and state.pop("digest", path.digest) != path.digest:
        raise UserError(_others(chain, "tokens or units"))
      return dataclasses.replace(path, **state)

    return PruneTask(chain, tokens, path(chain.id), path(audit_id(chain)))

  usable = (task for chain in chains if (task := start(chain)))
  return (
    task if index < settings.audit else dataclasses.replace(task, audit=None)
    for index, task in enumerate(usable)
  )


def _unit_sizes(
  settings: TaskSettings,
) -> Callable[[Chain, Sequence[str]], tuple[int, ...] | None]:
  """Makes the function from a chain and the texts of its tokens to its units."""
  if settings.unit == SKILL_STEP:
    return skill_step_sizes(settings.steps)
  return lambda _, tokens: unit_sizes(settings.unit, tokens)
