"""Fields that each stage takes from a reply, and every reason for which it refuses one."""

import json

import pytest

from greedy_prune_jax.chains.chain import Chain
from greedy_prune_jax.drp import prompts
from greedy_prune_jax.drp.asking import read_reply
from greedy_prune_jax.drp.checks import RefusedReplyError
from greedy_prune_jax.drp.items import Item
from greedy_prune_jax.drp.prompts import SKILLS
from greedy_prune_jax.drp.records import finished_record, new_chain
from greedy_prune_jax.drp.stages import DECOMPOSE, EDIT, STAGES, WRITE
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.teachers.teacher import Reply
from tests.helpers import teacher_forms as forms

pytest.importorskip("rapidfuzz")
pytest.importorskip("json_repair")


def read(stage, item, text, finish_reason="stop"):
  return read_reply(stage, item, Reply(id="x", text=text, finish_reason=finish_reason))


def item_before(stage, chain=None):
  """A chain that has come to a stage."""
  item = Item.of(Chain.from_record(chain or forms.chain(0)))
  for earlier in STAGES.values():
    if earlier is stage:
      return item
    found = read(earlier, item, forms.GOOD[earlier.name])
    item = item.with_results(finished_record(earlier, item, "t", found))
  raise AssertionError


def test_decompose_gives_the_chains_own_text_and_skills():
  (found,) = read(DECOMPOSE, item_before(DECOMPOSE), forms.GOOD["decompose"]).values()
  assert "".join(step["text"] for step in found) == forms.REASONING.strip()
  assert [step["skill"] for step in found] == [skill for _, skill in forms.STEPS]


def test_edits_are_read_by_index():
  found, invented = read(EDIT, item_before(EDIT), forms.GOOD["edit"]).values()
  assert invented == []
  assert [(edit["steps"], edit["action"]) for edit in found] == [
    ([0, 1], "merge"),
    ([2], "delete"),
    ([3], "shorten"),
  ]


def test_numbers_of_edits_are_checked():
  edit = forms.edits((*forms.EDITS[:2], ([4], "shorten", "So 31.")))
  assert read(EDIT, item_before(EDIT), edit)["invented"] == ["31"]


def test_a_chain_is_written_and_its_numbers_are_checked():
  item = item_before(WRITE)
  assert read(WRITE, item, forms.GOOD["write"]) == {"text": forms.WRITTEN, "invented": []}
  odd = read(WRITE, item, forms.written("Natalia is 31 and sold 48 + 24 = 72."))
  assert odd["invented"] == ["31"]
  # Checked as a number, in any form that evaluation reads.
  assert read(WRITE, item, forms.written(answer="#### 72.0"))["text"] == forms.WRITTEN


def test_an_answer_that_is_no_number_can_be_kept():
  answer = '{"answer": "Tuesday"}'
  item = item_before(WRITE, forms.chain(0, answer=answer))
  assert read(WRITE, item, forms.written(answer=answer))["text"] == forms.WRITTEN
  with pytest.raises(RefusedReplyError, match="answer_changed"):
    read(WRITE, item, forms.written(answer='{"answer": "Monday"}'))


@pytest.mark.parametrize("text", ["Yes", forms.REASONING])
def test_no_steps_are_refused(text):
  item = item_before(DECOMPOSE, forms.chain(0, reasoning=text))
  with pytest.raises(RefusedReplyError, match="text_left_out"):
    read(DECOMPOSE, item, '{"steps": []}')


@pytest.mark.parametrize(("stage", "reason"), forms.BAD)
def test_what_is_wrong_is_refused_by_its_reason(stage, reason):
  with pytest.raises(RefusedReplyError) as error:
    read(STAGES[stage], item_before(STAGES[stage]), forms.BAD[stage, reason])
  assert error.value.reason == reason
  assert error.value.complaint


@pytest.mark.parametrize(
  ("text", "reason"),
  [
    (r"48 \neq 2", "bad_form"),  # JSON reads a line break and eq
    (r"48 \times 2", "bad_form"),
    (r"48 \ud835 2", "not_json"),
    (r"48 \\neq 2\nso 2", None),
  ],
)
def test_what_jsons_escapes_have_eaten_is_refused(text, reason):
  reply = '{"chain": "' + text + r'\n{\"answer\": \"72\"}"}'
  if reason is None:
    assert read(WRITE, item_before(WRITE), reply)["text"] == "48 \\neq 2\nso 2"
  else:
    with pytest.raises(RefusedReplyError) as error:
      read(WRITE, item_before(WRITE), reply)
    assert error.value.reason == reason
    error.value.complaint.encode()


@pytest.mark.parametrize("tex", ["ne", "neq", "not", "neg", "nmid", "ni", "nu", "nabla", "nless"])
def test_line_breaks_that_were_tex_of_the_source_are_refused(tex):
  item = item_before(WRITE, forms.chain(0, question=f"Is $a \\{tex} b$ so?"))
  text = f"So $a \\{tex} b$."
  right = forms.written(text)
  assert read(WRITE, item, right)["text"] == text
  with pytest.raises(RefusedReplyError, match="control character"):
    read(WRITE, item, right.replace("\\\\", "\\"))


@pytest.mark.parametrize("line", ["i = 3", "u is 24", "e to the 2", "ot", "thus 24 + 48"])
def test_lines_that_begin_like_those_of_the_source_are_lines(line):
  question = f"Why?\n{line}, in $\\ni$, $\\nu$, $\\ne$ and $\\not$."
  item = item_before(WRITE, forms.chain(0, question=question))
  text = f"48 + 24 = 72\n{line}"
  assert read(WRITE, item, forms.written(text))["text"] == text


def test_line_ends_and_tabs_of_the_source_are_kept():
  item = item_before(WRITE, forms.chain(0, question="Why?\r\n\tprint(24)"))
  text = "48 + 24 = 72\r\n\tprint(72)"
  assert read(WRITE, item, forms.written(text))["text"] == text


@pytest.mark.parametrize(
  "unit", ['{"steps":', '{"steps": [', '{"steps": [{"text": "', "{", '{"steps": (']
)
def test_replies_that_nobody_can_mend_are_refused(unit):
  for size in (16_000, 120_000):
    with pytest.raises(RefusedReplyError) as error:
      read(DECOMPOSE, item_before(DECOMPOSE), unit * (size // len(unit)))
    assert len(error.value.complaint) < 400


@pytest.mark.parametrize("stage", STAGES)
def test_half_a_json_is_mended_and_then_found_wanting(stage):
  with pytest.raises(RefusedReplyError) as error:
    read(STAGES[stage], item_before(STAGES[stage]), forms.HALF[stage])
  assert error.value.reason in ("text_left_out", "steps_not_covered", "bad_form", "no_answer")


def test_small_faults_of_json_are_mended():
  reply = forms.GOOD["edit"]
  for broken in (
    f"Sure! Here is {{it}}:\n```json\n{reply}\n```",
    reply.replace('"action": "merge", ', '"action": "merge" '),
    reply[:-2],
    reply.replace('"', "'"),
  ):
    assert read(EDIT, item_before(EDIT), broken) == read(EDIT, item_before(EDIT), reply)


def test_a_reply_that_was_cut_off_is_refused_whatever_it_says():
  with pytest.raises(RefusedReplyError, match="cut_off"):
    read(EDIT, item_before(EDIT), forms.GOOD["edit"], finish_reason="length")


@pytest.mark.parametrize(
  ("reply", "reason", "complaint"),
  [
    ({"text": "I cannot.", "finish_reason": "refusal"}, "refused", "it refused, .*'I cannot.'"),
    ({"text": "", "finish_reason": "tool_calls"}, "tool_call", "called a tool"),
    ({"text": " ", "finish_reason": "stop"}, "empty", "no text"),
    ({"text": "<think>\nHm.\n</think>\n", "finish_reason": "stop"}, "empty", "no text"),
    ({"text": "<think>\nHm.", "finish_reason": "stop"}, "still_thinking", "think less"),
    (
      {"text": "", "finish_reason": "length", "thinking": "Hm.", "thinking_end": "never"},
      "still_thinking",
      "think less",
    ),
    ({"text": "{", "finish_reason": "not_finite"}, "broken_down", "it broke off"),
  ],
)
def test_a_reply_that_says_nothing_is_not_called_bad_json(reply, reason, complaint):
  with pytest.raises(RefusedReplyError, match=complaint) as error:
    read_reply(DECOMPOSE, item_before(DECOMPOSE), Reply(id="x", **reply))
  assert error.value.reason == reason


def test_json_is_read_whatever_its_end_is_called():
  assert read(DECOMPOSE, item_before(DECOMPOSE), forms.GOOD["decompose"], "tool_calls")


def test_prompts_show_the_chain_and_name_all_that_is_asked():
  values = DECOMPOSE.values(item_before(DECOMPOSE))
  asked = prompts.stage_prompt("decompose", values)
  assert forms.REASONING.strip() in asked
  assert forms.chain(0)["question"] in asked
  assert all(skill in asked for skill in SKILLS)
  asked = prompts.stage_prompt("edit", EDIT.values(item_before(EDIT)))
  assert "3. [checking] Let me check: 24 * 2 = 48.\n4. [addition]" in asked
  asked = prompts.stage_prompt("write", WRITE.values(item_before(WRITE)), "too $long")
  assert f"<draft>\n{forms.WRITTEN}\n</draft>" in asked
  assert forms.ANSWER in asked
  assert asked.endswith("could not be used: too $long. Reply once more, and keep to the rules.")


def test_a_version_is_of_files_skills_and_schema(monkeypatch):
  before = DECOMPOSE.version
  assert before == DECOMPOSE.version
  assert len({stage.version for stage in STAGES.values()}) == 3
  assert prompts.version("decompose", {}) != before
  monkeypatch.setitem(SKILLS, "juggling", "throws things")
  assert DECOMPOSE.version != before


def test_the_answer_behind_a_thinking_is_the_last_and_has_no_tag():
  answer = "\n</think>\n\nIn May 24.\nThe answer is 71. No:\n" + forms.chain(0)["answer"]
  item = Item.of(Chain.from_record(forms.chain(0, answer=answer)))
  assert item.answer == forms.chain(0)["answer"].strip()
  assert "</think>" not in WRITE.values(item)["answer"]


def test_thinking_is_what_stands_between_the_tags():
  reasoning = f"<think>\n{forms.REASONING}</think>\n\nShe sold 72 in all.\n"
  item = item_before(WRITE, forms.chain(0, reasoning=reasoning))
  assert item.thinking.text == forms.REASONING.strip()
  record = finished_record(WRITE, item, "t", read(WRITE, item, forms.GOOD["write"]))
  new = new_chain(record, WRITE, "keep")
  assert new.reasoning == f"<think>\n{forms.WRITTEN}\n</think>\n\nShe sold 72 in all.\n"
  assert new.answer == forms.ANSWER
  assert new.extra["drp"]["made_by"]["write"] == {"teacher": "t", "prompt": WRITE.version}


def test_chains_that_cannot_be_used_are_named():
  with pytest.raises(UserError, match="chain 0: nothing stands between its <think> tags"):
    Item.of(Chain.from_record(forms.chain(0, reasoning="<think>\n</think>72\n")))
  with pytest.raises(UserError, match="chain 0: no answer is found in its answer 'who knows'"):
    Item.of(Chain.from_record(forms.chain(0, answer="who knows")))
  with pytest.raises(UserError, match="chain 0: no answer is found in its answer '72'"):
    Item.of(Chain.from_record(forms.chain(0, answer="72", target="72")))


def test_steps_of_another_chain_are_refused():
  record = {"steps": json.loads(forms.GOOD["decompose"])["steps"][1:]}
  with pytest.raises(UserError, match="chain 0: the steps that are stored for it are not those"):
    item_before(DECOMPOSE).with_results(record)
