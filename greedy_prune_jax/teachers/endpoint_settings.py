"""Where an OpenAI-compatible endpoint is, and how it is asked; a group of several jobs' configs."""

import dataclasses
from typing import Any

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs.settings import check_choice, check_least

ENDPOINT = "openai"  # the name of the teacher that is at an endpoint
STRUCTURED = ("json_schema", "json_object", "words")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EndpointSettings:
  """The group `endpoint` of a config; its defaults are these.

  Attributes:
    base_url: such as http://localhost:8000/v1; empty: OpenAI's own, or what OPENAI_BASE_URL says.
    model: as the endpoint calls it.
    api_key_env: the environment variable that holds the key. Where it is not set, a server that is
      named by `base_url` is asked without one.
    concurrency: requests under way at once.
    max_attempts: for one reply, the first included.
    backoff: seconds before the second attempt, about; they double with each. Where the endpoint
      says how long to wait (Retry-After), that is waited at least, up to 2 minutes.
    timeout: seconds without a sign of life after which an attempt has failed.
    max_requests: budget of one run of a process: attempts; 0: no limit.
    max_tokens: budget of one run of a process: tokens read and written as the endpoint counts them;
      0: no limit. A request that might exceed it is not made.
    structured: how replies that should be JSON are asked for: held to their schema (`json_schema`),
      held to JSON (`json_object`), or by `words` alone. An endpoint that refuses one of them is
      asked by the next.
    batch: most requests of a batch at the endpoint's batch interface, which is cheaper and takes up
      to a day; 0: not by batches, but one by one. `concurrency` and `backoff` are of the latter.
    poll: seconds between two looks at whether a batch is done.
  """

  base_url: str = ""
  model: str = ""
  api_key_env: str = "OPENAI_API_KEY"
  concurrency: int = 8
  max_attempts: int = 6
  backoff: float = 1.0
  timeout: float = 120.0
  max_requests: int = 0
  max_tokens: int = 0
  structured: str = "json_schema"
  batch: int = 0
  poll: float = 30.0

  def __post_init__(self):
    check_choice("endpoint.structured", self.structured, STRUCTURED)
    check_least(self, 1, "concurrency", "max_attempts")
    check_least(self, 0, "backoff", "max_requests", "max_tokens", "batch", "poll")
    if not self.timeout > 0:
      raise UserError(f"timeout={self.timeout}; expected a number of seconds above 0")

  @classmethod
  def defaults(cls) -> dict[str, Any]:
    """The group as a config file has it."""
    return dataclasses.asdict(cls())


# What a later run in the same workdir may set differently, as dotted keys: not who answers.
MAY_CHANGE = tuple(
  f"endpoint.{field.name}"
  for field in dataclasses.fields(EndpointSettings)
  if field.name not in ("model", "structured")
)
