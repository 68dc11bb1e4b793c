"""Ranking by LLMLingua-2: a token classifier trained to tell which words a compression keeps."""

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.rankings.interface import (
  RankedTokens,
  RankingInput,
  RankingSettings,
  RankTokens,
)

# The package knows two tokenizers, and tells them apart by these parts of a model's name.
_KINDS = ("bert-base-multilingual-cased", "xlm-roberta-large")
_CHUNK_ENDS = (".", "\n")  # pieces behind which the package prefers to cut long texts


def llmlingua(model: Model, settings: RankingSettings) -> RankTokens:
  """The word that the classifier is least likely to keep leaves first; the pruner is not used.

  A token's importance is the probability that its word is kept, as a mean over its characters. Of
  one word's tokens the first leaves first. Tokens of white space leave before all others, because
  the classifier does not see them.

  Source: LLMLingua-2, arXiv 2403.12968, used as in TokenSkip (arXiv 2502.12067): on the reasoning
  alone, without words that must stay. There each chunk keeps the words above a threshold, chosen
  by a count of GPT-3.5's tokens. Here the same probabilities order all tokens of the chain, so
  that every keep ratio is met exactly.

  Raises:
    UserError: the package llmlingua is not installed, or the model cannot be used.
  """
  compressor = load_compressor(settings.llmlingua_model)

  def rank(chain: RankingInput) -> RankedTokens:
    probs = character_probs(compressor, "".join(chain.tokens))
    return RankedTokens.of(token_means(probs, chain.tokens), chain)

  return rank


def load_compressor(name: str) -> Any:
  """Loads the package's `PromptCompressor` with a classifier, on the CPU."""
  try:
    from llmlingua import PromptCompressor  # optional: it brings PyTorch
  except ImportError as error:
    raise UserError(
      "ranking=llmlingua needs the package llmlingua, which brings PyTorch; install it with: "
      "pip install 'greedy_prune_jax[llmlingua]'"
    ) from error
  if not any(kind in name for kind in _KINDS):
    raise UserError(
      f"llmlingua_model={name!r}; expected a name with {' or '.join(_KINDS)} in it, such as "
      "microsoft/llmlingua-2-xlm-roberta-large-meetingbank: the package knows no other kinds"
    )
  # The constructor would download GPT-3.5's tokenizer to count tokens, so it is not called.
  compressor = PromptCompressor.__new__(PromptCompressor)
  compressor.model_name = name
  try:
    compressor.load_model(name, "cpu", {"trust_remote_code": False})
  except (OSError, ValueError) as error:
    raise UserError(f"llmlingua_model={name} cannot be loaded: {error}") from error
  if "ForTokenClassification" not in type(compressor.model).__name__:
    raise UserError(
      f"llmlingua_model={name} is a {type(compressor.model).__name__}; expected a classifier of "
      "tokens, such as microsoft/llmlingua-2-xlm-roberta-large-meetingbank"
    )
  compressor.init_llmlingua2()
  compressor.model.eval()
  return compressor


def character_probs(compressor: Any, text: str) -> Float[np.ndarray, " C"]:
  """Probability that the word of each character is kept; NaN outside all words."""
  from llmlingua.utils import is_begin_of_new_word

  encoded = compressor.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
  ids, spans = encoded["input_ids"], encoded["offset_mapping"]
  pieces = compressor.tokenizer.convert_ids_to_tokens(ids)
  probs = np.full(len(text), np.nan)
  for start, end in _chunks(pieces, compressor.max_seq_len - 2):
    kept = _piece_probs(compressor, ids[start:end])
    words = [
      at
      for at in range(start, end)
      if at == start or is_begin_of_new_word(pieces[at], compressor.model_name, [], {})
    ]
    for first, behind in zip(words, [*words[1:], end], strict=True):
      mean = kept[first - start : behind - start].mean()
      for left, right in spans[first:behind]:
        probs[left:right] = mean
  return probs


def _chunks(pieces: Sequence[str], most: int) -> Iterator[tuple[int, int]]:
  """Bounds of consecutive chunks of at most `most` pieces, cut behind sentences where possible."""
  start = 0
  while start < len(pieces):
    end = min(start + most, len(pieces))
    if end < len(pieces):
      ends = [at + 1 for at in range(start, end) if pieces[at] in _CHUNK_ENDS]
      end = ends[-1] if ends else end
    yield start, end
    start = end


def _piece_probs(compressor: Any, ids: Sequence[int]) -> Float[np.ndarray, " T"]:
  """Probability of class 1, `keep`, for each piece of one chunk."""
  import torch

  tokenizer = compressor.tokenizer
  whole = torch.tensor([[tokenizer.cls_token_id, *ids, tokenizer.sep_token_id]])
  with torch.no_grad():
    logits = compressor.model(input_ids=whole, attention_mask=torch.ones_like(whole)).logits
  return logits[0, 1:-1].double().softmax(-1)[:, 1].numpy()


def token_means(values: Float[np.ndarray, " C"], tokens: Sequence[str]) -> Shaped[np.ndarray, " N"]:
  """Mean value of each token's characters, NaNs left out; minus infinity where all are NaN."""
  ends = np.cumsum([len(token) for token in tokens])
  parts = np.split(values, ends[:-1])
  there = [part[~np.isnan(part)].tolist() for part in parts]
  # An exact mean: rounding would order the tokens of one word by their lengths.
  return np.array([statistics.mean(part) if part else -np.inf for part in there])
