"""Compares mathematical expressions with math-verify, in a process of its own.

A request is one line of JSON, `{"value": ..., "target": ..., "seconds": ...}`, a reply `true` or
`false`. A request that takes too long ends the process: SymPy can neither be interrupted reliably
from within nor trusted to come to an end.
"""

import json
import logging
import resource
import signal
import sys

_MAX_BYTES = 4 << 30  # SymPy will work out 9**9**9 if it is asked to


def _equal(value: str, target: str) -> bool:
  # Without its own limits, which need signals that we use ourselves.
  from math_verify import parse, verify

  gold, given = (parse(f"\\boxed{{{text}}}", parsing_timeout=0) for text in (target, value))
  return verify(gold, given, timeout_seconds=0)


def main() -> None:
  """Answers requests until there are no more."""
  logging.disable()  # math-verify warns that the limits are ours
  resource.setrlimit(resource.RLIMIT_AS, (_MAX_BYTES, _MAX_BYTES))
  _equal("1", "1")  # imports SymPy, which takes seconds that no request should pay for
  print("true", flush=True)
  for line in sys.stdin:
    request = json.loads(line)
    signal.setitimer(signal.ITIMER_REAL, request["seconds"])  # SIGALRM's default ends the process
    try:
      equal = _equal(request["value"], request["target"])
    except (MemoryError, RecursionError):
      equal = False
    signal.setitimer(signal.ITIMER_REAL, 0)
    print(json.dumps(bool(equal)), flush=True)


if __name__ == "__main__":
  main()
