"""What may be spent on an endpoint, shared by all threads that ask it."""

import threading

from greedy_prune_jax.chains.errors import UserError


class Budget:
  """Counts requests and tokens, and allows none that might go beyond the limits."""

  def __init__(self, max_requests: int, max_tokens: int):
    """Takes the limits; 0 stands for none."""
    self._max_requests = max_requests
    self._max_tokens = max_tokens
    self._changed = threading.Condition()
    self._under_way: list[int] = []  # the most tokens that each request can take
    self.requests = 0
    self.tokens = 0

  def take(self, most_tokens: int, *, wait: bool = True) -> bool:
    """Waits until a request that takes up to `most_tokens` fits in, and counts it.

    Every call that returns True must be followed by one of `settle`. Without `wait`, False says
    that it does not fit in yet.

    Raises:
      UserError: it will not fit in, even if all requests under way turn out to have cost nothing.
    """
    with self._changed:
      while True:
        if self._max_requests and self.requests >= self._max_requests:
          raise UserError(
            f"the budget is spent: endpoint.max_requests={self._max_requests} requests were made. "
            "What was answered is stored; the same command goes on, with a new budget."
          )
        if not self._max_tokens or (
          self.tokens + sum(self._under_way) + most_tokens <= self._max_tokens
        ):
          self.requests += 1
          self._under_way.append(most_tokens)
          return True
        if not self._under_way:
          raise UserError(
            f"the budget is spent: of endpoint.max_tokens={self._max_tokens}, {self.tokens} were "
            f"used, and the next request may take {most_tokens}. What was answered is stored; the "
            "same command goes on, with a new budget."
          )
        if not wait:
          return False
        self._changed.wait()

  def settle(self, most_tokens: int, used: int) -> None:
    """Replaces what a request could take by what it took."""
    with self._changed:
      self._under_way.remove(most_tokens)
      self.tokens += used
      self._changed.notify_all()
