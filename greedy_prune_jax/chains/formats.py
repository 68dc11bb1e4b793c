r"""The formats in which chains are published; a new one is one record of `FORMATS`.

A row is known by its keys. Where the keys of several formats are there, the one that asks for all
of them is meant, or one that says which others its rows may look like; else the row is refused, and
the settings `columns` say what is meant.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from greedy_prune_jax.chains import formats_chat as chat
from greedy_prune_jax.chains import formats_steps as steps
from greedy_prune_jax.chains.chain import Chain
from greedy_prune_jax.chains.formats_reply import (
  chain_of_reply,
  gold,
  of_row,
  sole,
  split_reply,
  whole_reply,
)
from greedy_prune_jax.chains.question_sets import QUESTION_SETS, Question, parse_question, rest
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs import records as fields
from greedy_prune_jax.runs.records import Record

OWN = "chain"  # the name of our own form: design section 4

_SHOWN_KEYS = 20  # of a row, in messages
_PATHS = "A KEY may be a path of keys and indices, such as outputs.0.text"
_PARTS = (
  "--config.columns.question=KEY and --config.columns.response=KEY, or columns.reasoning and "
  "columns.answer"
)


@dataclasses.dataclass(frozen=True)
class Format:
  """One form of rows.

  Attributes:
    name: name in `columns.format` and in messages.
    keys: keys that every row has, none of them null.
    parse: makes a row's chains, which have no ids but for what tells several apart; its UserError
      names the wrong key.
    over: formats whose keys such a row may have as well.
  """

  name: str
  keys: tuple[str, ...]
  parse: Callable[[Record], Iterable[Chain]]
  over: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColumnSettings:
  """The group `columns` of a config: keys under which rows hold the parts of a chain.

  A key may be a path into lists and objects, such as `outputs.0.text`.

  Attributes:
    format: form of the rows, if they fit several.
    id: key of the id; empty: the row's place in its file.
    system: key of the system prompt.
    question: key of the question. If it is set, no key is read that is not named here.
    response: key of the whole reply, or a path such as outputs.0.text, if reasoning and answer are
      one text.
    thinking: key of a thinking without tags; name the key of its answer under `answer`.
    reasoning: key of a reasoning that is no thinking; name the key of its answer under `answer`.
    answer: key of the text that follows the reasoning.
    target: key of the gold answer.
  """

  format: str = ""
  id: str = ""
  system: str = ""
  question: str = ""
  response: str = ""
  thinking: str = ""
  reasoning: str = ""
  answer: str = ""
  target: str = ""

  def __post_init__(self):
    if self.format and self.format not in FORMATS:
      raise UserError(f"columns.format={self.format!r}; expected one of {', '.join(FORMATS)}")
    named = {key for key, value in dataclasses.asdict(self).items() if value}
    if self.format and named != {"format"}:
      raise UserError(f"columns.format={self.format} knows its keys; leave the others empty")
    parts = named & {"response", "thinking", "reasoning", "answer"}
    known = ({"response"}, {"thinking", "answer"}, {"reasoning", "answer"})
    if named - {"format"} and ("question" not in named or parts not in known):
      raise UserError(
        f"columns names {', '.join(sorted(named))}; expected columns.question, and with it "
        f"columns.response, or columns.answer with columns.reasoning or columns.thinking"
      )

  @classmethod
  def defaults(cls) -> dict[str, Any]:
    """The group as a config file has it."""
    return {field.name: field.default for field in dataclasses.fields(cls)}


def chains_of_row(
  row: Record, row_id: str, columns: "ColumnSettings | None" = None
) -> tuple[str, list[Chain]]:
  """The name of a row's format, and its chains, one or several.

  Args:
    row_id: id of its chain where the row has none.
    columns: names of the chain's parts, if the row's form is not known.

  Raises:
    UserError: the row is of no format, or of two; or a key has not what it should, which the
      message names.
  """
  columns = columns or ColumnSettings()
  if columns.question:
    row = _with_paths(row, columns)
    row_id = _row_id(row, columns.id or "id", row_id)
    return "columns", [of_row(_mapped(row, columns), row_id)]
  name = columns.format or find_format(row)
  if name == OWN and "id" in row:
    fields.get_text(row, "id")  # a number would be another id in our outputs
  row_id = _row_id(row, next((key for key in ("id", "uuid") if row.get(key)), "id"), row_id)
  return name, [of_row(chain, row_id) for chain in FORMATS[name].parse(row)]


def find_format(row: Record) -> str:
  """The name of a row's format; a UserError, which says what to set, for none or several."""
  keys = {key for key, value in row.items() if value is not None}
  matching = [format for format in FORMATS.values() if keys.issuperset(format.keys)]
  names = [format.name for format in matching if not _covered(format, matching)]
  if len(names) == 1:
    return names[0]
  if names:
    raise UserError(
      f"looks like {' and '.join(names)} at once ({_shown(row)}); say which with "
      f"--config.columns.format=NAME, or name its parts, such as --config.columns.question=KEY and "
      f"--config.columns.response=KEY"
    )
  nearest = max(FORMATS.values(), key=lambda f: (len(keys & set(f.keys)), -len(f.keys)))
  lacking = [key for key in nearest.keys if key not in keys]
  hint = f"; of the form {nearest.name} it lacks {', '.join(map(repr, lacking))}"
  if {"problem", "solution"} <= keys:
    hint = "; a problem with a worked solution is read from chains=math:PATH"
  nested = any(isinstance(value, list | dict) for value in row.values())
  raise UserError(
    f"is of no known form ({_shown(row)}){hint if keys & set(nearest.keys) else ''}. Name its "
    f"parts with {_PARTS}{f'. {_PATHS}' if nested else ''}"
  )


def _covered(format: Format, matching: Collection[Format]) -> bool:
  """Tells whether another of the formats found explains this one's keys."""
  return any(
    format.name in other.over or set(other.keys) > set(format.keys)
    for other in matching
    if other is not format and other.name not in format.over
  )


def _shown(row: Record) -> str:
  keys = list(row)
  more = f", and {len(keys) - _SHOWN_KEYS} more" if len(keys) > _SHOWN_KEYS else ""
  return f"its keys: {', '.join(keys[:_SHOWN_KEYS]) or 'none'}{more}"


def _row_id(row: Record, key: str, default: str) -> str:
  """The row's id as a text; `default` where it has none."""
  if row.get(key) in (None, ""):
    return default
  return str(fields.get(row, key, str, int))


def _with_paths(row: Record, columns: ColumnSettings) -> Record:
  """The row with what the columns name under their paths; a UserError for a list or an object."""
  found = {}
  for name, path in dataclasses.asdict(columns).items():
    value = sole(_at(row, path)) if path else None
    if isinstance(value, list | dict):
      kind = "a list" if isinstance(value, list) else "an object"
      raise UserError(
        f'columns.{name}: "{path}" is {kind}, not a text; name the text in it. {_PATHS}'
      )
    found |= {} if value is None else {path: value}
  return row | found


def _at(value: Any, path: str) -> Any:
  """The value at a path, which may also be a key with dots; None where there is none."""
  if isinstance(value, dict) and path in value:
    return value[path]
  key, dot, behind = path.partition(".")
  if isinstance(value, list) and key.isdecimal() and int(key) < len(value):
    return _at(value[int(key)], behind) if dot else value[int(key)]
  return _at(value[key], behind) if dot and isinstance(value, dict) and key in value else None


def _mapped(row: Record, columns: ColumnSettings) -> Chain:
  """The chain in a row whose parts the settings name."""
  if columns.reasoning:
    reasoning, answer = (fields.get_text(row, k) for k in (columns.reasoning, columns.answer))
    reasoning += "" if reasoning[-1].isspace() else "\n"
  elif columns.thinking:
    thinking, answer = (fields.get_text(row, k) for k in (columns.thinking, columns.answer))
    reasoning, answer = split_reply(whole_reply(thinking, answer))
  else:
    reasoning, answer = split_reply(fields.get_text(row, columns.response))
  named = dataclasses.asdict(columns).values()
  return Chain(
    id="",
    question=fields.get_text(row, columns.question),
    reasoning=reasoning,
    answer=answer,
    system=fields.get_optional_text(row, columns.system) if columns.system else None,
    target=gold(row, columns.target) if columns.target else None,
    extra=rest(row, *named),
  )


def _parse_own(row: Record) -> Iterator[Chain]:
  yield dataclasses.replace(Chain.from_record(row | {"id": "-"}), id="")


def _parse_pruner(row: Record) -> Iterator[Chain]:
  """A record of the published pruner."""
  used = ("system_prompt", "user_prompt", "response_reason", "response_answer")
  question, reasoning, answer = (fields.get_text(row, key) for key in used[1:])
  yield Chain(
    id="",
    question=question,
    reasoning=reasoning,
    answer=answer,
    system=fields.get_optional_text(row, "system_prompt"),
    target=fields.get_optional_text(row, "target"),
    extra=rest(row, *used),
  )


def _answered(question: Question, reasoning: str, answer: str) -> Chain:
  return Chain(
    id="",
    question=question.question,
    reasoning=reasoning,
    answer=answer,
    system=question.system,
    target=question.target,
    extra=question.extra,
  )


def solved_question(question: Question, answer: str) -> Chain:
  """The chain of a question's worked solution, ending in one newline; a UserError without one."""
  if question.rationale is None:
    raise UserError("has no worked solution")
  return _answered(question, question.rationale.rstrip() + "\n", answer)


def _parse_gsm8k(row: Record) -> Iterator[Chain]:
  try:
    question = parse_question("gsm8k", row, "-")
  except UserError as error:  # many sets have these two keys
    raise UserError(f"{error}. Of another row, name the parts with {_PARTS}") from error
  yield solved_question(question, QUESTION_SETS["gsm8k"].form.write(question.target))


def _parse_mmlu_pro(row: Record) -> Iterator[Chain]:
  """A row of MMLU-Pro with a worked solution, as the validation split has them."""
  question = parse_question("mmlu_pro", row, "-")
  worked = fields.get_text(row, "cot_content").strip().removeprefix("A:").lstrip()
  yield _answered(question, *split_reply(worked))


def _parse_limo(row: Record) -> Iterator[Chain]:
  """A row of LIMO, whose solutions are a model's."""
  yield chain_of_reply(
    fields.get_text(row, "solution"),
    question=fields.get_text(row, "question"),
    target=gold(row, "answer"),
    extra=rest(row, "question", "solution", "answer"),
  )


FORMATS = {
  format.name: format
  for format in (
    Format(
      OWN,
      ("question", "reasoning", "answer"),
      _parse_own,
      over=("messages", "sharegpt", "s1k", "s1k_first", "limo", "mmlu_pro"),
    ),
    Format("pruner", ("user_prompt", "response_reason", "response_answer"), _parse_pruner),
    Format("gsm8k", ("question", "answer"), _parse_gsm8k),
    Format("messages", ("messages",), chat.parse_turns("messages")),
    Format("sharegpt", ("conversations",), chat.parse_turns("conversations")),
    # AceReason-1.1-SFT, Nemotron's post-training sets.
    Format("input_output", ("input", "output"), chat.parse_pair("input", "output")),
    Format("prompt_response", ("prompt", "response"), chat.parse_pair("prompt", "response")),
    # TRL's.
    Format("prompt_completion", ("prompt", "completion"), chat.parse_pair("prompt", "completion")),
    Format("alpaca", ("instruction", "output"), chat.parse_alpaca, over=("input_output",)),
    # OpenMathReasoning, OpenMathInstruct.
    Format(
      "openmath",
      ("problem", "generated_solution"),
      chat.parse_pair("problem", "generated_solution"),
    ),
    # s1K-1.1; its other model's chains: columns.thinking=gemini_thinking_trajectory.
    Format(
      "s1k",
      ("question", "deepseek_thinking_trajectory", "deepseek_attempt"),
      steps.parse_s1k("deepseek_thinking_trajectory", "deepseek_attempt"),
      over=("messages",),
    ),
    Format(
      "s1k_first",
      ("question", "thinking_trajectories", "attempt"),
      steps.parse_s1k("thinking_trajectories", "attempt"),
      over=("messages",),
    ),
    Format("openr1", ("problem", "generations"), steps.parse_openr1, over=("messages",)),
    Format("limo", ("question", "solution", "answer"), _parse_limo),
    Format("mmlu_pro", ("question", "options", "answer", "cot_content"), _parse_mmlu_pro),
    Format("prm800k", ("question", "label", "labeler"), steps.parse_prm800k),
    Format("processbench", ("problem", "steps", "label"), steps.parse_processbench),
    # A folder of three files.
    Format("thought_anchors", ("problem.json", "base_solution.json"), steps.parse_thought_anchors),
    Format("s3_cot", ("instruction", "chain_0.0"), steps.parse_s3_cot),
  )
}
