"""The drp run against a real server: three stages, retries and refusals, resumption, the budget."""

import json

import pytest

from configs.drp import get_config
from greedy_prune_jax.chains.reading import read_chains
from greedy_prune_jax.drp import summary
from greedy_prune_jax.drp.estimate import estimate_cost, token_counter
from greedy_prune_jax.drp.run import OUTPUTS, read_items, run_drp
from greedy_prune_jax.drp.settings import MAY_CHANGE, DrpSettings
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs.workdir import Workdir
from greedy_prune_jax.teachers.settings import EndpointSettings
from tests.helpers import teacher_forms as forms
from tests.helpers.chat_server import Answer, completion, refusal, serving
from tests.helpers.tiny_runs import skipped

pytest.importorskip("openai")
pytest.importorskip("rapidfuzz")
pytest.importorskip("json_repair")


@pytest.fixture
def make_config(tmp_path):
  """A run's config on so many chains; keys can be replaced, those of the endpoint too."""

  def make_config(server, num_chains=3, endpoint=None, **changes):
    path = tmp_path / f"chains-{num_chains}.jsonl"
    path.write_text("".join(json.dumps(forms.chain(i)) + "\n" for i in range(num_chains)))
    group = {"base_url": server.url, "model": "m", "backoff": 0.01, "poll": 0.01, "concurrency": 2}
    return get_config().to_dict() | {
      "chains": str(path),
      "num_chains": 0,
      "teacher": "openai",
      "endpoint": EndpointSettings.defaults() | group | (endpoint or {}),
      **changes,
    }

  return make_config


@pytest.fixture
def workdir(tmp_path):
  def workdir(config, name="run"):
    outputs = {"output": OUTPUTS[0], "further_outputs": OUTPUTS[1:]}
    return Workdir(tmp_path / name, config, **outputs, may_change=MAY_CHANGE)

  return workdir


@pytest.fixture
def drp(workdir, tmp_path):
  """Runs; what is stored of each stage, by chain id, and how many chains got no reply."""

  def drp(config, name="run"):
    with workdir(config, name) as run:
      failed = run_drp(DrpSettings.from_config(config), run)
    found = summary.read_all(tmp_path / name)
    return {stage: {r["id"]: r for r in records} for stage, records in found.items()}, failed

  return drp


def table(records, name):
  found = {
    t.name: t
    for t in summary.make_tables({k: list(v.values()) for k, v in records.items()}, "keep")
  }
  return [dict(zip(found[name].columns, row, strict=True)) for row in found[name].rows]


def chains(tmp_path, name="run"):
  return {chain.id: chain for chain in read_chains(str(tmp_path / name))}


def test_three_stages_make_chains_that_distill_takes(make_config, drp, tmp_path):
  with serving(forms.good) as server:
    records, failed = drp(make_config(server))
  assert failed == 0
  assert len(server.requests) == 3 * 3
  assert all(request["response_format"]["type"] == "json_schema" for request in server.requests)
  made = chains(tmp_path)
  assert set(made) == {f"chain {i}" for i in range(3)}
  assert {(c.reasoning, c.answer) for c in made.values()} == {(forms.WRITTEN + "\n", forms.ANSWER)}
  told = made["chain 1"].extra["drp"]
  assert (told["failed"], told["invented"]) == (None, [])
  assert set(told["made_by"]) == {"decompose", "edit", "write"}
  versions = {record["made_by"]["edit"]["prompt"] for record in records["edit"].values()}
  assert len(versions) == 1

  (reading, division, checking, addition) = sorted(
    table(records, "skills"), key=lambda row: [s for _, s in forms.STEPS].index(row["skill"])
  )
  assert [row["merge"] for row in (reading, division)] == [3, 3]
  assert (checking["delete"], checking["after"], addition["shorten"]) == (3, 0, 3)
  assert addition["before"] == 3 * len(forms.STEPS[3][0])
  assert addition["after"] == 3 * len(forms.EDITS[2][2])
  (lengths,) = [row for row in table(records, "lengths") if row["stage"] == "write"]
  assert lengths["kept"] == round(len(forms.WRITTEN) / len(forms.REASONING.strip()), 3)


def test_refused_replies_are_asked_again_with_what_was_wrong(make_config, drp):
  wrong = {  # of each chain and stage, the replies before the good one
    (0, "decompose"): [forms.BAD["decompose", "text_left_out"], forms.HALF["decompose"]],
    (1, "edit"): [forms.BAD["edit", "unknown_action"]],
    (2, "write"): [forms.BAD["write", "answer_changed"]],
  }
  complaints = []

  def respond(request, count):
    complaints.append(forms.complaint_of(request))
    replies = wrong.get((forms.number_of(request), forms.stage_of(request)), [])
    return completion(replies.pop(0)) if replies else forms.good(request, count)

  with serving(respond) as server:
    records, _ = drp(make_config(server))
  assert len(server.requests) == 3 * 3 + 4
  told = " ".join(filter(None, complaints))
  assert 'leave out "Let me check: 24 * 2 = 48."' in told
  assert 'has the action "rewrite"; expected one of keep, delete, shorten, merge' in told
  assert 'ends in the answer "70", not "72"' in told
  assert len(list(filter(None, complaints))) == 4
  assert {row["stage"]: row["refused"] for row in table(records, "stages")} == {
    "decompose": 2,
    "edit": 1,
    "write": 1,
  }
  assert all(row["failed"] == 0 for row in table(records, "stages"))


@pytest.mark.parametrize("on_failure", ["keep", "leave_out"])
def test_after_the_last_attempt_a_chain_stays_or_is_left_out(
  make_config, drp, tmp_path, on_failure
):
  bad = {(0, "decompose"): "text_left_out", (1, "edit"): "unknown_action"}
  bad[2, "write"] = "answer_changed"

  def respond(request, count):
    stage = forms.stage_of(request)
    reason = bad.get((forms.number_of(request), stage))
    return completion(forms.BAD[stage, reason]) if reason else forms.good(request, count)

  with serving(respond) as server:
    records, failed = drp(make_config(server, 4, max_attempts=2, on_failure=on_failure))
  assert failed == 0
  # Where a stage has failed no later one asks.
  assert len(server.requests) == 4 + 1 + 3 + 1 + 2 + 1
  assert {(r["stage"], r["reason"], r["chains failed"]) for r in table(records, "reasons")} == {
    (stage, reason, 1) for (_, stage), reason in bad.items()
  }
  made = chains(tmp_path)
  assert made["chain 3"].reasoning == forms.WRITTEN + "\n"
  if on_failure == "leave_out":
    assert set(made) == {"chain 3"}
  else:
    for (number, stage), reason in bad.items():
      chain = made[f"chain {number}"]
      assert chain.reasoning == forms.REASONING
      assert chain.extra["drp"]["failed"] == {"stage": stage, "reason": reason}


def test_the_model_at_the_endpoint_is_stored_and_another_one_warned_of(
  make_config, drp, tmp_path, caplog
):
  def serve(model):
    def respond(request, count):
      good = forms.good(request, count)
      first_edit = forms.stage_of(request) == "edit" and forms.complaint_of(request) is None
      return Answer((completion("x") if first_edit else good).body | {"model": model})

    return respond

  def warnings():
    return caplog.text.count("the endpoint says that other wrote the reply to ")

  with serving(serve("alias")) as server:
    drp(make_config(server, stages=("decompose",)))
    server._respond = serve("other")
    stored = {"stored": str(tmp_path / "run"), "stages": ("edit",)}
    records, _ = drp(make_config(server, **stored), "elsewhere")
    assert warnings() == 0, "another workdir's teacher is another teacher"
    records, _ = drp(make_config(server))
  assert warnings() == 1
  assert "but alias wrote earlier ones in this workdir" in caplog.text
  written = [record["made_by"] for record in records["write"].values()]
  served = {"decompose": "alias", "edit": "other", "write": "other"}
  assert [{s: made["served"] for s, made in by.items()} for by in written] == [served] * 3


def test_errors_and_rate_limits_pass(make_config, drp):
  def respond(request, count):
    if count == 0:
      return forms.RATE_LIMIT if forms.number_of(request) else refusal(503, "overloaded")
    return forms.good(request, count)

  with serving(respond) as server:
    records, failed = drp(make_config(server))
  assert failed == 0
  assert len(server.requests) == 2 * 3 * 3
  assert all(row["refused"] == 0 for row in table(records, "stages"))


def test_a_chain_without_a_reply_waits_for_the_next_run(make_config, drp, tmp_path):
  def respond(request, count):
    return refusal(400, "too long") if forms.number_of(request) == 1 else forms.good(request, count)

  with serving(respond) as server:
    records, failed = drp(make_config(server))
    assert failed == 1
    assert set(records["write"]) == {"chain 0", "chain 2"}
    (left_out,) = skipped(tmp_path / "run")
    reason = left_out.pop("reason")
    assert left_out == {"place": "", "id": "chain 1", "stage": "decompose", "attempt": 0}
    assert "too long" in reason
    with (tmp_path / "run" / "skipped.jsonl").open("a") as file:  # as former versions named it
      file.write(json.dumps({"place": "", "id": "decompose/chain 1#0", "reason": reason}) + "\n")
    server._respond = forms.good
    before = len(server.requests)
    records, failed = drp(make_config(server))
    assert len(server.requests) == before + 3
  assert failed == 0
  assert not (tmp_path / "run" / "skipped.jsonl").exists()
  assert set(chains(tmp_path)) == set(records["write"]) == {f"chain {i}" for i in range(3)}


@pytest.mark.slow
@pytest.mark.parametrize("most", range(1, 13, 2))
def test_a_run_that_was_stopped_anywhere_goes_on_and_asks_nothing_twice(
  make_config, drp, tmp_path, most
):
  def respond(request, count):
    stage = forms.stage_of(request)
    again = forms.complaint_of(request) is not None
    if forms.number_of(request) == 1 and not again:
      return completion(forms.HALF[stage])
    return forms.good(request, count)

  with serving(respond) as server:
    config = make_config(server, endpoint={"max_requests": most, "concurrency": 1})
    with pytest.raises(UserError, match=f"max_requests={most} requests were made"):
      drp(config)
    records, _ = drp(make_config(server))
    whole, _ = drp(make_config(server), "whole")
    asked = server.questions()
  assert len(asked) == 2 * 12
  assert len(set(asked)) == 12
  assert records == whole
  assert chains(tmp_path) == chains(tmp_path, "whole")


@pytest.mark.parametrize("stages", [("decompose",), ("decompose", "edit", "write")])
def test_a_run_does_not_go_on_with_other_chains(make_config, drp, tmp_path, stages, caplog):
  with serving(forms.good) as server:
    config = make_config(server, stages=stages)
    before = drp(config)
    path = tmp_path / "chains-3.jsonl"
    whole = path.read_text()
    path.write_text(whole.partition("\n")[2])
    assert drp(config) == before
    assert "the input no longer has 1 of the finished items: chain 0. They stay in" in caplog.text
    path.write_text("".join(reversed(whole.splitlines(keepends=True))))
    assert drp(config) == before, "the order in files does not matter"
    lines = [json.loads(line) for line in whole.splitlines()]
    lines[1]["question"] += " Say."
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(
      UserError, match=r"chain chain 1 is not as it was .* question was .*, is .*Say\.'"
    ):
      drp(config)


def test_stages_alone_and_from_another_workdir(make_config, drp, tmp_path):
  with serving(forms.good) as server:
    one = make_config(server, stages=("decompose",))
    records, _ = drp(one, "steps")
    assert list(records) == ["decompose"]
    with pytest.raises(UserError, match="steps holds no chains"):
      chains(tmp_path, "steps")

    records, _ = drp(make_config(server, stages=("edit",)), "steps")  # goes on in it
    edited = "48 in April, half of it in May: 48 / 2 = 24. Altogether 48 + 24 = 72.\n"
    assert {chain.reasoning for chain in chains(tmp_path, "steps").values()} == {edited}

    stored = {"stored": str(tmp_path / "steps"), "stages": ("write",)}
    drp(make_config(server, **stored), "elsewhere")
    assert len(chains(tmp_path, "elsewhere")) == 3
    assert len(server.requests) == 3 * 3

    with pytest.raises(UserError, match="the stage edit needs what decompose finds"):
      drp(make_config(server, stages=("edit",)), "alone")


def test_steps_by_rules_ask_nobody_and_can_be_edited(make_config, drp):
  items = (([1], "keep", ""), ([2], "delete", ""), ([3], "keep", ""))  # the rules find 3 steps
  with serving(lambda *_: completion(forms.edits(items))) as server:
    config = make_config(server, stages=("decompose", "edit"), splitter="rules")
    records, _ = drp(config)
  assert len(server.requests) == 3
  by = records["edit"]["chain 0"]["made_by"]
  assert by["decompose"] == {"teacher": "rules", "prompt": None}
  assert by["edit"]["teacher"] == "m"


def test_rules_are_compared_with_the_teacher(make_config, drp):
  with serving(forms.good) as server:
    records, _ = drp(make_config(server, stages=("decompose",)))
  (row,) = table(records, "borders")
  # By rules, "Natalia sold 48 clips in April." belongs to the first equation's step.
  assert (row["by the teacher"], row["by rules"], row["common"]) == (9, 6, 6)
  assert row["F1"] == pytest.approx(2 * 6 / 15)


def test_batches_that_fail_in_part_come_to_the_same_end(make_config, drp, tmp_path):
  def respond(request, count):
    if count == 0 and forms.number_of(request) == 2:
      return refusal(500, "down")
    return forms.good(request, count)

  with serving(respond) as server:
    drp(make_config(server, endpoint={"batch": 10}))
    assert len(server.batches) == 2 * 3
  assert len(server.requests) == 4 * 3
  assert {c.reasoning for c in chains(tmp_path).values()} == {forms.WRITTEN + "\n"}


def test_what_is_expected_is_what_is_asked_for(make_config, workdir, drp):
  def respond(request, count):
    size = round(len(request["messages"][-1]["content"].encode()) / 3.5)
    return completion(forms.GOOD[forms.stage_of(request)], tokens=(size, 30))

  with serving(respond) as server:
    config = make_config(server)
    settings = DrpSettings.from_config(config)

    def expected():
      with workdir(config) as run:
        return estimate_cost(settings, read_items(settings, run), run, token_counter(settings))

    before = expected()
    drp(make_config(server, stages=("decompose",)))
    between = expected()
    drp(config)
    after = expected()
    read = {stage: 0 for stage in forms.GOOD}
    for request in server.requests:
      stage = forms.stage_of(request)
      read[stage] += round(len(request["messages"][-1]["content"].encode()) / 3.5)
  assert [stage.requests for stage in before] == [3, 3, 3]
  assert before[0].read == read["decompose"]
  assert [stage.requests for stage in between] == [0, 3, 3]
  assert between[1].read == read["edit"]
  assert before[1].read == pytest.approx(read["edit"], rel=0.05)  # its steps are guessed
  assert before[0].written == pytest.approx(3 * len(forms.GOOD["decompose"]) / 3.5, rel=0.2)
  assert [stage.requests for stage in after] == [0, 0, 0]


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"stages": ("edit", "decompose")}, r"stages=\('edit', 'decompose'\); expected one or more of"),
    ({"stages": ("decompose", "write")}, "without a gap"),
    ({"stages": ()}, r"stages=\(\); expected one or more of"),
    ({"splitter": "model"}, "splitter='model'; expected one of teacher, rules"),
    ({"on_failure": "drop"}, "on_failure='drop'; expected one of keep, leave_out"),
    ({"stored": "x"}, "stored='x', but the stage decompose, which makes the steps, is to be run"),
    ({"max_attempts": 0}, "max_attempts=0; expected 1 or more"),
    ({"temperature": -1}, "temperature=-1.0; expected 0 or more"),
    ({"teacher": "openai"}, r"teacher=openai needs endpoint\.model"),
  ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
  with pytest.raises(UserError, match=message):
    DrpSettings.from_config(get_config().to_dict() | changes)
