"""Tokenizers from the metadata of GGUF files, without PyTorch.

A GGUF file has no `tokenizer.json`: it has the vocabulary, the merges or scores, and the name of
the rule by which text is split before merging. What the rules stand for is written down in
llama.cpp (src/llama-vocab.cpp) and in the `tokenizer.json` of the models they are named for.
"""

import dataclasses
from pathlib import Path
from typing import Any

from tokenizers import (
  AddedToken,
  Regex,
  Tokenizer,
  decoders,
  models,
  normalizers,
  pre_tokenizers,
)
from transformers import PreTrainedTokenizerFast

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.gguf_file import GgufFile

_CONTROL, _USER_DEFINED = 3, 4  # values of tokenizer.ggml.token_type
_SPACE = "\u2581"  # how SentencePiece writes a space
_SENTENCEPIECE = ("llama", "gemma4")  # values of tokenizer.ggml.model


@dataclasses.dataclass(frozen=True)
class _Splitting:
  """Steps of a byte-level tokenizer before it merges within the pieces."""

  pattern: str | None = None  # of a piece; None: that of GPT-2
  single_digits: bool = False
  normalise: bool = False  # to Unicode's form C
  whole_pieces: bool = False  # a piece that is in the vocabulary is one token, whatever the merges
  add_bos: bool = False  # unless the file says otherwise


_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LOWER = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
_UPPER = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_REST_WITH_SLASH = _REST.replace(r"[\r\n]*|", r"[\r\n/]*|")

_LLAMA3 = _Splitting(pattern=rf"{_LETTERS}|\p{{N}}{{1,3}}|{_REST}", whole_pieces=True, add_bos=True)
_QWEN2 = _Splitting(pattern=rf"{_LETTERS}|\p{{N}}|{_REST}", normalise=True)

_WITH_MARKS = (  # which belong to letters
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
  r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_GPT_4O = rf"{_LOWER}{_CONTRACTION}|{_UPPER}{_CONTRACTION}|\p{{N}}{{1,3}}|{_REST_WITH_SLASH}"

# Values of tokenizer.ggml.pre.
_SPLITTINGS = {
  "gpt-2": _Splitting(),
  "smollm": _Splitting(single_digits=True),
  "llama-bpe": _LLAMA3,
  "llama3": _LLAMA3,
  "llama-v3": _LLAMA3,
  "lfm2": _LLAMA3,
  "qwen2": _QWEN2,
  "deepseek-r1-qwen": _QWEN2,
  "qwen35": _Splitting(pattern=_WITH_MARKS, normalise=True),
  "gpt-4o": _Splitting(pattern=_GPT_4O),  # gpt-oss
  "tekken": _Splitting(
    pattern=rf"{_LOWER}|{_UPPER}|\p{{N}}|{_REST_WITH_SLASH}", whole_pieces=True, add_bos=True
  ),
}


def load_gguf_tokenizer(path: str | Path) -> PreTrainedTokenizerFast:
  """Builds the tokenizer that a GGUF file describes, chat template included.

  Raises:
    UserError: the file is damaged, lacks a tokenizer, or has one of a kind that is not supported.
  """
  file = GgufFile(path)
  try:
    return _build(file)
  except UserError:
    raise
  except KeyError as error:
    raise UserError(f"{path}: metadata key {error} of the tokenizer is missing.") from error
  except Exception as error:  # tokenizers raises bare Exceptions
    raise UserError(f"{path}: its metadata describes no usable tokenizer: {error}") from error


def gguf_stop_ids(file: GgufFile) -> frozenset[int]:
  """The tokens that end a text or a turn, by a file's metadata."""
  if "tokenizer.ggml.tokens" not in file.metadata:
    return frozenset()
  size = len(_list(file, "tokens", str))
  ids = (_id(file.metadata, role, size) for role in ("eos", "eot"))
  return frozenset(id_ for id_ in ids if id_ is not None)


def _list(file: GgufFile, key: str, kind: type, length: int | None = None) -> list[Any]:
  """The list under a key, of one kind of value and, if said, of one length."""
  values = file.metadata[f"tokenizer.ggml.{key}"]
  name = f"{file.path}: metadata key tokenizer.ggml.{key}"
  if not isinstance(values, list) or any(type(value) is not kind for value in values):
    raise UserError(f"{name} should be a list of {kind.__name__} values.")
  if length is not None and len(values) != length:
    raise UserError(f"{name} has {len(values)} entries; expected {length}, one a token.")
  return values


def _id(metadata: dict[str, Any], role: str, size: int) -> int | None:
  """The token of a role; converters write ids that no token has (-1, as unsigned) for none."""
  id_ = metadata.get(f"tokenizer.ggml.{role}_token_id")
  return id_ if type(id_) is int and 0 <= id_ < size else None


def _build(file: GgufFile) -> PreTrainedTokenizerFast:
  metadata = file.metadata
  kind = metadata["tokenizer.ggml.model"]
  if kind == "gpt2":
    tokenizer, add_bos = _byte_level(file)
  elif kind in _SENTENCEPIECE:
    tokenizer, add_bos = _sentencepiece(file, has_merges=kind == "gemma4"), True
  else:
    raise UserError(
      f"{file.path}: tokenizer.ggml.model {kind!r} is not supported; supported are gpt2 "
      f"(byte-level) and {' and '.join(_SENTENCEPIECE)} (SentencePiece). Pass the model's Hugging "
      "Face folder instead."
    )
  tokens = _list(file, "tokens", str)
  types = _list(file, "token_type", int, len(tokens))
  for wanted in (_CONTROL, _USER_DEFINED):
    tokenizer.add_tokens(
      [
        AddedToken(token, normalized=False, special=wanted == _CONTROL)
        for token, type_ in zip(tokens, types, strict=True)
        if type_ == wanted
      ]
    )
  roles = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
  ids = {role: _id(metadata, key, len(tokens)) for role, key in roles.items()}
  return PreTrainedTokenizerFast(
    tokenizer_object=tokenizer,
    chat_template=metadata.get("tokenizer.chat_template"),
    add_bos_token=metadata.get("tokenizer.ggml.add_bos_token", add_bos),
    add_eos_token=metadata.get("tokenizer.ggml.add_eos_token", False),
    **{role: tokens[id_] for role, id_ in ids.items() if id_ is not None},
  )


def _byte_level(file: GgufFile) -> tuple[Tokenizer, bool]:
  """Byte-pair encoding over bytes written as letters (GPT-2), and whether a text opens with BOS."""
  name = file.metadata["tokenizer.ggml.pre"]
  if name not in _SPLITTINGS:
    raise UserError(
      f"{file.path}: tokenizer.ggml.pre {name!r} is not supported; supported are "
      f"{', '.join(_SPLITTINGS)}. Pass the model's Hugging Face folder instead."
    )
  splitting = _SPLITTINGS[name]
  ids = {token: id_ for id_, token in enumerate(_list(file, "tokens", str))}
  tokenizer = Tokenizer(
    models.BPE(ids, _read_merges(file, ids), ignore_merges=splitting.whole_pieces)
  )
  steps = []
  if splitting.single_digits:
    steps.append(pre_tokenizers.Digits(individual_digits=True))
  if splitting.pattern is not None:
    steps.append(pre_tokenizers.Split(Regex(splitting.pattern), "isolated"))
  steps.append(
    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=splitting.pattern is None)
  )
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
  tokenizer.decoder = decoders.ByteLevel()
  if splitting.normalise:
    tokenizer.normalizer = normalizers.NFC()
  return tokenizer, splitting.add_bos


def _read_merges(file: GgufFile, ids: dict[str, int]) -> list[tuple[str, str]]:
  """The pairs to merge, parted at the first space behind the first letter as in llama.cpp."""
  pairs = []
  for at, merge in enumerate(_list(file, "merges", str)):
    cut = merge.find(" ", 1)
    left, right = merge[:cut], merge[cut + 1 :]
    if cut < 0 or not {left, right, left + right} <= ids.keys():
      raise UserError(
        f"{file.path}: metadata key tokenizer.ggml.merges: item {at}, {merge!r}, does not make one "
        "token of two; is the vocabulary that of another model?"
      )
    pairs.append((left, right))
  return pairs


def _sentencepiece(file: GgufFile, *, has_merges: bool) -> Tokenizer:
  """SentencePiece's byte-pair encoding: the best-scored token that two neighbours make comes first.

  Spaces are letters of their own. Where a file's `add_space_prefix` is not false, a text gets a
  space in front (Llama 2 and the first Mistral; not Gemma).

  Args:
    has_merges: True if it has a list of merges, and their order counts.
  """
  metadata = file.metadata
  tokens = _list(file, "tokens", str)
  ids = {token: id_ for id_, token in enumerate(tokens)}
  unknown = _id(metadata, "unknown", len(tokens)) or 0
  tokenizer = Tokenizer(
    models.BPE(
      ids,
      _read_merges(file, ids)
      if has_merges
      else _merges(tokens, _list(file, "scores", float, len(tokens))),
      unk_token=tokens[unknown],
      fuse_unk=True,
      byte_fallback=True,
    )
  )
  before: list[Any] = [normalizers.Replace(" ", _SPACE)]
  after: list[Any] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
  if metadata.get("tokenizer.ggml.add_space_prefix", not has_merges):
    before.append(normalizers.Prepend(_SPACE))
    after.append(decoders.Strip(" ", left=1))
  tokenizer.normalizer = normalizers.Sequence(before)
  tokenizer.decoder = decoders.Sequence(after)
  return tokenizer


def _merges(tokens: list[str], scores: list[float]) -> list[tuple[str, str]]:
  """Every way to make a token from two others, best-scored token first."""
  ids = {token: id_ for id_, token in enumerate(tokens)}
  found = []
  for token, score in zip(tokens, scores, strict=True):
    for cut in range(1, len(token)):
      left, right = token[:cut], token[cut:]
      if left in ids and right in ids:
        found.append((-score, ids[left], ids[right]))
  return [(tokens[left], tokens[right]) for _, left, right in sorted(found)]
