"""Pruned chains as text to read: the chain beside its pruned forms and their NLLs."""

import statistics
from collections.abc import Iterable

from greedy_prune_jax.chains.chain import PrunedChain, share_of
from greedy_prune_jax.reports.printing import indented, printable


def format_pruned(pruned: PrunedChain) -> str:
  """One chain: question, reasoning and answer, and each pruned reasoning with its NLLs."""
  total = len(pruned.reasoning_ids)
  lines = [
    f"=== {printable(pruned.chain.id, one_line=True)} ({total} reasoning tokens, {_title(pruned)})"
  ]
  lines += _paragraph("question", pruned.chain.question)
  forms = [("reasoning", pruned.chain.reasoning, 0)]
  for key, text in pruned.pruned.items():
    wanted = share_of(total, float(key))
    kept = len(pruned.kept_positions(wanted))
    forms.append((f"keep {key}: {kept} tokens", text, pruned.deletions_to(wanted)))
  for title, text, deletions in forms:
    nlls = ", ".join(
      f"{name} {_number(pruned.nll[name][deletions])}" for name in ("joint", "answer", "reasoning")
    )
    lines += _paragraph(f"{title} [NLL in nats per token: {nlls}]", text)
  lines += _paragraph("answer", pruned.chain.answer)
  return "\n".join(lines)


def format_mean_nlls(pruned: Iterable[PrunedChain]) -> str:
  """Mean NLLs over chains, whole and at each keep ratio, as a table."""
  chains = list(pruned)
  if not chains:
    return "no chain was pruned"
  rows = [("1.0", [0] * len(chains))]
  for key in chains[0].pruned:
    wanted = [share_of(len(chain.reasoning_ids), float(key)) for chain in chains]
    rows.append((key, [c.deletions_to(n) for c, n in zip(chains, wanted, strict=True)]))
  title = f"mean NLL of {len(chains)} chains pruned by {_title(chains[0])}, nats per token"
  lines = [title, "keep ratio   joint  answer"]
  for key, deletions in rows:
    means, num_told = [], len(chains)
    for name in ("joint", "answer"):
      values = (c.nll[name][k] for c, k in zip(chains, deletions, strict=True))
      known = [value for value in values if value is not None]
      means.append(_number(statistics.fmean(known) if known else None))
      num_told = min(num_told, len(known))
    told = "" if num_told == len(chains) else f"  of the {num_told} chains scored there"
    lines.append(f"{key:>10}  {means[0]:>6}  {means[1]:>6}{told}")
  return "\n".join(lines)


def _title(pruned: PrunedChain) -> str:
  unit = "" if pruned.unit_sizes is None else f", unit {pruned.unit}"
  return f"ranking {pruned.ranking}, objective {pruned.objective}{unit}"


def _number(value: float | None) -> str:
  return "-" if value is None else f"{value:.3f}"


def _paragraph(title: str, text: str) -> list[str]:
  return [f"-- {title}", *indented(text)]
