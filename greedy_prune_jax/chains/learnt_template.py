"""The chat template of a student: its model's, with what the student learnt as the default.

A template may have a switch (`enable_thinking`), leave a tag to the model, or write today's date. A
student was trained on one prompt of all these, and whoever loads it passes no switch.
"""

import json

from greedy_prune_jax.chains.chat_template import FIXED_DATE, ChatTemplate

# As `ChatTemplate` sets them; `+` keeps a line break at the beginning of what follows.
_SWITCHES = ("enable_thinking", "thinking")


def learnt_template(template: ChatTemplate, form_name: str | None) -> str:
  """Jinja by which a prompt is that of the training, unless it is told otherwise.

  Args:
    form_name: name of the form in which it learnt to think; None if its reasoning is visible.
  """
  layout = template.layout_of(form_name) if form_name else None
  opening = template.reply_opening if layout is None else layout.opening
  begun = template.source.removesuffix("\n")  # which no template writes at its end
  if "strftime_now" in template.source:
    begun = FIXED_DATE + begun
  asked = "add_generation_prompt"
  if template.layout is not None:
    begun = _defaults(layout is not None) + begun
    asked += f" and {'' if layout else 'not '}enable_thinking"
  opening = opening.rstrip(" ")  # the reply's first token begins with those
  said = json.dumps(opening, ensure_ascii=False)
  return begun + (f"{{%+ if {asked} %}}{{{{ {said} }}}}{{% endif %}}" if opening else "")


def thinks_by_itself(template: ChatTemplate) -> bool:
  """True if a model of this template is to think where nobody says so.

  That is, every prompt ends with an open tag, or the model is a student that learnt to think.
  """
  return template.always_thinks or template.source.startswith(_defaults(True))


def _defaults(thinks: bool) -> str:
  """Jinja that gives the switches a value where they have none."""
  value = json.dumps(thinks)
  return "".join(
    f"{{%- set {name} = {name} if {name} is defined else {value} +%}}" for name in _SWITCHES
  )
