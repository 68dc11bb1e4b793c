"""The client of an OpenAI-compatible endpoint."""

import logging
import os
from typing import Any

from greedy_prune_jax.chains.errors import UserError
from greedy_prune_jax.teachers.endpoint_settings import EndpointSettings


def connect(endpoint: EndpointSettings) -> tuple[Any, Any]:
  """The package openai, and a client of it; nothing is sent yet.

  Raises:
    UserError: the package is not installed, or the model or the key is missing.
  """
  try:
    import openai  # an extra
  except ImportError as error:
    raise UserError(
      "teacher=openai needs the package openai; install it with: "
      "pip install 'greedy_prune_jax[openai]'"
    ) from error
  if not endpoint.model:
    raise UserError("endpoint.model is empty; expected the name of a model at the endpoint")
  key = os.environ.get(endpoint.api_key_env)
  if not key and not endpoint.base_url:
    raise UserError(
      f"the environment variable {endpoint.api_key_env} is not set; expected the endpoint's key. "
      "Set it, name another by endpoint.api_key_env, or name a server by endpoint.base_url"
    )
  logging.getLogger("httpx2").setLevel(logging.WARNING)  # it reports every request
  # It tries nothing again by itself: every attempt counts in the budget.
  client = openai.OpenAI(
    base_url=endpoint.base_url or None,
    api_key=key or "none",
    timeout=endpoint.timeout,
    max_retries=0,
  )
  return openai, client
