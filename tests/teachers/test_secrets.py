"""Keys and passwords of endpoints: whatever a server echoes, they are shown and stored nowhere."""

import html
import json
import re
import urllib.parse

import pytest

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.teachers.openai_endpoint import OpenAITeacher
from greedy_prune_jax.teachers.settings import EndpointSettings
from tests.helpers.asking import WRITING, ask
from tests.helpers.chat_server import Answer, completion, refusal, reply, serving

pytest.importorskip("openai")

KEY = "sk-SECRET-0123456789"

ECHOES = {
  "an error": refusal(400, f"the key {KEY} is not allowed here"),
  "a page": Answer(f"<b>{KEY}</b>", 400),
  "a reply": completion(f"Your key is {KEY}."),
  "thinking": reply({"content": "4", "reasoning": f"The key is {KEY}."}),
  "escapes": Answer(json.dumps(completion(f"Your key is {KEY}.").body).replace("sk-", "sk\\u002d")),
  "an end": completion("4", KEY),
  "escapes within a text": refusal(
    400, f"sent {json.dumps({'h': KEY}).replace('-', chr(92) + 'u002d')}"
  ),
  "an address": refusal(400, f"GET /?key={KEY.replace('-', '%2D')}"),
  "an address twice": refusal(400, f"GET /?key={KEY.replace('-', '%252d')}"),
  "a page's numbers": Answer(f"<p>{KEY.replace('-', '&#45;')}</p>", 400),
  "a page's names": Answer(f"<p>{KEY.replace('S', '&#x53;')}</p>", 500),
  "a page with tags": Answer(f"<p>{KEY.replace('-', '-<wbr>')}</p>", 502),
  "lines": refusal(400, f"Authorization: Bearer {KEY[:12]}\n  {KEY[12:]}"),
  "lines of a page": Answer(f"<pre>Bearer {KEY[:9]}\r\n{KEY[9:]}</pre>", 503),
  "another case": refusal(400, f"bearer {KEY.lower()}"),
  "no width": refusal(400, "\u200b".join(KEY)),
  "a key of the body": Answer({"error": {"headers": {KEY: 1}}}, 400),
  "a header": Answer("", 307, {"Location": f"http://x/?k={KEY.replace('-', '%2d')}"}),
}


@pytest.mark.parametrize("case", ECHOES)
def test_a_key_that_is_echoed_is_stored_nowhere(monkeypatch, case, caplog):
  monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n")
  with serving(lambda *_: ECHOES[case]) as server:
    try:
      stored = json.dumps(ask(server).to_record())
    except UserError as error:
      stored = str(error)
  assert set(server.keys) == {f"Bearer {KEY}"}
  shown = html.unescape(urllib.parse.unquote(urllib.parse.unquote(stored + caplog.text)))
  assert "secret" not in re.sub(r"\\u\w{4}|[^a-z]", "", shown.lower())
  if case != "an end":
    assert "[the key]" in stored


def test_words_that_stand_for_no_key_are_no_secret(monkeypatch):
  monkeypatch.setenv("OPENAI_API_KEY", "EMPTY")
  with serving(lambda *_: completion("EMPTY is not None.")) as server:
    assert ask(server).text == "EMPTY is not None."


def test_a_key_that_no_header_can_hold_is_not_shown(monkeypatch):
  monkeypatch.setenv("OPENAI_API_KEY", "sk-SECRET\nX: y")
  with pytest.raises(UserError, match="OPENAI_API_KEY holds no key") as error:
    OpenAITeacher(EndpointSettings(model="m"), WRITING)
  assert "SECRET" not in str(error.value)


def test_a_password_in_the_address_is_not_shown():
  with serving(lambda *_: refusal(401, "no password hunter%2D2hunter")) as server:
    url = server.url.replace("http://", "http://me:hunter%2d2hunter@")
    with pytest.raises(UserError, match="m at http://127") as error:
      ask(server, base_url=url)
  assert "hunter" not in str(error.value)
