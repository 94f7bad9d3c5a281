#!/bin/sh
# optuna 5.0.0: TPE does not learn from trials that FAIL: a combination that cannot run is suggested again and again, here in
# every one of its turns. A trial that is PRUNED without an intermediate value counts as the worst, and its place is avoided.
set -eu
place=$(mktemp -d)
trap 'rm -r "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check optuna==5.0.0
cat >"$place/app.py" <<'PY'
import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)
print("optuna", optuna.__version__)

def share(bad):
    """The share of the last 60 of 100 trials that ask for the impossible choice."""
    def objective(trial):
        x = trial.suggest_float("x", 0.0, 1.0)
        if trial.suggest_categorical("choice", ["possible", "impossible"]) == "impossible":
            raise bad
        return x
    found = []
    for seed in range(3):
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
        study.optimize(objective, n_trials=100, catch=(ValueError,))
        found += [t.params["choice"] == "impossible" for t in study.trials[40:]]
    return sum(found) / len(found)

failed, pruned = share(ValueError()), share(optuna.TrialPruned())
print(f"impossible choices among the last 60 trials: {failed:.0%} where they fail, {pruned:.0%} where they are pruned")
assert failed > 0.3 > 0.15 > pruned
PY
"$place/venv/bin/python" "$place/app.py"
