import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from greedy_prune_jax.analysis import run as analysis_run
from greedy_prune_jax.analysis.feature_store import open_store
from greedy_prune_jax.analysis.run import read_sources, run_analysis
from greedy_prune_jax.analysis.settings import PARTS, AnalyzeSettings
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.parallel import MeshSettings, make_mesh, mesh_of
from greedy_prune_jax.runs.weights import weights_digest
from greedy_prune_jax.teachers.settings import EndpointSettings
from tests.helpers.chat_server import completion, serving
from tests.helpers.jsonl_files import new_writer
from tests.helpers.planted import on_mesh, pruned_chain, random_segments, tiny_model

WORDS = [" so", " Janet", " has", " 4", " +", " 5", " eggs", ".", "\n", " she"]


def settings(**changes):
  defaults = {
    "parts": PARTS,
    "names": (),
    "num_chains": 0,
    "annotator": "rules",
    "text_model": "",
    "endpoint": EndpointSettings.defaults(),
    "other_labels": (),
    "viewer_chains": 200,
    "answers": (),
    "pruner": "",
    "dtype": "float32",
    "feature_dtype": "float32",
    "batch_positions": 400,
    "regressors": ("ridge",),
    "late_share": 0.25,
    "mesh": {"data": 1, "model": 1},
    "compilation_cache": False,
  }
  return AnalyzeSettings.from_config(defaults | changes)


@pytest.fixture
def pruned(tmp_path, monkeypatch):
  """Two pruned workdirs of a tiny model that needs no tokenizer."""
  segments = random_segments(12)
  texts = [[WORDS[i % len(WORDS)] for i in chain.reasoning] for chain in segments]
  workdirs = []
  for name, seed in (("joint", 0), ("answer", 1)):
    rng = np.random.default_rng(seed)
    folder = tmp_path / name
    with new_writer(folder / "pruned" / "process-00000.jsonl") as writer:
      for i, (chain, tokens) in enumerate(zip(segments, texts, strict=True)):
        order = rng.permutation(len(tokens))
        record = pruned_chain(tokens, order, f"c/{i}", ids=chain.reasoning).to_record()
        writer.write(record)
    (folder / "config.json").write_text(json.dumps({"objective": name}))
    workdirs.append(str(folder))
  segments_of = {f"c/{i}": chain for i, chain in enumerate(segments)}
  monkeypatch.setattr(analysis_run, "load_tokenizer", lambda name: None)
  monkeypatch.setattr(analysis_run, "load_chat_template", lambda name, tokenizer: None)
  monkeypatch.setattr(analysis_run, "segment", lambda chain, *_: segments_of[chain.id])
  monkeypatch.setattr(
    analysis_run, "load_model", lambda name, dtype, shardings: on_mesh(tiny_model(), shardings)
  )
  return workdirs


def viewer_chains(workdir):
  """The chains of the first run that a workdir's viewer holds."""
  _, _, rest = (workdir / "viewer.html").read_text().partition('id="data">')
  return json.loads(rest.partition("</script>")[0])["runs"][0]["chains"]


@pytest.mark.slow
def test_one_run_ends_with_everything(pruned, tmp_path):
  out = tmp_path / "out"
  out.mkdir()
  run_analysis(settings(), pruned, out)
  page = (out / "report.html").read_text()
  for text in ("What leaves when", "Can attention predict the order?", "12 chains of answer"):
    assert text in page
  for name in ("joint", "answer"):
    assert (out / "rankings" / f"{name}.safetensors").exists()
    assert len((out / "labels" / f"{name}.jsonl").read_text().splitlines()) == 12
  told = Path("docs/analyze.md").read_text()
  made = {path.stem for kind in ("tables", "plots") for path in (out / kind).iterdir()}
  made |= {path.name for path in out.iterdir() if path.is_file()}
  assert not {name for name in made if re.sub(r"_\d+$", "_N", name) not in told}
  rows = json.loads((out / "tables" / "regressions.json").read_text())["rows"]
  # 11 feature sets, 2 targets, 2 runs, ridge alone; and 5 sets each way between the runs.
  assert len(rows) == 44
  transfer = json.loads((out / "tables" / "transfer.json").read_text())["rows"]
  assert len(transfer) == 20
  assert all(abs(row["spearman"]) < 0.5 for row in transfer)  # orders are random
  shown = viewer_chains(out)
  store = open_store(out / "features" / "joint")
  assert [chain["id"] for chain in shown] == list(store.ids)
  got = np.concatenate([chain["attention"] for chain in shown])
  np.testing.assert_allclose(got, store.attention[..., 0].mean(axis=(1, 2)), rtol=0.01)
  assert [len(chain["attention"]) for chain in shown] == [len(c["tokens"]) for c in shown]
  got = np.concatenate([chain["surprisal"] for chain in shown])
  np.testing.assert_allclose(got, store.surprisal, atol=1e-3)


def test_a_runs_folder_of_pruned_chains_means_the_run(pruned):
  run = Path(pruned[0])
  (run / "config.json").write_text(json.dumps({"chat_template": "plain"}))
  [whole], [folder], [file] = (
    read_sources([str(place)], settings(num_chains=6))
    for place in (run, run / "pruned", run / "pruned" / "process-00000.jsonl")
  )
  assert folder == whole
  assert (whole.name, whole.config) == ("joint", {"chat_template": "plain"})
  assert (file.config, file.chains) == (whole.config, whole.chains)
  named, other = read_sources([f"mine={run}", str(run)], settings(num_chains=6))
  assert (named.name, named.path, other.name) == ("mine", whole.path, "joint")
  with pytest.raises(UserError, match=r"need as many different names, .*; give NAME=WORKDIR"):
    read_sources([str(run), str(run)], settings(num_chains=6))


@pytest.mark.slow
def test_a_second_run_does_nothing_again(pruned, tmp_path, monkeypatch):
  out = tmp_path / "out"
  out.mkdir()
  run_analysis(settings(parts=("patterns", "regression")), pruned, out)
  first = (out / "tables" / "regressions.json").read_text()

  def fail(*_, **__):
    raise AssertionError("done before")

  monkeypatch.setattr("greedy_prune_jax.analysis.feature_store.extract_features", fail)
  monkeypatch.setattr("greedy_prune_jax.analysis.regression_report.predict_unseen", fail)
  monkeypatch.setattr("greedy_prune_jax.chains.category_rules.RuleAnnotator.annotate", fail)
  run_analysis(settings(parts=("regression",)), pruned, out)
  assert (out / "tables" / "regressions.json").read_text() == first


@pytest.mark.slow
def test_a_mesh_finds_what_one_device_finds(pruned, tmp_path, monkeypatch):
  found, meshes = [], []

  def load(name, dtype, shardings):
    model = on_mesh(tiny_model(), shardings)
    meshes.append(mesh_of(model.params))
    return model

  monkeypatch.setattr(analysis_run, "load_model", load)
  for data in (1, 8):
    out = tmp_path / f"out {data}"
    out.mkdir()
    mesh = {"data": data, "model": 1}
    run_analysis(settings(parts=("regression",), mesh=mesh), pruned[:1], out)
    found.append(open_store(out / "features" / "joint"))
  assert meshes == [None, make_mesh(MeshSettings(data=8, model=1))]
  one, many = found
  np.testing.assert_allclose(many.attention, one.attention, atol=2e-5)
  assert not np.array_equal(many.attention, np.zeros_like(many.attention))


def test_parts_can_be_left_out(pruned, tmp_path):
  out = tmp_path / "out"
  out.mkdir()
  run_analysis(settings(parts=("viewer",), names=("a", "b"), num_chains=2), pruned, out)
  assert not (out / "features").exists()
  assert '"name": "b"' in (out / "viewer.html").read_text()


def test_a_viewer_that_fails_takes_no_report_along(pruned, tmp_path, monkeypatch):
  out = tmp_path / "out"
  out.mkdir()

  def fail(*_):
    raise ZeroDivisionError

  monkeypatch.setattr(analysis_run, "write_viewer", fail)
  with pytest.raises(ZeroDivisionError):
    run_analysis(settings(parts=("likelihood", "viewer")), pruned, out)
  assert "How likely is what is left?" in (out / "report.html").read_text()


def test_stored_labels_tell_when_tokens_leave_now(pruned, tmp_path):
  """The same chains pruned anew, under the same name: labels stay, the deletions are the new."""
  out, run = tmp_path / "out", tmp_path / "again" / "joint"
  out.mkdir()
  shutil.copytree(pruned[0], run)
  run_analysis(settings(parts=("viewer",)), [str(run)], out)
  path = out / "labels" / "joint.jsonl"
  first = [json.loads(line) for line in path.read_text().splitlines()]
  [file] = (run / "pruned").glob("*.jsonl")
  records = [json.loads(line) for line in file.read_text().splitlines()]
  for record in records:
    record["deletion_order"].reverse()
    record["pruned"] = {}
  file.write_text("".join(json.dumps(record) + "\n" for record in records))
  run_analysis(settings(parts=("viewer",)), [str(run)], out)
  second = [json.loads(line) for line in path.read_text().splitlines()]
  for before, now, record in zip(first, second, records, strict=True):
    steps = {x["token_position"]: x["deleted_step"] for x in now["reason_tokens_json"]}
    order = sorted((p for p in steps if steps[p]), key=lambda p: steps[p])
    assert order == record["deletion_order"]
    assert [x["category"] for x in before["reason_tokens_json"]] == [
      x["category"] for x in now["reason_tokens_json"]
    ]


@pytest.mark.slow
def test_labels_of_others_are_held_against_ours(pruned, tmp_path):
  out = tmp_path / "out"
  out.mkdir()
  run_analysis(settings(parts=("patterns",)), pruned[:1], out)
  other = str(out / "labels" / "joint.jsonl")
  run_analysis(settings(parts=("agreement",), other_labels=(other,)), pruned[:1], out)
  rows = json.loads((out / "tables" / "agreement.json").read_text())["rows"]
  assert rows[0]["kappa"] == 1
  unlabelled = tmp_path / "unlabelled.jsonl"
  unlabelled.write_text(re.sub(r'"category": "\w+"', '"category": null', Path(other).read_text()))
  with pytest.raises(UserError, match=r"unlabelled\.jsonl has no labels of the tokens"):
    run_analysis(settings(parts=("agreement",), other_labels=(str(unlabelled),)), pruned[:1], out)
  failed = tmp_path / "failed"  # of an annotator none of whose replies could be read
  (failed / "labels").mkdir(parents=True)
  shutil.copy(unlabelled, failed / "labels" / "joint.jsonl")
  with pytest.raises(UserError, match="or none where the annotator rules has any"):
    run_analysis(settings(parts=("agreement",), other_labels=(other,)), pruned[:1], failed)
  # Both runs have the same chains, and one of the files has the other tokens of one of them.
  fewer = tmp_path / "fewer" / "joint.jsonl"
  fewer.parent.mkdir()
  text = (out / "labels" / "joint.jsonl").read_text()
  fewer.write_text(text.replace('"token_text": "', '"token_text": "_', 1))
  both = settings(parts=("agreement",), other_labels=(other, str(fewer)))
  run_analysis(both, pruned, out)
  rows = json.loads((out / "tables" / "agreement.json").read_text())["rows"]
  counts = {row["annotators"]: row["tokens of the first"] for row in rows[::7]}
  assert list(counts) == [f"rules and {other}", f"rules and {fewer}"]
  num_tokens = [len(json.loads(line)["reason_tokens_json"]) for line in text.splitlines()]
  assert list(counts.values()) == [sum(num_tokens), sum(num_tokens[1:])]


@pytest.mark.slow
def test_a_text_model_labels(pruned, tmp_path, monkeypatch):
  """It calls every token a function word, and its run can be broken off and asks nothing twice."""
  pytest.importorskip("openai")
  monkeypatch.setattr(analysis_run, "_LABELLED_AT_ONCE", 4)

  def respond(request, count):
    assert request["response_format"]["type"] == "json_schema"
    listed = request["messages"][-1]["content"].partition("Tokens:\n")[2]
    tokens, _ = json.JSONDecoder().raw_decode(listed)
    labels = [{"position": t["position"], "category": "FUNCTION"} for t in tokens]
    return completion(json.dumps({"labels": labels}))

  out = tmp_path / "out"
  out.mkdir()
  with serving(respond) as server:
    endpoint = EndpointSettings.defaults() | {"base_url": server.url, "model": "m"}
    chosen = {"annotator": "model", "text_model": "openai", "parts": ("patterns",)}
    with pytest.raises(UserError, match="budget is spent"):
      run_analysis(settings(**chosen, endpoint=endpoint | {"max_requests": 6}), pruned[:1], out)
    assert len((out / "labels" / "joint.jsonl").read_text().splitlines()) == 4
    run_analysis(settings(**chosen, endpoint=endpoint), pruned[:1], out)
    assert len(server.requests) == 6 + 8  # two of the first went with their group
  lines = (out / "labels" / "joint.jsonl").read_text().splitlines()
  found = [token["category"] for x in lines for token in json.loads(x)["reason_tokens_json"]]
  assert len(lines) == 12
  assert set(found) == {"FUNCTION"}
  assert len((out / "replies.jsonl").read_text().splitlines()) == 12


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"annotator": "model"}, "annotator='model', text_model=''"),
    ({"text_model": "openai"}, "the annotator model, and no other, needs the name"),
    ({"parts": ("pattern",)}, "parts has 'pattern'; expected some of patterns"),
    ({"parts": ()}, "parts is empty"),
    ({"regressors": ()}, "regressors is empty; expected some of ridge, trees"),
    ({"regressors": ("lasso",)}, "regressors has 'lasso'"),
    ({"late_share": 1.0}, "late_share=1.0"),
    ({"num_chains": 3}, "needs at least 5"),
    ({"colour": 1}, "unknown keys: colour"),
  ],
)
def test_settings_that_cannot_be_used(changes, message):
  with pytest.raises(UserError, match=message):
    settings(**changes)


@pytest.mark.slow
def test_a_pruner_that_was_moved(pruned, tmp_path, monkeypatch):
  there, out = tmp_path / "moved.gguf", tmp_path / "out"
  there.write_bytes(b"weights")
  out.mkdir()
  noted = next(iter(read_sources(pruned[:1], settings()))).chains[0].pruner
  (Path(pruned[0]) / "weights.json").write_text(json.dumps({noted: weights_digest(there)}))
  load, loaded = analysis_run.load_model, []

  def locate(name):
    if name != str(there):
      raise UserError(f"{name}: there is no such folder or file.")

  monkeypatch.setattr(analysis_run, "load_tokenizer", locate)
  monkeypatch.setattr(
    analysis_run,
    "load_model",
    lambda name, *args, **kw: loaded.append(name) or load(name, *args, **kw),
  )
  with pytest.raises(UserError, match=rf"was pruned by {noted}, .*no such folder.*--config.pruner"):
    run_analysis(settings(parts=("regression",)), pruned[:1], out)
  found = settings(parts=("regression",), pruner=str(there))
  run_analysis(found, pruned[:1], out)
  assert loaded == [str(there)]
  assert json.loads((out / "features" / "joint" / "index.json").read_text())["pruner"] == noted
  there.write_bytes(b"other weights")
  with pytest.raises(UserError, match=rf"moved.gguf has other weights than {noted} had when"):
    run_analysis(found, pruned[:1], out)


def test_workdirs_that_cannot_be_used(pruned, tmp_path):
  with pytest.raises(UserError, match="no pruned workdir"):
    run_analysis(settings(), [], tmp_path)
  with pytest.raises(UserError, match="as many different names"):
    run_analysis(settings(), [pruned[0], pruned[0]], tmp_path)
  with pytest.raises(UserError, match="cannot be a file's name"):
    run_analysis(settings(names=("../x", "y")), pruned, tmp_path)
  bound = []
  with pytest.raises(UserError, match="annotator='spacy'; expected rules or, in the job analyze"):
    run_analysis(settings(annotator="spacy"), pruned, tmp_path, lambda: bound.append("config"))
  labels = (str(tmp_path / "nowhere.jsonl"),)
  with pytest.raises(UserError, match=r"cannot read .*nowhere"):
    run_analysis(settings(other_labels=labels), pruned, tmp_path, lambda: bound.append("config"))
  assert not bound, "the command that mends it would be refused"
