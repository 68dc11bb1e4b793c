"""Labels on disk, in the form of the published viewer.

One JSON object a chain and line: `id`, and `reason_tokens_json`, a list with one object a token:
`token_position` (from 0), `token_text`, `deleted_step` (the deletion, or move of a search by runs,
counted from 1, that took the token; null if none did), `category` (null if unlabelled). Further
keys of a token, such as the published `justification`, are read over.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from greedy_prune_jax.chains.categories import Labels, parse_category
from greedy_prune_jax.chains.chain import PrunedChain
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs import records as fields
from greedy_prune_jax.runs.files import replace_file
from greedy_prune_jax.runs.jsonl import encode_line, parse_line, read_lines
from greedy_prune_jax.runs.records import Record

_TOKENS_KEY = "reason_tokens_json"


def labels_to_record(chain: PrunedChain, labels: Labels) -> Record:
  """One chain's labels as one line of a label file."""
  step_of = {position: step for step, move in enumerate(chain.moves, 1) for position in move}
  return {
    "id": chain.chain.id,
    _TOKENS_KEY: [
      {
        "token_position": position,
        "token_text": text,
        "deleted_step": step_of.get(position),
        "category": label,
      }
      for position, (text, label) in enumerate(zip(chain.reasoning_tokens, labels, strict=True))
    ],
  }


def read_labels(path: Path) -> dict[str, tuple[tuple[str, ...], Labels]]:
  """Token texts and labels of each chain id in a label file.

  Raises:
    UserError: the file cannot be read or a line is of another form; the message names the line.
  """
  labels_of = {}
  for number, line in read_lines(path):
    try:
      record = parse_line(line)
      labels_of[fields.get_text(record, "id")] = _parse_tokens(record)
    except UserError as error:
      raise UserError(f"{path}, line {number}: {error}") from error
  return labels_of


def renew_steps(path: Path, chains: Sequence[PrunedChain]) -> None:
  """Writes into a label file when the tokens of these chains left, where that has changed.

  Raises:
    UserError: see `read_labels`; or the file cannot be written.
  """
  chain_of = {chain.chain.id: chain for chain in chains}
  lines, changed = [], False
  for _, line in read_lines(path):
    record = parse_line(line)
    texts, labels = _parse_tokens(record)
    chain = chain_of.get(record["id"])
    if chain is not None and chain.reasoning_tokens == texts:
      renewed = labels_to_record(chain, labels)
      changed |= renewed != record
      record = renewed
    lines.append(encode_line(record))
  if changed:
    replace_file(path, b"".join(lines))


def _parse_tokens(record: Record) -> tuple[tuple[str, ...], Labels]:
  tokens = sorted(
    fields.get_items(record, _TOKENS_KEY, dict), key=lambda t: fields.get(t, "token_position", int)
  )
  positions = [token["token_position"] for token in tokens]
  if positions != list(range(len(tokens))):
    raise UserError(
      f'"token_position" must be 0 to {len(tokens) - 1}, each once; they are {positions[:8]}...'
    )
  texts = tuple(fields.get(token, "token_text", str) for token in tokens)
  names = [fields.get(token, "category", str, type(None)) for token in tokens]
  return texts, tuple(None if name is None else parse_category(name) for name in names)


def labels_of_chains(
  chains: Sequence[PrunedChain], stored: Mapping[str, tuple[tuple[str, ...], Labels]]
) -> list[Labels]:
  """The stored labels of each chain.

  Raises:
    UserError: a chain has none, or they are of other tokens (another tokenizer's, say).
  """
  ordered = []
  for chain in chains:
    if chain.chain.id not in stored:
      raise UserError(f"no labels for chain {chain.chain.id}; label it, or leave it out")
    texts, labels = stored[chain.chain.id]
    if texts != chain.reasoning_tokens:
      raise UserError(
        f"the labels of chain {chain.chain.id} are of {len(texts)} other tokens than its "
        f"{len(chain.reasoning_tokens)}; labels hold for one tokenizer only"
      )
    ordered.append(labels)
  return ordered
