"""The arm of a study whose chains a teacher edits."""

import json

import pytest

from configs import study_cpu
from greedy_prune_jax.chains.reading import read_chains
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.study.settings import StudySettings
from greedy_prune_jax.study.work import edit_arm
from tests.helpers import teacher_forms as forms
from tests.helpers.chat_server import completion, refusal, serving


def test_a_teacher_takes_the_chains_of_a_study_through_all_stages(tmp_path):
  pytest.importorskip("openai")
  path = tmp_path / "chains.jsonl"
  path.write_text("".join(json.dumps(forms.chain(i)) + "\n" for i in range(2)))
  refuse = [True]

  def respond(request, count):
    if forms.number_of(request) == 1 and forms.stage_of(request) == "edit":
      if refuse[0]:
        return refusal(400, "too long")
      if forms.complaint_of(request) is None:
        return completion(forms.HALF["edit"])
    return forms.good(request, count)

  with serving(respond) as server:
    config = study_cpu.get_config()
    config.edited = {"drp": {"teacher": "openai"}}
    config.drp.endpoint.update({"base_url": server.url, "model": "m", "backoff": 0.01})
    settings = StudySettings.from_config(config.to_dict())
    made = settings.drp_config(settings.edited["drp"], str(path))
    with pytest.raises(UserError, match="there is no reply on 1 chains"):
      edit_arm(made, tmp_path / "drp")
    refuse[0] = False
    edit_arm(made, tmp_path / "drp")
  chains = list(read_chains(str(tmp_path / "drp")))
  assert [chain.reasoning for chain in chains] == [forms.WRITTEN + "\n"] * 2
  summary = json.loads((tmp_path / "drp" / "summary.json").read_text())
  assert [row["refused"] for row in summary["stages"]] == [0, 1, 0]
