"""Search over keys: an Optuna study that outlives its process, in ``runs/<name>/optuna.db``.

A study belongs to one command (searched keys, seeds, fixed overrides, resolved config): the same command continues it,
another one begins its own in the same file. Seeds are not searched: a trial runs once with each, and its value is the
mean.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeGuard

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep

from mmo_rl.cli.sweep import Ended, Job
from mmo_rl.errors import ConfigError

if TYPE_CHECKING:
    from optuna.distributions import (
        CategoricalChoiceType,
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )
    from optuna.samplers import BaseSampler
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

    Distribution = CategoricalDistribution | FloatDistribution | IntDistribution

Direction = Literal["maximize", "minimize"]
Sampler = Literal["tpe", "random", "grid"]
_ERROR, _FOLDER, _FOLDERS = "error", "folder", "folders"
SEED = "seed"
POINTS_TRIED = 16
"""Largest number of points of a space that are composed to find one that can run."""
IMPOSSIBLE_PER_TRIAL = 3
"""Impossible trials that a start may draw for each that it is to finish."""


@dataclass(frozen=True)
class Space:
    """Search space: the distribution of each searched key, the overrides that every trial shares, and the values of
    each ``repeated`` key, a seed, over which a trial is averaged."""

    searched: Mapping[str, Distribution]
    fixed: Sequence[str]
    repeated: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, parsed: Sequence[Override]) -> Space:
        """Reads overrides in Hydra's sweep syntax; the last of several for one key counts."""
        last = {override.get_key_element(): override for override in parsed}
        alone = {k: list(o.sweep_string_iterator()) for k, o in last.items() if isinstance(o.value(), ChoiceSweep)}
        alone = {key: values for key, values in alone.items() if len(values) == 1}  # one value is none to search for
        swept = {key: o for key, o in last.items() if o.is_sweep_override() and key not in alone}
        repeated = {key: _repetitions(o) for key, o in swept.items() if _is_seed(key)}
        searched = {key: _distribution(o) for key, o in swept.items() if key not in repeated}
        fixed = [
            f"{key}={alone[key][0] if key in alone else o.get_value_element_as_str()}"
            for key, o in last.items()
            if key not in swept
        ]
        if not searched:
            averaged = f" but {', '.join(repeated)}, over which trials are averaged" if repeated else ""
            raise ConfigError(
                f"there is nothing to search: no key has several values{averaged}",
                hint="give one: trainer.learning_rate='tag(log,interval(1e-5,1e-2))', sampler=hourly,daily, or "
                "hydra.sweeper.params in an experiment",
            )
        return cls(searched, fixed, repeated)

    def overrides(self, params: Mapping[str, object]) -> list[list[str]]:
        """Returns the overrides of one trial's jobs, one a seed."""
        seeds = [[f"{key}={value}" for value in values] for key, values in self.repeated.items()]
        return [[*self.fixed, *seed, *named(params, self.searched)] for seed in itertools.product(*seeds)]

    def points(self) -> Iterator[dict[str, CategoricalChoiceType]]:
        """Yields points of the space, `POINTS_TRIED` at most: of each key the first choice or lowest value (but inside
        of an interval), then the other choices, or the highest value."""

        from optuna.distributions import CategoricalDistribution, FloatDistribution

        def some(distribution: Distribution) -> Sequence[CategoricalChoiceType]:
            if isinstance(distribution, CategoricalDistribution):
                return distribution.choices
            if isinstance(distribution, FloatDistribution) and distribution.step is None:
                return [distribution.low + (distribution.high - distribution.low) * share for share in (0.382, 0.618)]
            return [distribution.low, distribution.high]

        values = itertools.product(*map(some, self.searched.values()))
        for point in itertools.islice(values, POINTS_TRIED):
            yield dict(zip(self.searched, point, strict=True))

    def grid(self) -> dict[str, list[CategoricalChoiceType]]:
        """Lists every value of every key; raises `ConfigError` where a key has endlessly many."""
        return {key: _values(key, distribution) for key, distribution in self.searched.items()}


def named(params: Mapping[str, object], keys: Iterable[str]) -> list[str]:
    """Writes the values of some keys as overrides."""
    return [f"{key}={params[key]}" for key in keys if key in params]


class Search:
    """Search by one study: `ask` for trials, `tell` how their jobs ended."""

    def __init__(self, study: Study, space: Space, *, n_trials: int, sampler: Sampler, seed: int, n_jobs: int) -> None:
        from optuna.trial import TrialState

        self._study = study
        self._space = space
        self._n_trials = n_trials
        self._sampler = sampler
        self._seed = seed
        self._n_jobs = n_jobs
        self._failed_now = 0
        self._impossible_now = 0
        self._states = TrialState
        self.again = self._queue_failed()
        """Number of trials that failed or were killed before, and are run again."""
        if sampler == "grid":
            grid = space.grid()
            for values in itertools.product(*grid.values()):
                study.enqueue_trial(dict(zip(grid, values, strict=True)), skip_if_exists=True)

    @property
    def finished(self) -> int:
        """Number of finished trials."""
        return sum(t.state == self._states.COMPLETE for t in self._study.trials)

    def trials(self) -> list[FrozenTrial]:
        """Returns all trials that have begun."""
        return [t for t in self._study.trials if t.state != self._states.WAITING]

    def best(self) -> FrozenTrial | None:
        """Returns the best finished trial."""
        return self._study.best_trial if self.finished else None

    def ask(self) -> list[Trial]:
        """Returns the next batch of trials; empty when there are enough. A trial that fails now is not tried again
        before the next start, and one that cannot run does not count, up to `IMPOSSIBLE_PER_TRIAL` for each."""
        trials: list[Trial] = []
        if self._impossible_now >= IMPOSSIBLE_PER_TRIAL * self._n_trials:
            return trials
        room = min(self._n_jobs, self._n_trials - self.finished - self._failed_now)
        for _ in range(room):
            known = self._study.trials
            # Numbers depend on how many trials there are, so that a search that goes on does not repeat its first ones.
            self._study.sampler = self._make_sampler((self._seed + len(known)) % 2**32)
            waiting = any(t.state == self._states.WAITING for t in known)
            if self._sampler == "grid" and not waiting:
                break
            trials.append(self._study.ask(dict(self._space.searched)))
        return trials

    def tell(self, trial: Trial, ends: Sequence[Ended], folders: Sequence[Path]) -> None:
        """Records a trial's end: the mean of its jobs' numbers, or the reason of the first failure."""
        if folders:
            trial.set_user_attr(_FOLDERS, [str(folder) for folder in folders])
        values = [e.value for e in ends if e.status in ("done", "skipped") and _is_number(e.value)]
        if ends and len(values) == len(ends):
            self._study.tell(trial, sum(values) / len(values))
            return
        failed = next((e for e in ends if e.status not in ("done", "skipped") or not _is_number(e.value)), None)
        if failed is None:
            reason = "it has no job"
        elif failed.status in ("done", "skipped"):
            reason = f"its job returned {failed.value!r}, and a search needs a number"
        else:
            reason = failed.told or failed.status
        trial.set_user_attr(_ERROR, reason)
        self._study.tell(trial, state=self._states.FAIL)
        self._failed_now += 1

    def tell_impossible(self, trial: Trial, reason: str) -> None:
        """Records that a combination cannot run. It is not tried again (its config is part of the study), and as a
        pruned trial it is what the sampler learns to avoid; failed ones it would forget."""
        trial.set_user_attr(_ERROR, reason)
        self._study.tell(trial, state=self._states.PRUNED)
        self._impossible_now += 1

    def _queue_failed(self) -> int:
        """Queues trials that failed, or that a killed search left unfinished, to be run again, each once."""
        for trial in self._study.trials:
            if trial.state == self._states.RUNNING:
                self._study.tell(trial.number, state=self._states.FAIL)
        trials = self._study.trials
        taken = [t.params for t in trials if t.state == self._states.COMPLETE]
        taken += [t.system_attrs.get("fixed_params", {}) for t in trials if t.state == self._states.WAITING]
        for trial in trials:
            if trial.state == self._states.FAIL and trial.params and trial.params not in taken:
                self._study.enqueue_trial(trial.params)
                taken.append(trial.params)
        failed = [t.params for t in trials if t.state == self._states.FAIL]
        waiting = [t for t in self._study.trials if t.state == self._states.WAITING]
        return sum(t.system_attrs.get("fixed_params") in failed for t in waiting)

    def _make_sampler(self, seed: int) -> BaseSampler:
        from optuna import samplers

        if self._sampler == "tpe":
            return samplers.TPESampler(seed=seed)
        return samplers.RandomSampler(seed=seed)


@contextmanager
def opened(path: Path, *, job: Job, space: Space, direction: Direction) -> Iterator[Study]:
    """Opens the study of this search, locked for this process. ``job`` is one of its jobs: the study's name contains
    the fingerprint of its config.

    Raises `ConfigError` where another process is at this file.
    """
    import optuna
    from filelock import FileLock, Timeout

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_suffix(".lock"), is_singleton=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(
            f"another process is at the search in {path}", hint="wait for it, or give this one another name: name=..."
        ) from None
    storage = None
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
        yield optuna.create_study(
            storage=storage, study_name=_name(job, space, direction), direction=direction, load_if_exists=True
        )
    finally:
        if storage is not None:
            storage.remove_session()
            storage.engine.dispose()
        lock.release()


def other_studies(study: Study) -> int:
    """Counts the studies of other commands or configs in the same file."""
    return len(study._storage.get_all_studies()) - 1


def ended_of(trial: FrozenTrial) -> Ended:
    """Returns the end of a trial's job, as the table shows it."""
    from optuna.trial import TrialState

    if trial.state == TrialState.COMPLETE:
        return Ended("done", trial.value)
    return Ended("failed", error=ConfigError(trial.user_attrs.get(_ERROR, "it was killed")))


def folders_of(trial: FrozenTrial) -> list[Path]:
    """Returns the run folders of a trial's jobs, one a seed."""
    former = trial.user_attrs.get(_FOLDER)
    return [Path(folder) for folder in trial.user_attrs.get(_FOLDERS) or ([] if former is None else [former])]


def tested(folders: Sequence[Path]) -> list[str]:
    """Describes, in a line, the gain in P&L on the held-out markets of the runs in ``folders``, by which no trial was
    chosen; none where they measured no others."""
    from mmo_rl.report.run_folder import RunFolder
    from mmo_rl.report.summary import VALIDATED

    summaries = [RunFolder(folder).summary() or {} for folder in folders]
    gains = [s.get("eval/pnl_improvement") for s in summaries if s.get(VALIDATED) is not None]
    known = [gain for gain in gains if isinstance(gain, float)]
    if not known or len(known) < len(folders):
        return []
    each = f" (mean of {len(known)} seeds: {', '.join(map(_dollars, known))})" if len(known) > 1 else ""
    if len(known) == 1 and isinstance(low := summaries[0].get("eval/pnl_improvement_low"), float):
        high = summaries[0].get("eval/pnl_improvement_high")
        each = f" [{_dollars(low)}, {_dollars(high)}]" if isinstance(high, float) else ""
    return [
        "chosen by the gain in P&L on validation markets; on the held-out markets, by which no trial was chosen:"
        f" {_dollars(sum(known) / len(known))}{each}"
    ]


def _dollars(gain: float) -> str:
    return f"{'-' if gain < 0 else '+'}${abs(gain):,.0f}"


def _name(job: Job, space: Space, direction: str) -> str:
    from optuna.distributions import distribution_to_json

    from mmo_rl.config.inputs import combined_sha256

    searched = {key: distribution_to_json(distribution) for key, distribution in space.searched.items()}
    sha256 = job.sha256 + combined_sha256(job.identity.inputs)  # other weights are another search
    repeated = [sorted((key, list(values)) for key, values in space.repeated.items())] if space.repeated else []
    text = json.dumps([sorted(searched.items()), sorted(space.fixed), direction, sha256, *repeated])
    return hashlib.blake2b(text.encode(), digest_size=5).hexdigest()


def _is_seed(key: str) -> bool:
    return key.lstrip("+").rpartition(".")[2] == SEED


def _repetitions(override: Override) -> list[str]:
    """Lists the values of a seed. Raises `ConfigError` for an interval."""
    key = override.get_key_element()
    if isinstance(override.value(), IntervalSweep):
        raise ConfigError(
            f"{override.input_line}: a seed is no number to search for; trials are averaged over seeds",
            hint=f"list them: {key}=0,1,2",
        )
    return list(override.sweep_string_iterator())


def _distribution(override: Override) -> Distribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = override.value()
    if isinstance(value, IntervalSweep):
        assert value.start is not None
        assert value.end is not None
        log = "log" in value.tags
        if value.start > value.end or (log and value.start <= 0):
            raise ConfigError(
                f"{override.input_line}: expected interval(low, high) with low <= high" + (", low > 0" if log else "")
            )
        if isinstance(value.start, int) and isinstance(value.end, int):
            return IntDistribution(value.start, value.end, log=log)
        return FloatDistribution(value.start, value.end, log=log)
    choices = list(override.sweep_string_iterator())
    if isinstance(value, RangeSweep) and not value.shuffle and choices:
        numbers = [float(choice) for choice in choices]
        if all(choice.lstrip("-").isdigit() for choice in choices):
            return IntDistribution(int(min(numbers)), int(max(numbers)), step=abs(int(value.step)))
        return FloatDistribution(min(numbers), max(numbers), step=abs(float(value.step)))
    return CategoricalDistribution(choices)


def _values(key: str, distribution: Distribution) -> list[CategoricalChoiceType]:
    from optuna.distributions import CategoricalDistribution

    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    if distribution.step is None or distribution.log:
        raise ConfigError(
            f"{key}: an interval has no grid",
            hint=f"{key}=range(low,high,step), {key}=a,b,c, or hydra.sweeper.sampler=tpe",
        )
    count = round((distribution.high - distribution.low) / distribution.step) + 1
    return list(itertools.islice(itertools.count(distribution.low, distribution.step), count))


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
