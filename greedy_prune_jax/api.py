"""Pruning and scoring from Python: a model is loaded once, and chains go through it."""

import contextlib
import dataclasses
import html
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from transformers import PreTrainedTokenizerFast

from greedy_prune_jax.chains import reading
from greedy_prune_jax.chains.chain import Chain, PrunedChain
from greedy_prune_jax.chains.chat_template import load_chat_template
from greedy_prune_jax.chains.reading import BadChain
from greedy_prune_jax.configs.prune import get_config
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.models.pretrained import load_model, load_tokenizer
from greedy_prune_jax.parallel import make_mesh, weight_shardings
from greedy_prune_jax.pruning.run import search_tasks
from greedy_prune_jax.pruning.settings import PruneSettings
from greedy_prune_jax.pruning.tasks import PruneTask, make_tasks
from greedy_prune_jax.rankings.steps import score_without, unit_positions

_VIEWER_HEIGHT = 640  # CSS pixels, in a notebook

_MADE_UP_ID = "chain"  # of a chain that is given in parts

# Of the prune job's settings, those that the door decides itself.
_OWN = (
  *("chains", "columns", "chains_ratio", "num_chains", "seed", "max_reasoning_tokens"),
  *("pruner", "chat_template", "dtype", "mesh", "on_bad_chain", "show_chains"),
  *("budget", "budget_new_tokens", "compilation_cache", "dry_run", "plan"),
)


@contextlib.contextmanager
def _without_made_up_id() -> Iterator[None]:
  """Leaves an id that no caller gave out of messages."""
  try:
    yield
  except UserError as error:
    made_up = rf"\bchain {_MADE_UP_ID}(?=:| (?:has|is|was) )"  # and not the id "chain 1"
    error.args = (re.sub(made_up, "the chain", str(error)),)
    raise


class UnprunedError(UserError):
  """Some chains of a call were not pruned: what the message says of each.

  Attributes:
    pruned: results of the call's other chains, in their order.
  """

  def __init__(self, message: str, pruned: Sequence["Pruned"]):
    """Takes the message and the results."""
    super().__init__(message)
    self.pruned = list(pruned)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pruned(PrunedChain):
  """A pruned chain: the record that the prune job writes, and ways to look at it."""

  @property
  def tokens(self) -> tuple[str, ...]:
    """Texts of the reasoning tokens; `deletion_order` has positions in them."""
    return self.reasoning_tokens

  @_without_made_up_id()
  def text(self, keep: float) -> str:
    """The reasoning that is left at a keep ratio, from the lowest that was asked for up to 1.

    Raises:
      UserError: it is no such number, or tokens were not deleted that far.
    """
    is_number = isinstance(keep, int | float | np.integer | np.floating)
    if not is_number or isinstance(keep, bool) or not 0 <= keep <= 1:
      raise UserError(f"keep={keep!r}; expected one number, from the lowest keep ratio up to 1")
    return self.text_at(_as_ratios(keep)[0])

  def _repr_html_(self) -> str:
    """The viewer of this chain, a page of its own within the notebook's."""
    from greedy_prune_jax.analysis.patterns import LabelledRun
    from greedy_prune_jax.analysis.viewer import render, viewer_data

    run = LabelledRun(self.ranking, [self], [(None,) * len(self.tokens)])
    page = render("viewer.html.j2", data=viewer_data([run]))
    style = f"width: 100%; height: {_VIEWER_HEIGHT}px; border: 0"
    return f'<iframe style="{style}" srcdoc="{html.escape(page)}"></iframe>'


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
  """NLLs of a chain, and of the chain without each of its units, in nats per token.

  Attributes:
    tokens: texts of the units, U.
    nll: NLLs of the whole chain: `joint`, `answer` and `reasoning`.
    without: NLLs of the chain without each unit, by the same names.
  """

  tokens: tuple[str, ...]
  nll: Mapping[str, float]
  without: Mapping[str, Float[np.ndarray, " U"]]


@dataclasses.dataclass(frozen=True, eq=False)
class Pruner:
  """A model that scores deletions; made by `load`.

  Attributes:
    name: name by which it was loaded.
    model: the decoder.
    tokenizer: the model's.
    settings: settings of the prune job that the model decides, by key.
  """

  name: str
  model: Model = dataclasses.field(repr=False)
  tokenizer: PreTrainedTokenizerFast = dataclasses.field(repr=False)
  settings: Mapping[str, Any]

  @overload
  def prune(self, chains: Chain | PrunedChain, **settings: Any) -> Pruned: ...

  @overload
  def prune(self, chains: Iterable[Chain | PrunedChain], **settings: Any) -> list[Pruned]: ...

  @overload
  def prune(self, *, question: str, reasoning: str, answer: str, **settings: Any) -> Pruned: ...

  @_without_made_up_id()
  def prune(
    self,
    chains: Chain | PrunedChain | Iterable[Chain | PrunedChain] | None = None,
    *,
    question: str | None = None,
    reasoning: str | None = None,
    answer: str | None = None,
    system: str | None = None,
    keep: float | Sequence[float] | np.ndarray = (0.9, 0.7, 0.5),
    objective: str = "joint",
    search: str = "exact",
    unit: str = "token",
    ranking: str = "greedy",
    **settings: Any,
  ) -> Pruned | list[Pruned]:
    """Deletes what costs the least likelihood, down to the lowest keep ratio.

    Args:
      chains: a chain, or several; of a pruned one its whole chain; or give the parts of one:
      question: the user's question, without any template.
      reasoning: the text to prune; it ends in what separates it from the answer, such as a newline.
      answer: the literal text that follows.
      system: system prompt.
      keep: shares of the reasoning tokens that stay.
      objective: `joint`: reasoning and answer stay likely; `answer`: the answer stays likely.
      search: `exact`, or `screened` for long chains.
      unit: unit of one deletion: `token`, `word`, `sentence` or `skill_step`.
      ranking: `greedy`, or another of `configs/prune.py`.
      **settings: others of `configs/prune.py`, such as `deletions_per_step`, by their names there.

    Returns:
      What the prune job writes of the chain, or of each of several, in their order.

    Raises:
      UserError: a setting or a chain cannot be used.
      UnprunedError: a likelihood is not finite, or the ranking cannot order a chain.
    """
    chosen = {
      "keep_ratios": _as_ratios(keep),
      "objective": objective,
      "search": search,
      "unit": unit,
    }
    if "keep_ratios" in settings:
      raise UserError("keep_ratios cannot be set here; its name is keep")
    prune_settings = self._settings(settings | chosen | {"ranking": ranking})
    given = _as_chains(chains, question, reasoning, answer, system)
    tasks = self._tasks(given, prune_settings)
    by_id: dict[str, Pruned] = {}
    reasons = []
    for pruned in search_tasks(tasks, self.model, prune_settings):
      if isinstance(pruned, BadChain):
        reasons.append(pruned.reason)
      else:
        by_id[pruned.chain.id] = _as_pruned(pruned)
    in_order = [by_id[chain.id] for chain in given if chain.id in by_id]
    if reasons:
      beside = f". The other {len(in_order)} are in this error's pruned" if in_order else ""
      raise UnprunedError("; ".join(reasons) + beside, in_order)
    several = chains is not None and not isinstance(chains, Chain | PrunedChain)
    return in_order if several else in_order[0]

  @_without_made_up_id()
  def score(
    self,
    chain: Chain | PrunedChain | None = None,
    *,
    question: str | None = None,
    reasoning: str | None = None,
    answer: str | None = None,
    system: str | None = None,
    unit: str = "token",
  ) -> Scores:
    """NLLs of a chain, and of the chain without each single unit; arguments as of `prune`.

    Raises:
      UserError: the chain cannot be used.
    """
    given = _as_chains(chain, question, reasoning, answer, system)
    if len(given) != 1:
      raise UserError(f"got {len(given)} chains; score takes one")
    [task] = self._tasks(given, self._settings({"unit": unit}), least_tokens=1)
    tokens = task.tokens
    units = unit_positions(task.path.sizes)
    gone = [range(0), *units]  # the whole chain first
    nlls = score_without(self.model, task.path.segments, gone, progress=True)
    return Scores(
      tokens=tuple("".join(tokens[i] for i in positions) for positions in units),
      nll={name: float(values[0]) for name, values in nlls.items()},
      without={name: values[1:] for name, values in nlls.items()},
    )

  def _settings(self, chosen: Mapping[str, Any]) -> PruneSettings:
    """The prune job's settings: its defaults but for what is chosen."""
    if own := sorted(set(chosen).intersection(_OWN)):
      raise UserError(
        f"{own[0]} cannot be set here; expected settings of configs/prune.py other than "
        f"{', '.join(_OWN)} (dtype, mesh and chat_template are arguments of load)"
      )
    config = {**get_config().to_dict(), **self.settings}
    for name, value in chosen.items():
      merge = isinstance(config.get(name), Mapping) and isinstance(value, Mapping)
      config[name] = {**config[name], **value} if merge else value
    return PruneSettings.from_config(config)

  def _tasks(
    self, chains: Sequence[Chain], settings: PruneSettings, least_tokens: int = 2
  ) -> list[PruneTask]:
    ids = [chain.id for chain in chains]
    if not chains or len(set(ids)) < len(ids):
      raise UserError(f"chains with the ids {ids}; expected at least one, and each id once")
    context = self.model.config.max_positions
    return list(make_tasks(chains, settings, self.tokenizer, context, {}, None, least_tokens))


def load(
  name: str | os.PathLike[str],
  *,
  dtype: str = "float32",
  mesh: Mapping[str, int] | None = None,
  chat_template: str = "tokenizer",
) -> Pruner:
  """Loads the weights, the tokenizer and the chat template of a model.

  Args:
    name: a Hugging Face folder or hub id, a GGUF file, or an offline name.
    dtype: dtype of the weights: `float32` or `bfloat16`.
    mesh: devices for chains side by side, for shared positions and for shared weights, as in
      `{"data": 4, "sequence": 1, "model": 2}`; 0, the default of `data`: all that are left.
    chat_template: `tokenizer`, the model's own; `plain` for base models; or a Jinja file.

  Raises:
    UserError: there is no such model, or it cannot be used so.
  """
  if not isinstance(name, str | os.PathLike):
    raise UserError(f"got {name!r} as a model; expected a folder, a file, or a name")
  if not isinstance(mesh, Mapping | None):
    raise UserError(f'mesh={mesh!r}; expected sizes by axis, such as {{"data": 4, "model": 2}}')
  name = os.fspath(name)
  config = get_config().to_dict()
  chosen: dict[str, Any] = {"pruner": name, "chat_template": chat_template, "dtype": dtype}
  chosen["mesh"] = {**config["mesh"], **(mesh or {})}
  settings = PruneSettings.from_config(config | chosen)
  shardings = weight_shardings(make_mesh(settings.mesh))
  tokenizer = load_tokenizer(name)
  load_chat_template(chat_template, tokenizer)
  model = load_model(name, jnp.dtype(dtype), shardings=shardings)
  return Pruner(name, model, tokenizer, chosen)


def read_chains(
  source: str | os.PathLike[str],
  *,
  columns: Mapping[str, str] | None = None,
  num_chains: int = 0,
  seed: int = 0,
  on_bad_chain: str = "error",
) -> list[Chain]:
  """Reads chains as the prune job does.

  Args:
    source: a file, a folder, a workdir, a split on the hub (`hf:ORG/NAME:SPLIT`), or a question
      set; `docs/formats.md` lists the forms of rows.
    columns: keys of rows of no known form, such as `{"question": "q", "response": "r"}`.
    num_chains: most chains to read; 0: all, but few of an endless set.
    seed: seed of a question set's order.
    on_bad_chain: `error`, or `skip` to leave out, with a warning, chains that cannot be used.

  Raises:
    UserError: there is nothing to read, or a chain cannot be used.
  """
  config = get_config().to_dict()
  named = {} if columns is None else columns
  chosen = {
    "chains": os.fspath(source) if isinstance(source, os.PathLike) else source,
    "columns": {**config["columns"], **named} if isinstance(named, Mapping) else named,
    "num_chains": num_chains,
    "seed": seed,
    "on_bad_chain": on_bad_chain,
  }
  settings = PruneSettings.from_config(config | chosen)
  chains = reading.read_chains(
    settings.chains,
    num_chains=settings.num_chains,
    seed=settings.seed,
    columns=settings.columns,
    on_bad=reading.skipper(settings.on_bad_chain),
  )
  return list(chains)


def read_run(workdir: str | os.PathLike[str]) -> list[Pruned]:
  """Reads the pruned chains of the prune job's workdir; a warning tells if it is not complete.

  Raises:
    UserError: there are none, or a line is no pruned chain.
  """
  if not isinstance(workdir, str | os.PathLike):
    raise UserError(f"got {workdir!r} as a workdir; expected the path of one")
  reading.warn_of_unfinished(os.fspath(workdir))
  return list(map(_as_pruned, reading.read_pruned(os.fspath(workdir))))


def _as_pruned(chain: PrunedChain) -> Pruned:
  return Pruned(**{f.name: getattr(chain, f.name) for f in dataclasses.fields(chain)})


def _as_ratios(keep: Any) -> tuple[float, ...]:
  """Keep ratios as Python's own numbers, from one, several or an array."""
  try:
    ratios = np.atleast_1d(keep)
  except ValueError:  # lists of unlike lengths
    ratios = np.array([None])
  if ratios.dtype.kind not in "iuf":
    raise UserError(f"keep={keep!r}; expected a number from 0 to below 1, or several")
  return tuple(float(str(ratio)) for ratio in ratios.ravel())  # 0.9 of a float32 too


def _checked(chain: Any) -> Chain:
  """A chain from Python, which meets the same border as a line of a file."""
  chain = chain.chain if isinstance(chain, PrunedChain) else chain
  if not isinstance(chain, Chain):
    raise UserError(
      f"got a {type(chain).__name__}, {chain!r:.60}; expected a Chain, or several of them; "
      "Chain.from_record makes one of a record's dict, and read_chains reads a file of records"
    )
  return Chain.from_record(chain.to_record())


def _as_chains(
  chains: Chain | PrunedChain | Iterable[Chain | PrunedChain] | None,
  question: str | None,
  reasoning: str | None,
  answer: str | None,
  system: str | None,
) -> list[Chain]:
  """The chains of a call, from either form of its arguments."""
  parts = {"question": question, "reasoning": reasoning, "answer": answer, "system": system}
  given = {key: value for key, value in parts.items() if value is not None}
  if chains is not None:
    if given:
      raise UserError(f"both chains and {', '.join(given)}; expected one or the other")
    if isinstance(chains, Chain | PrunedChain | str | Mapping) or not isinstance(chains, Iterable):
      return [_checked(chains)]
    return list(map(_checked, chains))
  # The same border as for a line of a file: texts that are missing or blank are named.
  return [Chain.from_record({"id": _MADE_UP_ID, **given})]
