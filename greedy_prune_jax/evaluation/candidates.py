"""Candidates of an evaluation: models, and students from the checkpoints of their training.

An entry of the setting `models` is `[NAME=]PLACE[@WHICH]`. PLACE is a model as the other jobs know
them, or the workdir of a distill run; of such a run WHICH names checkpoints: `last` (the
default), `best`, `all`, or a step's number.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax.numpy as jnp

from greedy_prune_jax.chains.chat_template import load_chat_template
from greedy_prune_jax.chains.thinking_chains import AUTO, ON
from greedy_prune_jax.distill.checkpoints import Checkpoints, checkpoints_folder, saved_steps
from greedy_prune_jax.distill.export import load_student, settings_of
from greedy_prune_jax.distill.parameters import cast, flat_params, with_params
from greedy_prune_jax.distill.workdir import learnt_thinking
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.evaluation.settings import EvaluateSettings
from greedy_prune_jax.models.pretrained import load_stop_ids, load_tokenizer
from greedy_prune_jax.parallel import make_mesh
from greedy_prune_jax.runs.files import user_path
from greedy_prune_jax.runs.json_reader import read_json
from greedy_prune_jax.runs.names import split_name
from greedy_prune_jax.runs.weights import weights_digest
from greedy_prune_jax.teachers.local import LocalTeacher

_LAST, _BEST, _ALL = "last", "best", "all"


@dataclasses.dataclass(frozen=True)
class Entry:
  """An entry of the setting `models`.

  Attributes:
    name: name in tables.
    place: a model as `load_model` takes it, or a workdir.
    which: checkpoints of a workdir; empty for a model.
  """

  name: str
  place: str
  which: str

  @property
  def path(self) -> Path:
    """Folder or file of that place."""
    return user_path(self.place)

  @property
  def is_student(self) -> bool:
    """True where its place is the workdir of a distill run."""
    return bool(self.which)


@dataclasses.dataclass(frozen=True)
class Candidate:
  """One model as it is asked.

  Attributes:
    entry: the entry that it comes from.
    step: the checkpoint's step; None for a model.
    keep_ratios: keep ratios that it is told, one after the other; (None,) where it is told none.
    ratio_form: the form in which it is told keep ratios.
    base: model whose tokenizer the candidate has.
    adds_to_base: True where its weights are LoRA's matrices, which are added to those of `base`.
  """

  entry: Entry
  step: int | None
  keep_ratios: tuple[float | None, ...]
  ratio_form: str
  base: str
  adds_to_base: bool = False

  def weights(self) -> str | None:
    """`weights_digest` of the model, or of the checkpoint; None if that is just being deleted."""
    place = self.entry.path
    if self.step is not None:
      place = checkpoints_folder(place) / str(self.step)
    try:
      return weights_digest(place)
    except FileNotFoundError:
      return None

  def run(self, keep_ratio: float | None) -> str:
    """Names its answers at a told keep ratio."""
    step = "" if self.step is None else f"@{self.step}"
    return f"{self.entry.name}{step}" + ("" if keep_ratio is None else f", keep {keep_ratio:g}")


def parse_entries(models: Sequence[str]) -> list[Entry]:
  """The entries of the setting `models`.

  Raises:
    UserError: two have one name, or WHICH is none that is known.
  """
  entries = [_parse_entry(text) for text in models]
  names = [entry.name for entry in entries]
  if repeated := sorted({name for name in names if names.count(name) > 1}):
    raise UserError(f"models has several of the name {repeated[0]}; name them apart, as NAME=PLACE")
  return entries


def _parse_entry(text: str) -> Entry:
  name, place = split_name(text, is_place=_is_place)
  before, is_split, which = place.rpartition("@")
  if is_split and _is_student(before):
    place = before
    if which not in (_LAST, _BEST, _ALL) and not which.isdecimal():
      raise UserError(f"models: {text}: expected last, best, all or a step's number behind the @")
  else:
    which = _LAST if _is_student(place) else ""
  if not name:
    name = Path(place).name if user_path(place).exists() else place
  return Entry(name, place, which)


def _is_place(text: str) -> bool:
  """Tells whether there is such a file or folder, also where checkpoints are named behind an @."""
  places = {text, text.rpartition("@")[0]} - {""}
  return any(user_path(place).exists() for place in places)


def _is_student(place: str) -> bool:
  """Tells whether a folder's config.json is that of a distill run, and not that of a model."""
  try:
    config = read_json(user_path(place) / "config.json")
  except UserError:
    return False
  return {"student", "chains"} <= set(config)


def check_keep_ratios(entries: Sequence[Entry], settings: EvaluateSettings) -> None:
  """A UserError if keep ratios are to be told and no entry has a form of stating them."""
  if settings.keep_ratios and not any(_ratio_form(entry, settings) for entry in entries):
    raise UserError(
      f"keep_ratios={settings.keep_ratios}, but none of models={settings.models} is told a ratio: "
      f"students are if they were trained with a ratio_form, models if ratio_form is set; leave "
      f"keep_ratios out"
    )


def _ratio_form(entry: Entry, settings: EvaluateSettings) -> str:
  return settings_of(entry.path).ratio_form if entry.is_student else settings.ratio_form


def list_candidates(entry: Entry, settings: EvaluateSettings) -> Iterator[Candidate]:
  """Lists the candidates that an entry stands for at this moment.

  Of a run that is followed that is every checkpoint, and may be nothing yet.

  Raises:
    UserError: there is no such checkpoint.
  """
  if not entry.is_student:
    keep_ratios = settings.keep_ratios if settings.ratio_form else ()
    yield Candidate(entry, None, keep_ratios or (None,), settings.ratio_form, entry.place)
    return
  made = settings_of(entry.path)
  keep_ratios = (settings.keep_ratios or made.keep_ratios) if made.ratio_form else ()
  told = keep_ratios or (None,), made.ratio_form
  for step in _steps(entry, settings.follow):
    yield Candidate(entry, step, *told, made.student, bool(made.lora_rank))


def _steps(entry: Entry, follow: bool) -> list[int]:
  workdir = entry.path
  steps = saved_steps(workdir)
  if follow or (entry.which == _ALL and steps):
    return steps
  if not steps:
    raise UserError(f"{workdir} has no checkpoint yet; pass follow=True to wait for them")
  if entry.which == _LAST:
    return steps[-1:]
  if entry.which == _BEST:
    with Checkpoints(workdir, read_only=True, alone=True) as checkpoints:
      best = checkpoints.progress(steps[-1]).best_step
    if best is None:
      raise UserError(f"{workdir} has no best checkpoint: its run has had no validation")
    return [best]
  if int(entry.which) not in steps:
    raise UserError(
      f"{workdir} has no checkpoint of step {entry.which}; it has those of "
      f"{', '.join(map(str, steps))}"
    )
  return [int(entry.which)]


def load_candidate(candidate: Candidate, settings: EvaluateSettings) -> LocalTeacher:
  """The model, asked as it was trained: a student in its own chat template, LoRA merged.

  Raises:
    UserError: it cannot be loaded.
  """
  mesh = make_mesh(settings.mesh)
  if candidate.step is None:
    return LocalTeacher.load(
      candidate.entry.place,
      settings.writing,
      chat_template=settings.chat_template or "tokenizer",
      dtype=settings.dtype,
      batch_size=settings.batch_size,
      mesh=mesh,
    )
  workdir = candidate.entry.path
  made = settings_of(workdir)
  tokenizer = load_tokenizer(made.student)
  template = load_chat_template(settings.chat_template or made.chat_template, tokenizer)
  model, _ = load_student(workdir, candidate.step, made, mesh)
  model = with_params(model, cast(flat_params(model.params), jnp.dtype(settings.dtype)))
  writing, learnt = settings.writing, learnt_thinking(workdir)
  if writing.thinking == AUTO and learnt:  # a student that learnt none thinks only if it must
    writing = dataclasses.replace(writing, thinking=ON)
  return LocalTeacher(
    model,
    tokenizer,
    template,
    writing,
    thinking_form=learnt,
    further_stops=load_stop_ids(made.student),
    batch_size=settings.batch_size,
  )
