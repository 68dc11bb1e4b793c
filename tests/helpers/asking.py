"""One prompt, asked of a server through an endpoint's teacher."""

from greedy_prune_jax.teachers.openai_endpoint import OpenAITeacher
from greedy_prune_jax.teachers.settings import EndpointSettings, WritingSettings
from greedy_prune_jax.teachers.teacher import ChatPrompt, Reply

WRITING = WritingSettings(max_new_tokens=20, temperature=0.7)
PROMPT = ChatPrompt(id="p", question="2 + 2?", system="Be brief.", seed=7)


def ask(server, writing=WRITING, **endpoint) -> Reply:
  """The reply of a `ChatServer` to the prompt; settings of the endpoint are named."""
  defaults = {"base_url": server.url, "model": "m", "backoff": 0.001, "max_attempts": 2}
  teacher = OpenAITeacher(EndpointSettings(**(defaults | endpoint)), writing)
  (reply,) = teacher.write([PROMPT])
  return reply
