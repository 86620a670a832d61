"""Hard caps on requests, tokens and money."""

from __future__ import annotations

from dataclasses import dataclass

from data_gen.config import TeacherConfig
from extes_train.errors import BudgetReached


@dataclass(slots=True)
class Spent:
    """What an endpoint was asked for so far; a resumed run starts from its journal's totals."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


class Budget:
    """Counts what is spent and stops before a cap is passed.

    Every HTTP request counts, refusals for rate (429) excepted. Tokens and money are known only once a reply is there,
    so what is in flight is reckoned at the average so far: a cap is overshot by less than what is in flight. Once a
    cap is reached, every later `admit` raises.
    """

    def __init__(self, config: TeacherConfig, spent: Spent | None = None, cost_factor: float = 1.0) -> None:
        self.config = config
        self.spent = spent or Spent()
        self.cost_factor = cost_factor  # 0.5 for the Batch API
        self.in_flight = 0
        self.reached: BudgetReached | None = None
        self._capped = any(cap is not None for cap in (config.max_requests, config.max_total_tokens, config.max_cost))
        self._settled = 0
        self._settled_tokens = 0
        self._settled_cost = 0.0

    @property
    def cost(self) -> float:
        """Money so far, in `teacher.currency`."""
        return self.cost_of(self.spent.prompt_tokens, self.spent.completion_tokens)

    def cost_of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """The price of so many tokens."""
        config = self.config
        price = prompt_tokens * config.price_per_million_prompt_tokens
        price += completion_tokens * config.price_per_million_completion_tokens
        return price * self.cost_factor / 1e6

    def admit(self) -> None:
        """Count one request as sent, or raise BudgetReached and leave the counts alone."""
        if self._capped:
            self._check()
        self.spent.requests += 1
        self.in_flight += 1

    def refund(self) -> None:
        """The request just sent was refused for rate: it does not count."""
        self.spent.requests -= 1
        self.in_flight -= 1

    def failed(self) -> None:
        """The request just sent brought no reply: it counts as a request, its tokens are unknown."""
        self.in_flight -= 1

    def settle(self, prompt_tokens: int, completion_tokens: int) -> None:
        """The request just sent was answered and used so many tokens."""
        self.in_flight -= 1
        self.spent.prompt_tokens += prompt_tokens
        self.spent.completion_tokens += completion_tokens
        self._settled += 1
        self._settled_tokens += prompt_tokens + completion_tokens
        self._settled_cost += self.cost_of(prompt_tokens, completion_tokens)

    def _check(self) -> None:
        if self.reached is None:
            self.reached = self._why_reached()
        if self.reached is not None:
            raise BudgetReached(*self.reached.args)

    def _why_reached(self) -> BudgetReached | None:
        config, known = self.config, max(self._settled, 1)
        if config.max_requests is not None and self.spent.requests >= config.max_requests:
            return BudgetReached(f"teacher.max_requests={config.max_requests}: {self.spent.requests} requests sent")
        if config.max_total_tokens is not None:
            expected = self.spent.tokens + self.in_flight * self._settled_tokens / known
            if expected >= config.max_total_tokens:
                return BudgetReached(
                    f"teacher.max_total_tokens={config.max_total_tokens}: {self.spent.tokens} tokens used, "
                    f"{self.in_flight} requests in flight"
                )
        if config.max_cost is not None and self.cost + self.in_flight * self._settled_cost / known >= config.max_cost:
            return BudgetReached(
                f"teacher.max_cost={config.max_cost}: {self.cost:.4f} {config.currency} spent, "
                f"{self.in_flight} requests in flight"
            )
        return None
