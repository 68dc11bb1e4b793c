"""The settings of jobs that a teacher writes for: who it is, where it is, and how it writes."""

import dataclasses
import math
from typing import Any

from greedy_prune_jax.chains.question_sets import meant_by_zero
from greedy_prune_jax.chains.thinking_chains import AUTO, MODES
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.settings import ModelSettings
from greedy_prune_jax.runs.settings import check_choice, check_least

ENDPOINT = "openai"  # the name of the teacher that is at an endpoint
STRUCTURED = ("json_schema", "json_object", "words")
TEMPLATE_VARIABLES = "chat_template_kwargs"  # of a request: what is asked of the chat template
CAN_BE_OMITTED = ("temperature", "top_p", "top_k", "seed", "stop", "system", TEMPLATE_VARIABLES)
_MOST_CONCURRENT = 1024
_LONGEST = 1e6  # seconds, or hours; more is a slip, and some clocks cannot wait so long


@dataclasses.dataclass(frozen=True, kw_only=True)
class EndpointSettings:
  """The group `endpoint` of a config; its defaults are these.

  Attributes:
    base_url: address such as http://localhost:8000/v1; empty: OPENAI_BASE_URL, or else OpenAI's.
    model: name of the model at the endpoint.
    api_key_env: environment variable that holds the key. If the variable is not set, a server named
      by `base_url` is asked without a key.
    concurrency: requests in flight at once.
    max_attempts: most attempts for one reply, the first included.
    backoff: seconds before the second attempt, about; they double with each attempt. If the
      endpoint asks for a longer wait (Retry-After), that is kept, up to 2 minutes.
    timeout: seconds without any data after which an attempt fails.
    max_seconds: seconds after which an attempt fails, even if data still come.
    max_requests: most attempts of one run of a process; 0: no limit.
    max_tokens: most tokens, read and written, that one run of a process may use, as the endpoint
      counts them; 0: no limit. A request that might exceed the rest is not made.
    structured: way to ask for JSON: `json_schema` (the endpoint enforces the schema), `json_object`
      (it enforces JSON), or `words` (the prompt asks). If the endpoint refuses one, the next is
      tried.
    batch: most requests of a batch; batches are cheaper and take up to a day. 0: no batches, but
      single requests, which `concurrency` and `backoff` control.
    poll: seconds between two requests for a batch's status.
    batch_hours: hours after which an unfinished batch is given up.
    omit: fields that are not sent because the endpoint does not know them: some of `temperature`,
      `top_p`, `top_k`, `seed`, `stop`, `system` (the system text then precedes the question), and
      `chat_template_kwargs` (which ask for `thinking=on` or `off`).
  """

  base_url: str = ""
  model: str = ""
  api_key_env: str = "OPENAI_API_KEY"
  concurrency: int = 8
  max_attempts: int = 6
  backoff: float = 1.0
  timeout: float = 120.0
  max_seconds: float = 900.0
  max_requests: int = 0
  max_tokens: int = 0
  structured: str = "json_schema"
  batch: int = 0
  poll: float = 30.0
  batch_hours: float = 48.0
  omit: tuple[str, ...] = ()

  def __post_init__(self):
    check_choice("endpoint.structured", self.structured, STRUCTURED)
    check_least(self, 1, "concurrency", "max_attempts")
    check_least(self, 0, "max_requests", "max_tokens", "batch")
    if self.concurrency > _MOST_CONCURRENT:
      raise UserError(f"concurrency={self.concurrency}; expected {_MOST_CONCURRENT} or less")
    for name in ("timeout", "max_seconds", "batch_hours", "backoff", "poll"):
      value, positive = getattr(self, name), name not in ("backoff", "poll")
      if not (value > 0 if positive else value >= 0) or value > _LONGEST:
        least = "above 0" if positive else "from 0"
        raise UserError(f"endpoint.{name}={value}; expected a number {least}, up to {_LONGEST:g}")
    for name in self.omit:
      check_choice("endpoint.omit", name, CAN_BE_OMITTED)

  @classmethod
  def defaults(cls) -> dict[str, Any]:
    """The group as a config file has it."""
    return dataclasses.asdict(cls())


# Settings that a later run in the same workdir may change, as dotted keys: not who answers.
MAY_CHANGE = tuple(
  f"endpoint.{field.name}"
  for field in dataclasses.fields(EndpointSettings)
  if field.name not in ("model", "structured")
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WritingSettings:
  """Settings of a teacher's writing; `greedy_prune_jax.models.sampler.Request` tells of the others.

  Attributes:
    max_new_tokens: most tokens of a reply, thinking not counted.
    thinking: `on`, `off`, or `auto`: a model here thinks where its template opens every reply with
      a tag; an endpoint is told nothing.
    max_thinking_tokens: most tokens of the thinking before a reply.
    force_answer: True to write the closing tag for a model that does not end its thinking.
  """

  max_new_tokens: int
  temperature: float = 0.0
  top_p: float = 1.0
  top_k: int = 0
  stop_strings: tuple[str, ...] = ()
  thinking: str = AUTO
  max_thinking_tokens: int = 4096
  force_answer: bool = False

  def __post_init__(self):
    check_choice("thinking", self.thinking, MODES)
    check_least(self, 1, "max_new_tokens", "max_thinking_tokens")
    check_least(self, 0, "top_k")
    if not 0 <= self.temperature < math.inf:
      raise UserError(f"temperature={self.temperature}; expected 0 or more")
    if not 0 < self.top_p <= 1:
      raise UserError(f"top_p={self.top_p}; expected a number above 0, up to 1 (all tokens)")
    if not all(isinstance(stop, str) and stop for stop in self.stop_strings):
      raise UserError(f"stop_strings={self.stop_strings}; expected a tuple of strings, none empty")


@dataclasses.dataclass(frozen=True, kw_only=True)
class WritingJobSettings(ModelSettings):
  """Base of the settings of jobs whose model writes; the jobs' config files explain each key."""

  max_new_tokens: int

  def __post_init__(self):
    super().__post_init__()
    _ = self.writing  # which checks itself

  @property
  def writing(self) -> WritingSettings:
    """The model's way of writing: greedy, but for what a job sets."""
    names = {field.name for field in dataclasses.fields(WritingSettings)}
    set_here = names.intersection(field.name for field in dataclasses.fields(self))
    return WritingSettings(**{name: getattr(self, name) for name in set_here})


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingJobSettings(WritingJobSettings):
  """Base of the settings of jobs whose model samples; the jobs' config files explain each key."""

  temperature: float
  top_p: float
  top_k: int
  thinking: str
  max_thinking_tokens: int
  force_answer: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuestionJobSettings(SamplingJobSettings):
  """Base of the settings of jobs with a question set; the jobs' config files explain each key."""

  questions: str
  split: str
  num_questions: int
  num_shots: int
  seed: int
  num_samples: int
  stop_strings: tuple[str, ...]
  show_samples: int

  def __post_init__(self):
    super().__post_init__()
    check_choice("split", self.split, ("train", "test"))
    check_least(self, 0, "num_questions", "num_shots", "seed", "show_samples")
    check_least(self, 1, "num_samples")
    if self.temperature == 0 and self.num_samples > 1:
      raise UserError(
        f"num_samples={self.num_samples} at temperature=0 would be that many equal samples; set a "
        "temperature above 0, or num_samples=1"
      )

  @property
  def may_grow(self) -> dict[str, float]:
    """Numbers of inputs that a later run in the same workdir may set higher; see `Workdir`."""
    return {"num_questions": meant_by_zero(self.questions)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherJobSettings(SamplingJobSettings):
  """Base of the settings of jobs with a teacher; the jobs' config files explain each key."""

  teacher: str
  endpoint: EndpointSettings

  def __post_init__(self):
    super().__post_init__()
    if self.teacher == ENDPOINT and self.force_answer:
      raise UserError(
        "force_answer=True, but an endpoint cannot go on with a reply that is begun for it; set "
        "force_answer=False, or a teacher here"
      )

  def check_model_is_named(self) -> None:
    """Raises a UserError where the teacher is at an endpoint and has no name there."""
    if self.teacher == ENDPOINT and not self.endpoint.model:
      raise UserError("teacher=openai needs endpoint.model, the model's name at the endpoint")

  @property
  def teacher_name(self) -> str:
    """The model that writes, also where an endpoint runs it."""
    return self.endpoint.model if self.teacher == ENDPOINT else self.teacher
