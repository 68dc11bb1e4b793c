"""Records that tests change, as runs write them."""

import json

from tests.helpers import teacher_forms as forms


def write_lines(path, *records):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("".join(json.dumps(record) + "\n" for record in records))
  return path


def drp_records():
  """A record of each stage, on one chain."""
  chain = forms.chain(1)
  made = {"teacher": "m", "prompt": "1"}
  steps = [{"text": text, "skill": skill} for text, skill in forms.STEPS]
  edits = [
    {"steps": [i - 1 for i in numbers], "action": action, "text": text}
    for numbers, action, text in forms.EDITS
  ]
  base = {"id": chain["id"], "chain": chain, "steps": steps, "failed": None, "num_tokens": 9}
  base |= {"refused": [{"reason": "not_json", "complaint": "c"}], "made_by": {"decompose": made}}
  edited = base | {"edits": edits, "made_by": base["made_by"] | {"edit": made}}
  written = edited | {"text": forms.WRITTEN, "invented": []}
  written |= {"made_by": edited["made_by"] | {"write": made}}
  return {"decomposed": base, "edited": edited, "written": written}
