"""Real chains of chosen lengths."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerFast

from greedy_prune_jax.chains.chat_template import load_chat_template
from greedy_prune_jax.chains.reading import read_chains
from greedy_prune_jax.chains.segments import Segments, segment


def chains_of_sizes(
  tokenizer: PreTrainedTokenizerFast, files: Sequence[str], sizes: Sequence[int]
) -> list[Segments]:
  """For each size the chain whose reasoning is nearest to it, the first such."""
  return [chains[0] for chains in batches_of_sizes(tokenizer, files, sizes, 1)]


def batches_of_sizes(
  tokenizer: PreTrainedTokenizerFast, files: Sequence[str], sizes: Sequence[int], batch: int
) -> list[list[Segments]]:
  """For each size the chains whose reasonings are nearest to it, the first such."""
  template = load_chat_template("tokenizer", tokenizer)
  chains = [chain for file in files for chain in read_chains(file, on_bad=lambda _: None)]
  segments = [segment(chain, tokenizer, template) for chain in chains]
  return [sorted(segments, key=lambda s: abs(len(s.reasoning) - x))[:batch] for x in sizes]
