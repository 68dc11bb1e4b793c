"""Do one-pass rankings find the sentences that interventions find important?

    python -m benchmarks.thought_anchors FOLDER --out=runs/anchors --max_tokens=3000

FOLDER holds problems of Thought Anchors (arXiv 2506.19143): chains of R1 distillations with causal
importances of their sentences. The model (--model), which need not have written them, reads each
chain twice. The table `importances` says how well each order agrees with them, beside position,
length and surprisal. OUT keeps the orders, and the same command goes on after a kill.
`chains.jsonl` there has the chains for other orders: those of `prune`, which `analyze` holds
against the importances.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from greedy_prune_jax.analysis.importances import judgement_sections
from greedy_prune_jax.analysis.patterns import LabelledRun
from greedy_prune_jax.chains.chain import Chain, PrunedChain
from greedy_prune_jax.chains.chat_template import load_chat_template
from greedy_prune_jax.chains.reading import read_chains
from greedy_prune_jax.chains.segments import Segments, segment, token_texts
from greedy_prune_jax.chains.thinking_chains import fit_chain
from greedy_prune_jax.models.pretrained import load_model, load_tokenizer
from greedy_prune_jax.rankings.interface import by_importance
from greedy_prune_jax.reports.tables import format_table, write_table
from greedy_prune_jax.runs.files import make_folder, replace_file
from greedy_prune_jax.runs.jsonl import JsonlWriter, encode_line, read_records
from greedy_prune_jax.scoring.features import STATISTICS, extract_features, token_entropies

RANKINGS = ("surprisal", "entropy", "attention", "answer_attention", "closing_tag_attention")

_Segmented = tuple[Chain, Segments, tuple[str, ...]]  # a chain and its reasoning's token texts


def main() -> None:
  """Reads the chains, orders their tokens, and prints the table."""
  parser = argparse.ArgumentParser(description="One-pass rankings against importances.")
  parser.add_argument("folder")
  parser.add_argument("--out", type=Path, required=True)
  parser.add_argument("--model", default="smollm2-135m-instruct")
  parser.add_argument("--chat_template", default="tokenizer")
  parser.add_argument("--max_tokens", type=int, default=3000)
  args = parser.parse_args()
  make_folder(args.out)
  chains = list(read_chains(args.folder))
  lines = b"".join(encode_line(chain.to_record()) for chain in chains)
  replace_file(args.out / "chains.jsonl", lines)
  orders: dict[str, list[PrunedChain]] = {name: [] for name in RANKINGS}
  segmented = _segmented(chains, args.model, args.chat_template, args.max_tokens)
  for pruned in _orders(segmented, args.model, args.out / "orders.jsonl"):
    orders[pruned.ranking].append(pruned)
  runs = [
    LabelledRun(name, pruned, [(None,) * len(p.reasoning_ids) for p in pruned])
    for name, pruned in orders.items()
  ]
  [section] = judgement_sections(runs)
  [table] = section.tables
  write_table(args.out, table)
  print(format_table(table))


def _segmented(chains: list[Chain], model: str, chat_template: str, most: int) -> list[_Segmented]:
  """The chains of at most so many tokens as the model reads them, short ones first."""
  tokenizer = load_tokenizer(model)
  template = load_chat_template(chat_template, tokenizer)
  segmented = []
  for chain in (fit_chain(chain, template, "on") for chain in chains):
    segments = segment(chain, tokenizer, template)
    if len(segments) <= most:
      segmented.append((chain, segments, tuple(token_texts(tokenizer, chain.reasoning))))
  return sorted(segmented, key=lambda item: len(item[1]))


def _orders(segmented: list[_Segmented], name: str, path: Path) -> Iterator[PrunedChain]:
  """The chains in the order of each ranking, those on disk included."""
  model = load_model(name, "float32")
  with JsonlWriter(path) as stored:
    known = {(r["id"], r["ranking"]): PrunedChain.from_record(r) for r in read_records(path)}
    for chain, segments, tokens in segmented:
      if (chain.id, RANKINGS[-1]) not in known:
        for ranking, importance in _importances(model, segments).items():
          pruned = _pruned(chain, name, ranking, segments, tokens, by_importance(importance))
          stored.write(pruned.to_record())
          known[chain.id, ranking] = pruned
        print(f"{chain.id}: {len(segments)} tokens", flush=True)
      yield from (known[chain.id, ranking] for ranking in RANKINGS)


def _importances(model, segments: Segments) -> dict[str, np.ndarray]:
  """Importances of the reasoning tokens by each of `RANKINGS`, from two passes."""
  [(features, surprisal)] = extract_features(model, [segments], batch_size=1)
  received = {name: features[..., STATISTICS.index(name)].mean(axis=(1, 2)) for name in STATISTICS}
  values = (
    surprisal,
    token_entropies(model, segments),
    received["from later reasoning, mean"],
    received["from answer, mean"],
    received["from closing tag, mean"],
  )
  return dict(zip(RANKINGS, values, strict=True))


def _pruned(chain, pruner, ranking, segments, tokens, order) -> PrunedChain:
  """A record of an order along which nothing was scored."""
  nothing = (None,) * (len(order) + 1)
  return PrunedChain(
    chain=chain,
    pruner=pruner,
    objective="joint",
    ranking=ranking,
    search="none",
    unit="token",
    reasoning_ids=tuple(map(int, segments.reasoning)),
    reasoning_tokens=tokens,
    deletion_order=tuple(order),
    nll={name: nothing for name in ("joint", "answer", "reasoning")},
    pruned={},
    positions_scored=0,
    seconds=0.0,
  )


if __name__ == "__main__":
  main()
