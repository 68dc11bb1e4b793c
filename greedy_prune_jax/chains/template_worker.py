"""Renders chat templates, which are programs of others, in a process of its own."""

from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

from greedy_prune_jax.runs.worker import answer_requests

_MOST_MEMORY = 1 << 30  # bytes
# Characters of a text, and for each of the messages'; templates double some of them.
_MOST_TEXT, _MOST_TIMES = 1 << 20, 16


def render_template(request: dict[str, Any]) -> dict[str, str]:
  """The text that a template makes of messages, or how it failed, whatever it did."""
  values = request["values"]
  try:
    (text,), _ = render_jinja_template(
      conversations=[request["messages"]], chat_template=request["template"], **values
    )
    given = sum(len(value) for message in request["messages"] for value in message.values())
    if len(text) > _MOST_TEXT + _MOST_TIMES * given:
      return {"error": f"it writes {len(text):,} characters for {given:,}"}
    text.encode()  # half of a surrogate pair is no text
  except MemoryError:
    return {"error": f"it needs more than {_MOST_MEMORY >> 20} MiB of memory"}
  except Exception as error:
    return {"error": str(error) or type(error).__name__}
  return {"text": text}


if __name__ == "__main__":
  answer_requests(render_template, _MOST_MEMORY)
