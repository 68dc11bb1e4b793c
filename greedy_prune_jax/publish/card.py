"""The card of a dataset of pruned chains."""

import collections
import dataclasses
import statistics
from pathlib import Path

from huggingface_hub import DatasetCardData

from greedy_prune_jax.chains.chain import PrunedChain
from greedy_prune_jax.runs.files import replace_file
from greedy_prune_jax.runs.records import Record

_HOW = ("pruner", "objective", "ranking", "search", "unit")


@dataclasses.dataclass
class Counts:
  """Numbers of the chains for a card, gathered while they are written.

  Attributes:
    chains: number of chains.
    rows: rows of messages.
    torn: texts in which a character is kept in part, so that no model could write them.
    tokens: reasoning tokens of each chain at each keep ratio; whole at 1.
    how: values of how the chains were pruned; one each, as a rule.
  """

  chains: int = 0
  rows: int = 0
  torn: int = 0
  tokens: dict[float, list[int]] = dataclasses.field(
    default_factory=lambda: collections.defaultdict(list)
  )
  how: dict[str, set[str]] = dataclasses.field(default_factory=lambda: collections.defaultdict(set))

  def add(self, pruned: PrunedChain, texts: list[tuple[float, int]]) -> None:
    """Counts a chain, and its texts as keep ratio and number of tokens."""
    self.chains += 1
    for ratio, tokens in {1.0: len(pruned.reasoning_ids), **dict(texts)}.items():
      self.tokens[ratio].append(tokens)
    for name in _HOW:
      self.how[name].add(getattr(pruned, name))


def write_card(
  folder: Path,
  title: str,
  source: str,
  license_name: str,
  config: Record,
  counts: Counts,
  note: str = "",
) -> None:
  """Writes `README.md`.

  Args:
    license_name: the source's licence, as the hub names licences.
    config: config of the run that pruned; empty where it is not known.
    note: says that the run was not complete; or empty.
  """
  data = DatasetCardData(
    license=license_name,
    pretty_name=title,
    task_categories=["text-generation"],
    tags=["chain-of-thought", "reasoning", "pruned"],
    configs=[
      {"config_name": name, "data_files": f"data/{name}.parquet"}
      | ({"default": True} if i == 0 else {})
      for i, name in enumerate(("messages", "chains"))
    ],
  )
  how = {name: ", ".join(sorted(values)) for name, values in counts.how.items()}
  settings = ("num_chains", "max_reasoning_tokens", "deletions_per_step", "max_runs")
  settings += ("dtype", "seed")
  how |= {name: str(config[name]) for name in settings if name in config}
  rows = [
    f"| {ratio} | {len(tokens)} | {statistics.fmean(tokens):.1f} |"
    for ratio, tokens in sorted(counts.tokens.items(), reverse=True)
  ]
  text = _CARD.format(
    title=title,
    source=source,
    license=license_name,
    chains=counts.chains,
    rows=counts.rows,
    torn=_TORN.format(counts.torn) if counts.torn else "",
    note=f"\nNot all chains are here: {note}.\n" if note else "",
    how="\n".join(f"| {name} | {_cell(value)} |" for name, value in how.items()),
    tokens="\n".join(rows),
  )
  replace_file(folder / "README.md", f"---\n{data.to_yaml()}\n---\n\n{text}")


def _cell(value: str) -> str:
  return f"`{value}`".replace("|", "\\|").replace("\n", " ")


_TORN = "\n{} texts are left out, as a character is kept in part there."

_CARD = """\
# {title}

Chains of thought from {source}, with the reasoning tokens that the model below needs least left
out. Made by greedy_prune_jax; greedy pruning by likelihood is arXiv 2601.03066. The questions,
chains and answers are under the licence of their source: {license}.
{note}
| pruned by | |
| --- | --- |
{how}

| keep ratio | chains | reasoning tokens, mean |
| --- | --- | --- |
{tokens}

## Fields

`messages` ({rows} rows): `id` of the chain, `keep_ratio`, and `messages` of `role` and `content`:
the question, and the reasoning that is left with the answer behind it.{torn}

`chains` ({chains} rows): `id`, `question`, `system`, `target`, `reasoning`, `answer`; `pruned`,
the texts by keep ratio; `reasoning_ids` and `reasoning_tokens` in the pruner's tokenizer;
`deletion_order`, their positions, the first deleted first; `unit_sizes`, tokens of each unit
where units are longer; `nll` in nats per token, item k after k deletions; `extra`, further keys
of the source as JSON.
"""
