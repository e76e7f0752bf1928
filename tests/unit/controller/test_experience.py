"""Experience is left and listened to with consent alone, and never says whose it is."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from allotment_controller.domain.creation import Wish, make_plan
from allotment_controller.domain.experience import Experiences, experience_of
from allotment_controller.domain.experiment import Budget, Experiment, ExperimentState, Plan
from allotment_controller.domain.ledger import Change, Edit, Ledger
from allotment_controller.domain.ports import ColumnView, TableView, TargetView
from allotment_controller.domain.task import TaskType
from allotment_controller.domain.trial import Trial, TrialResult, TrialState
from allotment_core.names import ExperimentName, TenantName, VersionName
from allotment_search import Experience, Grammar
from allotment_search.portfolio import Planned
from allotment_search.portfolio import plan as portfolio_of
from allotment_testkit.clock import ManualClock

GRAMMAR = Grammar.load("tabular")
NAME = ExperimentName.parse("tenants/ours/experiments/e")
VERSION = VersionName.parse("tenants/ours/datasets/secret-customers/versions/1")
OURS, THEIRS, OTHERS = TenantName("ours"), TenantName("theirs"), TenantName("others")
CLOCK = ManualClock()


def plan(**wish: Any) -> Plan:
    columns = tuple(
        ColumnView(name=n, type=kind, ignored=False, missing_count=30, distinct_count=9)
        for n, kind in (("salary", "numeric"), ("town", "categorical"), ("ill", "categorical"))
    )
    table = TableView(version=VERSION, row_count=3000, columns=columns, warnings=(), table=b"")
    target = TargetView(
        task=TaskType.BINARY,
        labelled_row_count=3000,
        classes=("healthy", "sick"),
        warnings=(),
        rarest_share=0.2,
    )
    asked = Wish(
        dataset_version=VERSION,
        target="ill",
        task=None,
        metric=None,
        budget=Budget(trial_count=40),
        max_parallel_trials=0,
        seed=11,
        ignored_columns=(),
        weight_column="",
        group_column="",
        time_column="",
        families=(),
        **wish,
    )
    return make_plan(asked, table, target, GRAMMAR, CLOCK.now())


PLAN = plan()
ENTRIES = portfolio_of(GRAMMAR, PLAN.shape, frozenset(GRAMMAR.families))
KEYS = [e.key for e in ENTRIES if e.key]


def trial(number: int, entry: Planned, loss: float | None) -> Trial:
    """A trial that succeeded; without a loss it was put off and then cancelled."""
    begun = Trial(
        experiment=NAME,
        number=number,
        derivation=entry.derivation,
        origin=entry.origin,
        create_time=CLOCK.now(),
    )
    if loss is None:
        return replace(begun, state=TrialState.CANCELLED, paused_at=1)
    result = TrialResult(score=loss, metrics={}, fit_s=0.1)
    return replace(begun, state=TrialState.SUCCEEDED, result=result)


def played(best: str = "") -> list[Trial]:
    """All of the portfolio: the constant predictor has 0.7, the best entry 0.2, the rest 0.45."""
    return [
        trial(n, e, 0.7 if e.origin == "CONSTANT" else 0.2 if e.key == best else 0.45)
        for n, e in enumerate(ENTRIES, start=1)
    ]


class Kept:
    """Experience in memory."""

    def __init__(self, *rows: tuple[TenantName, Experience]) -> None:
        self.rows = list(rows)

    async def past(self, *, is_regression: bool) -> Sequence[tuple[TenantName, Experience]]:
        return [r for r in self.rows if r[1].traits.is_regression == is_regression]

    async def forget(self, tenant: TenantName) -> None:
        self.rows = [r for r in self.rows if r[0] != tenant]


class Consents:
    def __init__(self, **answers: bool | None) -> None:
        self.answers = answers

    async def shares_experience(self, tenant: TenantName) -> bool | None:
        return self.answers.get(tenant.tenant_id)


def experience(best: str) -> Experience:
    found = experience_of(PLAN, played(best), GRAMMAR)
    assert found is not None
    return found


async def end(consents: Consents, *trials: Trial) -> Change:
    """The change that ends an experiment."""
    ledger = Ledger(Experiment(name=NAME, plan=PLAN, revision=1), trials)
    edit = Edit(ledger, CLOCK.now())
    edit.experiment = edit.experiment.to(ExperimentState.FINISHING).to(ExperimentState.SUCCEEDED)
    change = edit.close()
    assert change is not None
    return await Experiences(Kept(), consents, GRAMMAR).left_by(ledger, change)


class TestWhatIsLeft:
    def test_scores_beside_the_best_trial_and_the_constant_predictor(self) -> None:
        results = experience(KEYS[2]).results
        assert results[KEYS[2]] == 0.0
        assert {k: v for k, v in results.items() if k != KEYS[2]} == dict.fromkeys(
            (k for k in KEYS if k != KEYS[2]), 0.5
        )

    def test_what_was_put_off_or_failed_counts_what_was_cancelled_does_not(self) -> None:
        trials = played(KEYS[0])
        entry = {e.key: e for e in ENTRIES}
        off, broken, cut = (
            trials.index(t)
            for t in trials
            if t.derivation in {entry[k].derivation for k in KEYS[1:4]}
        )
        trials[off] = trial(off + 1, ENTRIES[off], None)
        trials[broken] = replace(trials[broken], state=TrialState.QUARANTINED, result=None)
        trials[cut] = replace(trials[cut], state=TrialState.CANCELLED, result=None)
        found = experience_of(PLAN, trials, GRAMMAR)
        assert found is not None
        assert found.results[ENTRIES[off].key] is None
        assert found.results[ENTRIES[broken].key] is None
        assert ENTRIES[cut].key not in found.results

    def test_no_name_and_no_value_of_the_data(self) -> None:
        text = repr(asdict(experience(KEYS[0])))
        for secret in ("salary", "town", "ill", "healthy", "sick", "secret", "ours"):
            assert secret not in text

    def test_too_few_trials_leave_nothing(self) -> None:
        assert experience_of(PLAN, played()[:3], GRAMMAR) is None
        assert experience_of(PLAN, played()[1:], GRAMMAR) is None, "the constant is the measure"

    async def test_only_with_consent(self) -> None:
        with_consent = await end(Consents(ours=True), *played(KEYS[0]))
        assert with_consent.experience == experience(KEYS[0])
        assert not with_consent.forgets_experience
        without = await end(Consents(ours=False), *played(KEYS[0]))
        assert (without.experience, without.forgets_experience) == (None, True)
        unknown = await end(Consents(), *played(KEYS[0]))
        assert (unknown.experience, unknown.forgets_experience) == (None, False)

    async def test_nothing_before_the_end(self) -> None:
        ledger = Ledger(Experiment(name=NAME, plan=PLAN, revision=1), played(KEYS[0]))
        edit = Edit(ledger, CLOCK.now())
        edit.experiment = edit.experiment.to(ExperimentState.FINISHING)
        change = edit.close()
        assert change is not None
        experiences = Experiences(Kept(), Consents(ours=True), GRAMMAR)
        assert await experiences.left_by(ledger, change) is change


class TestWhatIsListenedTo:
    async def ordered(self, kept: Kept, **answers: bool | None) -> tuple[str, ...]:
        experiences = Experiences(kept, Consents(**answers), GRAMMAR)
        plan = await experiences.ordered(NAME, PLAN)
        assert replace(plan, portfolio_order=()) == PLAN
        return plan.portfolio_order

    async def test_others_who_consent_bring_their_best_forward(self) -> None:
        last = KEYS[-1]
        kept = Kept(*((tenant, experience(last)) for tenant in (THEIRS, OTHERS)))
        order = await self.ordered(kept, ours=True, theirs=True, others=True)
        assert order.index(last) < KEYS.index(last)
        assert sorted(order) == sorted(KEYS)
        again = await self.ordered(kept, ours=True, theirs=True, others=True)
        assert again == order

    async def test_its_own_tasks_count_too(self) -> None:
        order = await self.ordered(Kept((OURS, experience(KEYS[-1]))), ours=True)
        assert order.index(KEYS[-1]) < KEYS.index(KEYS[-1])

    async def test_who_does_not_consent_learns_nothing_from_others(self) -> None:
        kept = Kept((THEIRS, experience(KEYS[-1])))
        assert await self.ordered(kept, ours=False, theirs=True) == ()
        assert await self.ordered(kept, theirs=True) == ()
        assert kept.rows

    async def test_consent_that_was_withdrawn_holds_at_once(self) -> None:
        kept = Kept((THEIRS, experience(KEYS[-1])), (OTHERS, experience(KEYS[-2])))
        order = await self.ordered(kept, ours=True, theirs=False, others=True)
        assert [tenant for tenant, _ in kept.rows] == [OTHERS]
        assert order == await self.ordered(kept, ours=True, others=True)

    async def test_who_cannot_be_asked_is_left_out_and_stays(self) -> None:
        kept = Kept((THEIRS, experience(KEYS[-1])))
        assert await self.ordered(kept, ours=True, theirs=None) == ()
        assert kept.rows
