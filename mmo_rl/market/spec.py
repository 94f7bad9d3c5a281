"""Rules of a simulated market, as a config declares them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Literal

from pydantic import Field

from mmo_rl.errors import ConfigError
from mmo_rl.market.makers import MakerName
from mmo_rl.market.names import QUESTIONS, TICKERS

Event = Literal["none", "pump_and_dump", "scandal"]
PromptStyle = Literal["compact", "explained"]


@dataclass(frozen=True, kw_only=True)
class MarketSpec:
    """Rules of a market. A market of one's own is a YAML file of these keys in ``conf/market/``, no class.

    Money is in game dollars. ``drift_low``/``drift_high`` bound the size of a ticker's hidden log drift over the
    window, ``drift_bias`` is added to it (bull or bear markets), ``noise`` is the log volatility over the window.
    ``reliable_accuracy`` and ``rumour_accuracy`` are the chances that a news line names the true direction.
    Agents begin with ``start_cash_usd``; with ``least_cash_usd`` each market draws a sum between the two for all of its
    agents, so that agents learn from the first window on to trade with little cash.
    One unit of size is a margin of ``unit_usd`` in a ticker or a stake of ``question_unit_usd`` in a question.

    - ``maker`` prices the questions (see `mmo_rl.market.makers`) with ``liquidity_usd`` as the LMSR's b. ``game_2025``
      loses the winner's money at even odds: for fidelity studies, never for training.
    - Orders use ``leverage``; with ``max_leverage`` an agent may ask for any from 1 to it in its answer.
    - ``funding_rate`` a year is paid by longs to shorts on their size (the game's: 0.01), pro rata at every tick, a
      window being ``hours`` long: the same sum as the game's payment every 8 hours, which windows of an hour would
      hardly ever meet, and which an agent could dodge by closing just before it.
    - ``impact`` is the log move of a ticker per 10,000 dollars of net orders; a share ``impact_decay`` of the rest of
      it goes away at every tick.
    - ``posts`` is the number of newest posts that an agent sees; 0: agents cannot post.
    - ``event`` plants a story of log size ``event_size``, see `mmo_rl.market.hidden`.
    - ``linked_questions`` of the questions ask about the hidden event of a ticker: YES if it drives the price up.
    - A question lives 1 to ``question_windows`` windows; from the second window on new ones replace those resolved.
    - ``lenient_answers`` looks for the JSON object inside a longer answer; ``prompt=explained`` tells the rules in the
      system prompt, as models need that were not trained on this market.

    Raises `ConfigError` where two keys contradict each other.
    """

    ticks: Annotated[int, Field(ge=1, le=1000)] = 8
    tickers: Annotated[int, Field(ge=1, le=len(TICKERS))] = 4
    questions: Annotated[int, Field(ge=0, le=len(QUESTIONS))] = 2
    start_cash_usd: Annotated[float, Field(gt=0)] = 10_000.0
    least_cash_usd: Annotated[float, Field(gt=0)] | None = None
    unit_usd: Annotated[float, Field(gt=0)] = 500.0
    question_unit_usd: Annotated[float, Field(gt=0)] = 100.0
    max_size: Annotated[int, Field(ge=1, le=100)] = 3
    leverage: Annotated[float, Field(ge=1, le=100)] = 3.0
    max_leverage: Annotated[float, Field(ge=1, le=100)] | None = None
    fee: Annotated[float, Field(ge=0, lt=0.1)] = 0.001
    funding_rate: Annotated[float, Field(ge=-1, le=1)] = 0.0
    hours: Annotated[float, Field(gt=0, le=168)] = 1.0
    drift_low: Annotated[float, Field(ge=0, le=1)] = 0.03
    drift_high: Annotated[float, Field(ge=0, le=1)] = 0.11
    drift_bias: Annotated[float, Field(ge=-1, le=1)] = 0.0
    noise: Annotated[float, Field(ge=0, le=1)] = 0.06
    impact: Annotated[float, Field(ge=0, le=1)] = 0.0
    impact_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    event: Event = "none"
    event_size: Annotated[float, Field(ge=0, le=1)] = 0.0
    maker: MakerName = "lmsr"
    liquidity_usd: Annotated[float, Field(gt=0)] = 8_000.0
    linked_questions: Annotated[int, Field(ge=0, le=len(QUESTIONS))] = 0
    question_windows: Annotated[int, Field(ge=1, le=168)] = 1
    reliable_accuracy: Annotated[float, Field(ge=0, le=1)] = 0.88
    rumour_accuracy: Annotated[float, Field(ge=0, le=1)] = 0.35
    posts: Annotated[int, Field(ge=0, le=20)] = 0
    lenient_answers: bool = False
    prompt: PromptStyle = "compact"

    def __post_init__(self) -> None:
        self.check_keys(**asdict(self))

    @staticmethod
    def check_keys(
        *,
        drift_low: float,
        drift_high: float,
        start_cash_usd: float,
        least_cash_usd: float | None,
        leverage: float,
        max_leverage: float | None,
        ticks: int,
        tickers: int,
        questions: int,
        linked_questions: int,
        event: Event,
        event_size: float,
        **others: object,
    ) -> None:
        """Raises `ConfigError` where two keys contradict each other."""
        if drift_low > drift_high:
            raise ConfigError(
                f"market.drift_low is {drift_low:g}, above market.drift_high = {drift_high:g}",
                hint=f"market.drift_high={drift_low:g} or more",
            )
        if least_cash_usd is not None and least_cash_usd > start_cash_usd:
            raise ConfigError(
                f"market.least_cash_usd is {least_cash_usd:g}, above market.start_cash_usd = {start_cash_usd:g}",
                hint=f"market.start_cash_usd={least_cash_usd:g} or more, or market.least_cash_usd=null",
            )
        if max_leverage is not None and max_leverage < leverage:
            raise ConfigError(
                f"market.leverage is {leverage:g}, above market.max_leverage = {max_leverage:g}",
                hint=f"market.max_leverage={leverage:g} or more",
            )
        if linked_questions > min(questions, tickers):
            raise ConfigError(
                f"market.linked_questions is {linked_questions}, but there are {questions} questions and {tickers} "
                "tickers to ask about",
                hint=f"market.linked_questions={min(questions, tickers)} or fewer",
            )
        if event != "none" and (event_size <= 0 or ticks < 4):
            raise ConfigError(
                f"market.event={event} needs a size and 4 ticks, found event_size={event_size:g} and ticks={ticks}",
                hint="market.event_size=0.2 market.ticks=8",
            )
