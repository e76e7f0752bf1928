"""Domain values as JSON columns and back."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

from allotment_controller.domain.experiment import (
    Budget,
    BudgetStart,
    ExperimentSpec,
    Plan,
    Refit,
)
from allotment_controller.domain.model import Artefact, Calibration, Member, Model
from allotment_controller.domain.task import (
    Metric,
    Notice,
    Problem,
    Split,
    SplitMethod,
    TaskType,
    Wait,
)
from allotment_controller.domain.trial import AttemptCause, Basis, Trial, TrialResult
from allotment_core.names import VersionName
from allotment_search import Choice, Derivation, TaskShape, Traits
from allotment_search.halving import Amount, Audit

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_us(instant: datetime | None) -> int | None:
    return None if instant is None else (instant - _EPOCH) // _MICROSECOND


def from_us(us: int | None) -> datetime | None:
    return None if us is None else _EPOCH + us * _MICROSECOND


def instant(us: int) -> datetime:
    return _EPOCH + us * _MICROSECOND


def dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def problem_to_json(problem: Problem | None) -> str | None:
    return None if problem is None else dump([problem.reason, problem.message])


def problem_from_json(text: str | None) -> Problem | None:
    return None if text is None else Problem(*json.loads(text))


def wait_to_json(wait: Wait | None) -> str | None:
    return None if wait is None else dump([wait.reason, wait.message, wait.position])


def wait_from_json(text: str | None) -> Wait | None:
    return None if text is None else Wait(*json.loads(text))


def plan_to_json(plan: Plan) -> str:
    """All of the plan but its table."""
    spec = plan.spec
    split = plan.split
    budget = asdict(spec.budget)
    # Beside the spec, where versions that don't know it yet don't read it.
    queue_timeout_s = budget.pop("queue_timeout_s")
    return dump(
        {
            "spec": {
                **asdict(spec),
                "budget": budget,
                "dataset_version": str(spec.dataset_version),
                "task": spec.task.name,
                "metric": spec.metric.name,
            },
            "classes": plan.classes,
            "feature_columns": plan.feature_columns,
            "shape": asdict(plan.shape),
            "split": {**asdict(split), "method": split.method.name},
            "warnings": [[w.reason, w.message, w.column] for w in plan.warnings],
            "create_time": to_us(plan.create_time),
            "deadline": to_us(plan.deadline),
            "resume_time": to_us(plan.resume_time),
            "refit": None if plan.refit is None else _refit_to_json(plan.refit),
            "traits": None if plan.traits is None else asdict(plan.traits),
            "portfolio_order": plan.portfolio_order,
            "budget_start": plan.budget_start.value,
            "grant_time": to_us(plan.grant_time),
            "queue_timeout_s": queue_timeout_s,
            "queue_deadline": to_us(plan.queue_deadline),
        }
    )


def plan_from_json(text: str, table: bytes) -> Plan:
    raw = json.loads(text)
    spec, split = raw["spec"], raw["split"]
    return Plan(
        spec=ExperimentSpec(
            **{
                **spec,
                "dataset_version": VersionName.parse(spec["dataset_version"]),
                "task": TaskType[spec["task"]],
                "metric": Metric[spec["metric"]],
                "budget": Budget(**spec["budget"], queue_timeout_s=raw.get("queue_timeout_s")),
                "ignored_columns": tuple(spec["ignored_columns"]),
                "families": tuple(spec["families"]),
            }
        ),
        classes=tuple(raw["classes"]),
        feature_columns=tuple(raw["feature_columns"]),
        shape=TaskShape(**raw["shape"]),
        split=Split(**{**split, "method": SplitMethod[split["method"]]}),
        warnings=tuple(Notice(*w) for w in raw["warnings"]),
        table=table,
        create_time=instant(raw["create_time"]),
        deadline=from_us(raw["deadline"]),
        resume_time=from_us(raw.get("resume_time")),
        refit=_refit_from_json(raw.get("refit")),
        traits=Traits(**raw["traits"]) if raw.get("traits") else None,
        portfolio_order=tuple(raw.get("portfolio_order", ())),
        budget_start=BudgetStart(raw.get("budget_start", BudgetStart.CREATED.value)),
        grant_time=from_us(raw.get("grant_time")),
        queue_deadline=from_us(raw.get("queue_deadline")),
    )


def _refit_to_json(refit: Refit) -> dict[str, Any]:
    derivations = [[[c.symbol, c.value] for c in d] for d in refit.derivations]
    return {**asdict(refit), "derivations": derivations}


def _refit_from_json(raw: dict[str, Any] | None) -> Refit | None:
    if raw is None:
        return None
    return Refit(
        model=raw["model"],
        trials=tuple(raw["trials"]),
        derivations=tuple(_derivation(d) for d in raw["derivations"]),
        weights=tuple(raw["weights"]),
        temperature=raw["temperature"],
    )


def trial_to_json(trial: Trial) -> str:
    """All of the trial but its columns."""
    return dump(
        {
            "derivation": [[c.symbol, c.value] for c in trial.derivation],
            "origin": trial.origin,
            "create_time": to_us(trial.create_time),
            "cost_s": trial.cost_s,
            "basis": None if trial.basis is None else asdict(trial.basis),
            "attempts": {cause.name: n for cause, n in trial.attempts.items()},
            "finished_folds": trial.finished_folds,
            "fold_count": trial.fold_count,
            "interim_score": trial.interim_score,
            "result": None if trial.result is None else _result_to_json(trial.result),
            "library_versions": dict(trial.library_versions),
            "problem": problem_to_json(trial.problem),
            "log_tail": trial.log_tail,
            "start_time": to_us(trial.start_time),
            "end_time": to_us(trial.end_time),
            "fold_scores": trial.fold_scores,
            "fit_rung": trial.fit_rung,
            "fit_scores": list(trial.fit_scores.items()),
            "cleared_folds": _amount_to_json(trial.cleared_folds),
            "paused_at": _amount_to_json(trial.paused_at),
            "held_at": _amount_to_json(trial.held_at),
            "improved": trial.improved,
            "checkpoint_sha256": trial.checkpoint_sha256,
            "checkpoint_folds": trial.checkpoint_folds,
            "checkpoint_steps": trial.checkpoint_steps,
            "spent_s": trial.spent_s,
            "create_revision": trial.create_revision,
        }
    )


def _amount_to_json(amount: Amount) -> int | str:
    """Whole folds as a number, a share of the first fit as "1/9"."""
    return amount.numerator if amount.denominator == 1 else str(amount)


def _amount(raw: int | str) -> Amount:
    return raw if isinstance(raw, int) else Fraction(raw)


def audit_to_json(audit: Audit) -> str:
    return dump(asdict(audit))


def audit_from_json(text: str | None) -> Audit:
    return Audit() if text is None else Audit(**json.loads(text))


def _result_to_json(result: TrialResult) -> dict[str, Any]:
    return {**asdict(result), "metrics": {n: repr(x) for n, x in result.metrics.items()}}


def trial_fields_from_json(text: str) -> dict[str, Any]:
    """The arguments of a Trial that `trial_to_json` wrote."""
    raw = json.loads(text)
    result = raw["result"]
    if result is not None:
        result["metrics"] = {n: float(x) for n, x in result["metrics"].items()}
        result = TrialResult(**result)
    return {
        **raw,
        "derivation": _derivation(raw["derivation"]),
        "basis": _basis(raw.get("basis")),
        "fold_scores": tuple(raw.get("fold_scores", ())),
        "fit_scores": dict(raw.get("fit_scores", ())),
        **{name: _amount(raw.get(name, 0)) for name in ("cleared_folds", "paused_at", "held_at")},
        "create_time": instant(raw["create_time"]),
        "attempts": {AttemptCause[name]: n for name, n in raw["attempts"].items()},
        "result": result,
        "problem": problem_from_json(raw["problem"]),
        "start_time": from_us(raw["start_time"]),
        "end_time": from_us(raw["end_time"]),
    }


def _basis(raw: dict[str, Any] | None) -> Basis | None:
    return None if raw is None else Basis(**{**raw, "families": tuple(raw["families"])})


def _derivation(raw: list[list[Any]]) -> Derivation:
    return tuple(Choice(symbol, value) for symbol, value in raw)


def model_to_json(model: Model) -> str:
    """All of the model but its columns."""
    return dump(
        {
            "score": model.score,
            "create_time": to_us(model.create_time),
            "export": model.export,
            "artefact": None if model.artefact is None else asdict(model.artefact),
            "problem": problem_to_json(model.problem),
            "ready_time": to_us(model.ready_time),
            "members": [[m.trial, m.weight] for m in model.members],
            "calibration": None if model.calibration is None else asdict(model.calibration),
            "metrics": {n: repr(x) for n, x in model.metrics.items()},
        }
    )


def model_fields_from_json(text: str) -> Mapping[str, Any]:
    """The arguments of a Model that `model_to_json` wrote; older ones have no members."""
    raw = json.loads(text)
    calibration = raw.get("calibration")
    return {
        **raw,
        "create_time": instant(raw["create_time"]),
        "artefact": None if raw["artefact"] is None else Artefact(**raw["artefact"]),
        "problem": problem_from_json(raw["problem"]),
        "ready_time": from_us(raw["ready_time"]),
        "members": tuple(Member(*member) for member in raw.get("members", ())),
        "calibration": Calibration(**calibration) if calibration else None,
        "metrics": {n: float(x) for n, x in raw.get("metrics", {}).items()},
    }
