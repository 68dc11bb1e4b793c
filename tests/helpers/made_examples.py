"""Examples of random tokens."""

import numpy as np

from greedy_prune_jax.distill.examples import Example


def random_examples(count: int, vocab: int = 61, longest: int = 24, seed: int = 0) -> list[Example]:
  """Examples of many lengths, each with a prompt and a completion of at least one token."""
  rng = np.random.default_rng(seed)
  examples = []
  for index in range(count):
    length = int(rng.integers(4, longest + 1))
    ids = rng.integers(0, vocab, length).astype(np.int32)
    examples.append(Example(f"{index}", ids, int(rng.integers(1, length))))
  return examples
