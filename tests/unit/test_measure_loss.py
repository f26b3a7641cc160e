"""The loss account. First Jepsen's `checker/set-full` cases, restated as what we must say; then the recovery point."""

from __future__ import annotations

from collections.abc import Sequence

from drkit.measure import account
from drkit.model import (
    Attempt,
    Interval,
    LossAccount,
    Outage,
    Outcome,
    ProbeKind,
    Role,
    Series,
    SurvivingRow,
    Survivors,
)

S = 1_000_000_000
OK, FAILED, UNKNOWN = Outcome.OK, Outcome.FAILED, Outcome.UNKNOWN


def writer(*attempts: tuple[int, float, float, Outcome], complete: bool = True) -> Series:
    made = tuple(Attempt(k, int(s * S), int(s * S), int(c * S), outcome) for k, s, c, outcome in attempts)
    return Series("writes", ProbeKind.SQL, Role.WRITES, 1.0, 2.0, made, complete=complete)


def reading(lo_s: float, hi_s: float, *seqs: int, torn: Sequence[int] = ()) -> Survivors:
    rows = tuple(SurvivingRow(seq, intact=seq not in torn) for seq in seqs)
    return Survivors("writes", int(lo_s * S), int(hi_s * S), rows)


def one_a_second(n: int, **kwargs: bool) -> Series:
    """Writes 0..n-1, each sent at its own second and acknowledged half a second later."""
    return writer(*((k, k, k + 0.5, OK) for k in range(n)), **kwargs)


def clean(found: LossAccount) -> bool:
    return not found.lost and not found.integrity_broken


class TestJepsenSetFull:
    """jepsen/test/jepsen/checker_test.clj, set-full-test; times are the indices of its operations."""

    def test_never_confirmed_and_not_read_is_not_lost(self) -> None:
        found = account(writer((0, 0, 9, UNKNOWN)), [reading(1, 2)])
        assert clean(found)
        assert found.recovered == ()

    def test_read_concurrently_or_after_is_there(self) -> None:
        for lo, hi, sent, acked in [(0, 2, 1, 3), (0, 3, 1, 2), (1, 2, 0, 3), (1, 3, 0, 2), (2, 3, 0, 1)]:
            assert clean(account(writer((0, sent, acked, OK)), [reading(lo, hi, 0)]))

    def test_absent_from_a_later_read_is_lost(self) -> None:
        assert account(writer((0, 0, 1, OK)), [reading(2, 3)]).lost == (0,)

    def test_absent_from_a_concurrent_read_is_not_lost(self) -> None:
        for lo, hi, sent, acked in [(0, 2, 1, 3), (0, 3, 1, 2), (1, 2, 0, 3), (1, 3, 0, 2)]:
            assert clean(account(writer((0, sent, acked, OK)), [reading(lo, hi)]))

    def test_present_and_later_missing_is_lost(self) -> None:
        writes = writer((0, 0, 4, OK), (1, 1, 5, OK))
        reads = [reading(2, 3, 1), reading(6, 7, 0, 1), reading(8, 9, 0), reading(10, 11)]
        assert account(writes, reads).lost == (0, 1)

    def test_flutter_is_loss(self) -> None:
        """Jepsen calls 1 stale, since a later read has it again; of a service that has recovered we ask for more."""
        writes = writer((0, 0, 1, OK), (1, 2, 5, OK))
        assert account(writes, [reading(3, 4, 1), reading(7, 8, 1), reading(6, 9, 0)]).lost == (0, 1)


class TestFindings:
    def test_all_there_bounds_the_recovery_point_by_one_period(self) -> None:
        found = account(one_a_second(5), [reading(10, 11, *range(5))])
        assert clean(found)
        assert found.rpa == Interval(0.0, 1.0)
        assert (found.acknowledged, found.read) == (5, 5)

    def test_unknown_and_there_is_allowed(self) -> None:
        found = account(writer((0, 0, 1, OK), (1, 1, 3, UNKNOWN)), [reading(10, 11, 0, 1)])
        assert clean(found)
        assert found.recovered == (1,)

    def test_failed_and_there_was_resurrected(self) -> None:
        found = account(writer((0, 0, 1, OK), (1, 1, 3, FAILED)), [reading(10, 11, 0, 1)])
        assert found.resurrected == (1,)
        assert found.integrity_broken

    def test_never_written_and_there_is_phantom(self) -> None:
        found = account(one_a_second(2), [reading(10, 11, 0, 1, 7)])
        assert found.phantom == (7,)
        assert found.integrity_broken

    def test_a_dead_probe_cannot_call_its_last_rows_phantom(self) -> None:
        died = one_a_second(10, complete=False)
        assert account(died, [reading(20, 21, *range(12))]).phantom == ()
        gone = Series(
            "writes", ProbeKind.SQL, Role.WRITES, 1.0, 2.0, (*died.attempts[:2], *died.attempts[3:]), complete=False
        )
        assert account(gone, [reading(20, 21, *range(10))]).phantom == (2,)

    def test_corrupt_and_duplicated(self) -> None:
        found = account(one_a_second(3), [reading(10, 11, 0, 1, 1, 2, torn=[2])])
        assert (found.duplicated, found.corrupt, found.lost) == ((1,), (2,), ())
        assert found.integrity_broken

    def test_a_finding_in_any_reading_counts(self) -> None:
        good, bad = reading(10, 11, 0, 1), reading(20, 21, 0, 9, torn=[0])
        for readings in ([good, bad], [bad, good]):
            found = account(one_a_second(2), readings)
            assert (found.lost, found.phantom, found.corrupt) == ((1,), (9,), (0,))

    def test_acknowledged_after_the_reading_began_is_not_asked_for(self) -> None:
        assert clean(account(one_a_second(6), [reading(3.2, 3.4, 0, 1, 2), reading(5.6, 5.7, *range(6))]))

    def test_after_restoration_a_write_is_neither_lost_nor_phantom(self) -> None:
        found = account(one_a_second(6), [reading(4.1, 4.2, *range(5))], restored_ns=3 * S)
        assert clean(found)
        assert found.acknowledged == 3

    def test_but_one_that_a_later_reading_lacks_is_a_finding(self) -> None:
        found = account(one_a_second(6), [reading(10, 11, 0, 1, 2, 3, 5)], restored_ns=3 * S)
        assert (found.lost, found.lost_later) == ((), (4,))
        assert found.integrity_broken


class TestRecoveryPoint:
    OUTAGE = Outage("writes", 9 * S, int(10.2 * S), 14 * S, 15 * S, Interval(3.8, 6.0), {"refused": 5})

    def series(self) -> Series:
        """Ten writes, an outage that begins between 9 s and 10.2 s, and writes again from 14.9 s."""
        return writer(
            *((k, k, k + 0.5, OK) for k in range(10)),
            *((k, k, k + 0.2, FAILED) for k in range(10, 15)),
            *((k, k, k + 0.5, OK) for k in range(15, 20)),
        )

    def test_a_lost_suffix_reaches_from_its_first_write_to_the_outage(self) -> None:
        survived = [k for k in range(20) if k not in {7, 8, 9} and not 10 <= k < 15]
        found = account(self.series(), [reading(30, 31, *survived)], restored_ns=int(15.5 * S), outages=[self.OUTAGE])
        assert found.lost == (7, 8, 9)
        assert found.rpa == Interval(2.0, 3.7)
        assert found.holes == 0
        assert not found.integrity_broken

    def test_survivors_after_the_first_lost_write_are_holes(self) -> None:
        survived = [k for k in range(20) if k not in {5, 8} and not 10 <= k < 15]
        found = account(self.series(), [reading(30, 31, *survived)], restored_ns=int(15.5 * S), outages=[self.OUTAGE])
        assert found.lost == (5, 8)
        assert found.holes == 3  # 6, 7 and 9; not what the new writer took later
        assert found.rpa == Interval(4.0, 5.7)
        assert found.integrity_broken

    def test_two_commits_in_flight_at_once_may_survive_in_either_order(self) -> None:
        writes = writer((0, 0, 1, OK), (1, 2.0, 3.5, OK), (2, 2.1, 3.0, OK))
        assert account(writes, [reading(9, 10, 0, 1)]).holes == 0
        apart = writer((0, 0, 1, OK), (1, 3.0, 3.5, OK), (2, 2.1, 3.0, OK))
        assert account(apart, [reading(9, 10, 0, 1)]).holes == 1

    def test_nothing_left_reaches_back_to_the_first_attempt(self) -> None:
        found = account(
            self.series(), [reading(30, 31, *range(15, 20))], restored_ns=int(15.5 * S), outages=[self.OUTAGE]
        )
        assert found.rpa == Interval(9.0, 10.2)

    def test_loss_without_an_outage_reaches_to_the_fault(self) -> None:
        survived = [k for k in range(10) if k not in {4, 5}]
        found = account(one_a_second(10), [reading(30, 31, *survived)], fault=(int(5.8 * S), 6 * S))
        assert found.lost == (4, 5)
        assert found.rpa == Interval(1.0, 6 - 3.5)
        assert found.holes == 0

    def test_a_write_acknowledged_late_in_the_outage_does_not_stretch_the_lower_bound(self) -> None:
        base = self.series()
        late = Attempt(99, 9 * S, 9 * S, int(14.6 * S), OK)
        series = Series("writes", ProbeKind.SQL, Role.WRITES, 1.0, 2.0, (*base.attempts, late))
        survived = [k for k in (*range(20), 99) if k not in {8, 9} and not 10 <= k < 15]
        found = account(series, [reading(30, 31, *survived)], restored_ns=int(15.5 * S), outages=[self.OUTAGE])
        assert found.rpa == Interval(1.0, 2.7)
        assert found.holes == 0
