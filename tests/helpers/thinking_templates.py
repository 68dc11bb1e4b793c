"""Chat templates of our own with the structure of well-known thinking models' templates."""

_SYSTEM_AND_USER = (
  "{% for m in messages %}{% if m.role != 'assistant' %}"
  "<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% else %}"
)
_THOUGHT_AND_REPLY = (
  "{% set thought = m.reasoning_content | default('', true) %}"
  "{% set said = m.content %}"
  "{% if '</think>' in said %}"
  "{% set thought = said.split('</think>')[0].split('<think>')[-1] %}"
  "{% set said = said.split('</think>')[-1] %}{% endif %}"
)

# Thinking in `reasoning_content` or in the content; the model writes both tags itself; asked not
# to think, it is given an empty thinking.
QWEN3 = (
  _SYSTEM_AND_USER
  + _THOUGHT_AND_REPLY
  + "<|start|>assistant\n{% if loop.last %}<think>\n{{ thought.strip('\n') }}\n</think>\n\n"
  "{% endif %}"
  "{{ said.lstrip('\n') }}<|end|>\n{% endif %}{% endfor %}"
  "{% if add_generation_prompt %}<|start|>assistant\n"
  "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
  "{% endif %}"
)
# The same, but the prompt opens the thinking.
QWEN3_5 = QWEN3.replace(
  "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}",
  "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n"
  "{% else %}<think>\n{% endif %}",
)
# The prompt always opens the thinking; that of earlier replies is left out.
R1 = (
  _SYSTEM_AND_USER
  + "<|start|>assistant{{ m.content.split('</think>')[-1].lstrip() }}<|end|>{% endif %}{% endfor %}"
  "{% if add_generation_prompt %}<|start|>assistant<think>\n{% endif %}"
)
# Channels.
HARMONY = (
  _SYSTEM_AND_USER
  + "{% if m.thinking %}<|start|>assistant<|channel|>analysis<|message|>{{ m.thinking }}<|end|>"
  "{% endif %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|return|>"
  "{% endif %}{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
# A switch in the system text, which is the user's; earlier thinking is left out.
NEMOTRON = (
  _SYSTEM_AND_USER + "<|start|>assistant\n{{ m.content.split('</think>')[-1].lstrip() }}<|end|>\n"
  "{% endif %}{% endfor %}"
  "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
# The prompt opens the thinking with no line break; replies stand as they are.
OLMO_THINK = (
  _SYSTEM_AND_USER + "<|start|>assistant\n{{ m.content }}<|end|>\n{% endif %}{% endfor %}"
  "{% if add_generation_prompt %}<|start|>assistant\n<think>{% endif %}"
)
# /think and /no_think in the system text, or the usual variable.
SMOLLM3 = (
  "{% set ns = namespace(think=enable_thinking | default(true)) %}"
  "{% if messages[0].role == 'system' and '/no_think' in messages[0].content %}"
  "{% set ns.think = false %}{% endif %}"
  + _SYSTEM_AND_USER
  + "<|start|>assistant\n{{ m.content.lstrip('\n') }}<|end|>\n{% endif %}{% endfor %}"
  "{% if add_generation_prompt %}<|start|>assistant\n"
  "{% if not ns.think %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
# A model that does not think.
CHATML = (
  _SYSTEM_AND_USER + "<|start|>assistant\n{{ m.content }}<|end|>\n{% endif %}{% endfor %}"
  "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
