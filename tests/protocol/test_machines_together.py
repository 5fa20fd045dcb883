"""One or two ranks and three producers over a simulated network, and whatever Hypothesis does to them.

The invariants of the design, after every step: every index is consumed exactly once per use planned; outstanding
credit equals live attempts; the bytes asked for and here stay within the cap; release is in order where order is asked
for; a ticket is only ever held by a producer of its model. And once the faults stop: everything that was planned
arrives within bounded time, and no producer works for longer than a lease on what nobody asks of it.
"""

from collections import Counter

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from penstock.protocol.tickets import Kind
from tests.protocol.network import (
    CREDIT_BYTES,
    CREDIT_GROUPS,
    GROUP_BYTES,
    NUM_PRODUCERS,
    PATIENCE,
    Order,
    SimRank,
    Spoil,
    World,
)

WHO = st.integers(0, NUM_PRODUCERS - 1)
RANK = st.integers(0, 1)
AGE = st.integers(0, 2)
NUM_INDICES = 26


class Network(RuleBasedStateMachine):
    """Plays fate."""

    world: World | None = None

    @initialize(
        num_ranks=st.sampled_from([1, 1, 2]),
        order=st.sampled_from(["ticket", "arrival"]),
        window_groups=st.sampled_from([1, 5, 12]),
        window_bytes=st.sampled_from([2 * GROUP_BYTES, 6 * GROUP_BYTES, 100 * GROUP_BYTES]),
        mixed=st.booleans(),
    )
    def begin(self, num_ranks: int, order: Order, window_groups: int, window_bytes: int, mixed: bool) -> None:
        self.world = World(num_ranks, order, (window_groups, window_bytes), NUM_INDICES, mixed=mixed)
        for _ in range(2):
            self.world.tick()
            self.world.talk()
            for number in range(NUM_PRODUCERS):
                self.world.say_free(number)
        self.world.talk()
        assert all(rank.machine.num_outstanding > 0 for rank in self.world.ranks)

    def _rank(self, number: int) -> SimRank:
        return self.world.ranks[number % self.world.num_ranks]

    # --- time and the network -----------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.1, 1.0, 1.0, 3.5, 5.0, 15.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.now += seconds
        self.world.tick()

    @rule(count=st.integers(1, 6))
    def all_is_well_for_a_while(self, count: int) -> None:
        for _ in range(count):
            self.world.calm_step()

    @rule()
    def all_messages_arrive(self) -> None:
        self.world.talk()

    @rule(number=WHO, rank=RANK)
    def a_message_goes_up(self, number: int, rank: int) -> None:
        self.world.hear_up(number, rank % self.world.num_ranks)

    @rule(number=WHO, rank=RANK)
    def a_message_goes_down(self, number: int, rank: int) -> None:
        self.world.hear_down(number, rank % self.world.num_ranks)

    @rule(number=WHO, rank=RANK, age=AGE, up=st.booleans(), fate=st.sampled_from(["lost", "twice"]))
    def a_message_is_lost_or_comes_twice(self, number: int, rank: int, age: int, up: bool, fate: str) -> None:
        line = self.world.lines.get((number, rank))
        queue = (line.up if up else line.down) if line else []
        if len(queue) > age and fate == "lost":
            del queue[-1 - age]
        elif len(queue) > age:
            queue.append(queue[-1 - age])

    @rule(number=WHO, rank=RANK)
    def messages_overtake_each_other(self, number: int, rank: int) -> None:
        line = self.world.lines.get((number, rank))
        if line and len(line.up) > 1:
            line.up[-1], line.up[-2] = line.up[-2], line.up[-1]

    @rule(number=WHO, rank=RANK, noticed=st.booleans())
    def a_connection_breaks(self, number: int, rank: int, noticed: bool) -> None:
        self.world.break_line(number, rank, noticed=noticed)

    # --- producers ----------------------------------------------------------------------------------------------------

    @rule(number=WHO)
    def work_begins(self, number: int) -> None:
        self.world.begin_work(number)

    @rule(number=WHO, spoil=st.sampled_from(["no", "no", "no", "checksum", "shape", "blank", "fail"]))
    def work_ends(self, number: int, spoil: Spoil) -> None:
        self.world.end_work(number, spoil)

    @rule(number=WHO)
    def a_finished_group_is_lost(self, number: int) -> None:
        self.world.begin_work(number)
        self.world.end_work(number)
        for rank in range(self.world.num_ranks):
            self.a_message_is_lost_or_comes_twice(number, rank, 0, True, "lost")

    @rule(number=WHO)
    def a_producer_hangs_or_wakes(self, number: int) -> None:
        self.world.begin_work(number)
        self.world.producers[number].hung = not self.world.producers[number].hung

    @rule(number=WHO)
    def a_producer_freezes_or_thaws(self, number: int) -> None:
        self.world.producers[number].frozen = not self.world.producers[number].frozen

    @rule(number=WHO)
    def a_producer_crashes_and_another_loads(self, number: int) -> None:
        self.world.start_producer(number)

    @rule(number=WHO)
    def a_producer_has_loaded(self, number: int) -> None:
        if not self.world.producers[number].frozen:
            self.world.has_loaded(number)

    @rule(number=WHO)
    def a_producer_drains(self, number: int) -> None:
        producer = self.world.producers[number]
        if not producer.draining and not producer.frozen:
            producer.draining = True
            self.world.producer_acts(number, producer.machine.drain("it was asked to end"))

    @rule(number=WHO)
    def a_drained_producer_leaves(self, number: int) -> None:
        self.world.end_drain(number)

    # --- ranks --------------------------------------------------------------------------------------------------------

    @rule(rank=RANK)
    def a_rank_freezes_or_thaws(self, rank: int) -> None:
        self._rank(rank).frozen = not self._rank(rank).frozen

    @rule(rank=RANK)
    def a_rank_crashes_and_begins_another_life(self, rank: int) -> None:
        self.world.restart_rank(self._rank(rank).number)

    @rule(rank=RANK, count=st.integers(1, 4))
    def the_trainer_takes(self, rank: int, count: int) -> None:
        for _ in range(count):
            self.world.take(self._rank(rank))

    @rule(index=st.integers(0, NUM_INDICES - 1))
    def a_use_is_planned_again(self, index: int) -> None:
        self.world.uses[index] += 1
        self._rank(index).todo.append(index)

    # --- what must hold -----------------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_consumed_more_often_than_planned(self) -> None:
        if self.world:
            assert self.world.consumed <= self.world.uses
            for rank in self.world.ranks:
                assert Counter(rank.delivered) <= Counter(rank.asked)
                missing = Counter(rank.asked) - Counter(rank.delivered)
                assert Counter(entry.ticket.index for entry in rank.machine._table) == missing

    @invariant()
    def outstanding_credit_equals_live_attempts(self) -> None:
        for rank in self.world.ranks if self.world else ():
            live = [(hold.holder, hold.key) for entry in rank.machine._table for hold in entry.holds]
            assert len(live) == len(set(live)) == rank.machine.num_outstanding
            assert {holder for holder, _ in live} <= set(rank.machine.peers)
            sizes = {entry.ticket.index: entry.ticket.recipe.nbytes for entry in rank.machine._table}
            for identity, peer in rank.machine.peers.items():
                mine = {key for holder, key in live if holder == identity}
                assert set(peer.held.values()) == mine
                assert len(mine) <= CREDIT_GROUPS
                assert peer.held_bytes == sum(sizes[key.index] for key in mine) <= CREDIT_BYTES

    @invariant()
    def a_ticket_is_held_only_by_producers_of_its_model(self) -> None:
        for rank in self.world.ranks if self.world else ():
            for entry in rank.machine._table:
                for hold in entry.holds:
                    manifest = rank.machine.peers[hold.holder].manifest
                    assert manifest.model_digest == entry.ticket.recipe.model_digest

    @invariant()
    def what_is_asked_for_and_here_stays_within_the_cap(self) -> None:
        for rank in self.world.ranks if self.world else ():
            untaken = sum(ticket.recipe.nbytes for ticket in rank.untaken)
            asked = sum(e.ticket.recipe.nbytes * max(1, len(e.holds)) for e in rank.machine._table)
            assert rank.machine.reserved_bytes == asked + untaken <= self.world.window[1]
            assert rank.machine.num_waiting + len(rank.untaken) <= self.world.window[0]

    @invariant()
    def release_is_in_order_where_order_is_asked_for(self) -> None:
        for rank in self.world.ranks if self.world and self.world.order == "ticket" else ():
            assert rank.delivered == rank.asked[: len(rank.delivered)]

    def teardown(self) -> None:
        """The faults stop. Producers that hang go on hanging, but for one where all of a kind hang."""
        if self.world is None:
            return
        for kind in Kind:
            producers = [producer for producer in self.world.producers if producer.machine.manifest.kind is kind]
            if producers and all(producer.hung for producer in producers):
                producers[0].hung = False
        calm_since = self.world.now
        # One group after another where the window holds one. A cold start for each life of a rank. Hung producers are
        # found out one after another, by the times of before, which were as long as the faults made them.
        remaining = (self.world.uses - self.world.consumed).total()
        slowness = PATIENCE.deadline_factor * calm_since + 3 * PATIENCE.lease_s
        deadline = calm_since + 60.0 + 3.0 * remaining + NUM_PRODUCERS * slowness
        while self.world.consumed != self.world.uses or self.world.now < calm_since + 3 * PATIENCE.lease_s:
            waits = [rank.machine.describe_wait(self.world.now) for rank in self.world.ranks]
            assert self.world.now < deadline, f"{remaining} groups at {calm_since} s, now {waits}"
            self.world.calm_step()
            self.nothing_is_consumed_more_often_than_planned()
            self.outstanding_credit_equals_live_attempts()
            self.what_is_asked_for_and_here_stays_within_the_cap()
            self.release_is_in_order_where_order_is_asked_for()
            for key, since in self.world.unasked_work().items():
                assert self.world.now - since <= PATIENCE.lease_s, key
        assert all(rank.machine.num_outstanding == rank.machine.reserved_bytes == 0 for rank in self.world.ranks)


TestNetwork = Network.TestCase
TestNetwork.settings = settings(
    max_examples=400,
    stateful_step_count=40,
    deadline=None,
    # Add Phase.shrink to see a failure's shortest form: that takes minutes.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
