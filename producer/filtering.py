"""Keeps the images that match their prompt, and makes others for those that do not.

A generator's image shows at times something else than its prompt says (StableRep, arXiv 2306.00984, names it among its
limits), and every such image teaches that two things are one. Where a ticket asks for it, its images are scored by how
well they match, and of its candidates, which are numbered and each drawn from a seed of its own, the best are kept:
rejected ones give way to the next. What is kept depends on the ticket and the scorer alone, as all else does.

A call of an engine costs the same full or padded. So what lacks in any group of a batch is made together, and where the
call has room left as many candidates after them, ahead of their turn: they spare a round where they are needed, and
change nothing else.
"""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from penstock.producer.engine import Chosen, Engine, Images, Made, Pending
from penstock.producer.scorer import Scorer
from penstock.producer.work import Work
from penstock.protocol.errors import ModelError
from penstock.protocol.limits import MAX_IMAGES_PER_GROUP
from penstock.protocol.messages import Choice
from penstock.protocol.tickets import Manifest, Recipe, Ticket

_ROUND_BYTES = 256 << 20
"""Pixels of one group's candidates in a round; what is beyond them waits for the next, so that memory is bounded."""


class FilteringEngine:
    """An engine whose groups are filtered where their tickets ask for it; others it makes as the engine does.

    Args:
        engine: makes the images.
        scorer: scores them.
        batch_images: rows of every call of the engine.
    """

    def __init__(self, engine: Engine, scorer: Scorer, batch_images: int) -> None:
        self._engine = engine
        self._scorer = scorer
        self._batch_images = batch_images
        self._manifest = replace(engine.manifest, scorer=scorer.digest)
        self.work: Work = engine.work
        """The engine's; images that were rejected are among those made."""

    @property
    def manifest(self) -> Manifest:
        """The engine's, with the scorer."""
        return self._manifest

    def load(self) -> None:
        """Load the engine and the scorer. Raises ModelError."""
        self._engine.load()
        self._scorer.load()

    def company(self, ticket: Ticket) -> Hashable:
        """What the engine can make together; and either all of a batch waits for scores, or none does."""
        return ticket.recipe.is_filtered, self._engine.company(ticket)

    def generate(self, tickets: Sequence[Ticket]) -> Pending:
        """One group per ticket. Where they are filtered, all is done when this returns: what comes next depends on it.

        Raises ModelError where no ticket can be made.
        """
        if not tickets[0].recipe.is_filtered:
            return self._engine.generate(tickets)
        elections = [_Election(ticket) for ticket in tickets]
        for election in elections:
            if election.ticket.recipe.scorer_digest != self._scorer.digest:
                wanted = election.ticket.recipe.scorer_digest[:12]
                election.error = ModelError(f"the ticket wants the scorer {wanted}, this is {self._scorer.digest[:12]}")
        while any(election.num_lacking for election in elections):
            self._make([election for election in elections if election.num_lacking])
        made = [election.outcome() for election in elections]
        for election in elections:
            if election.error is None:
                self.work.scored += election.num_made
                self.work.rejected += election.num_made - election.ticket.recipe.num_images
        return lambda: made

    def _make(self, elections: Sequence["_Election"]) -> None:
        """One round: the candidates that each group lacks, and as many after them as the call has room for."""
        asked = _numbers_to_make(elections, self._batch_images)
        together: defaultdict[Hashable, list[tuple[_Election, Ticket]]] = defaultdict(list)
        for election, count in zip(elections, asked, strict=True):
            ticket = election.ask(count)
            together[self._engine.company(ticket)].append((election, ticket))
        for batch in together.values():
            finished: list[tuple[_Election, Images]] = []
            for (election, _), made in zip(batch, self._made([ticket for _, ticket in batch]), strict=True):
                if isinstance(made, ModelError):
                    election.error = made
                else:
                    finished.append((election, made))
            if finished:
                self._judge(finished)

    def _made(self, tickets: Sequence[Ticket]) -> list[Images | ModelError]:
        """What the engine makes of tickets without a filter."""
        try:
            made = self._engine.generate(tickets)()
        except ModelError as error:
            made = [error] * len(tickets)
        return [images.images if isinstance(images, Chosen) else images for images in made]

    def _judge(self, finished: Sequence[tuple["_Election", Images]]) -> None:
        """Score what was made, all of it together: the scorer too works at one shape."""
        prompts = [election.ticket.recipe.prompt for election, images in finished for _ in images]
        scores = self._scorer.score(np.concatenate([images for _, images in finished]), prompts)
        start = 0
        for election, images in finished:
            mine = scores[start : start + len(images)]
            start += len(images)
            if np.isfinite(mine).all():
                election.take(images, mine.tolist())
            else:
                election.error = ModelError("the scorer gave what is no finite number; try --dtype float32")


@dataclass(slots=True)
class _Candidate:
    """An image that may be kept."""

    score: float
    number: int
    image: Images
    """uint8 [H, W, 3]."""

    @property
    def rank(self) -> tuple[float, int]:
        """Lower is better. All that are accepted stand before all that are not."""
        return -self.score, self.number


@dataclass(slots=True)
class _Election:
    """Who is chosen of one ticket's candidates, as they are made."""

    ticket: Ticket
    num_made: int = 0
    """Candidates that had their turn."""
    num_accepted: int = 0
    best: list[_Candidate] = field(default_factory=list)
    """The best of those that had their turn, m at most. The pixels of others are let go at once."""
    error: ModelError | None = None
    """Why the ticket cannot be made."""

    @property
    def num_lacking(self) -> int:
        """Candidates that must be made before anything can be said: 0 where the choice is made."""
        recipe = self.ticket.recipe
        if self.error is not None:
            return 0
        if self.num_made < recipe.num_candidates:
            return recipe.num_candidates - self.num_made
        return min(max(0, recipe.num_images - self.num_accepted), recipe.max_candidates - self.num_made)

    @property
    def num_due(self) -> int:
        """Those of them that one round makes: no more than a recipe may ask for at once, whatever the filter's."""
        recipe = self.ticket.recipe
        image_bytes = recipe.nbytes // recipe.num_images
        return min(self.num_lacking, MAX_IMAGES_PER_GROUP, max(1, _ROUND_BYTES // image_bytes))

    @property
    def num_spare(self) -> int:
        """Candidates that are worth making ahead of their turn: as many as lack, and none before any was rejected."""
        if not self.num_made or self.num_due < self.num_lacking:
            return 0
        left = self.ticket.recipe.max_candidates - self.num_made - self.num_lacking
        return min(left, self.num_lacking, MAX_IMAGES_PER_GROUP - self.num_lacking)

    def ask(self, count: int) -> Ticket:
        """A ticket for the next so many candidates, which an engine without a filter can make."""
        numbers = range(self.num_made, self.num_made + count)
        return replace(self.ticket, recipe=self.ticket.recipe.choose(numbers))

    def take(self, images: Images, scores: Sequence[float]) -> None:
        """The next candidates, in their order; those whose turn does not come are as if never made."""
        for image, score in zip(images, scores, strict=True):
            if not self.num_lacking:
                return
            self.best.append(_Candidate(score, self.num_made, image.copy()))
            self.best = sorted(self.best, key=lambda candidate: candidate.rank)[: self.ticket.recipe.num_images]
            self.num_made += 1
            self.num_accepted += score >= self.ticket.recipe.min_score

    def outcome(self) -> Made:
        """The group, in the order of the candidates' numbers."""
        if self.error is not None:
            return self.error
        chosen = sorted(self.best, key=lambda candidate: candidate.number)
        unsatisfied = sum(candidate.score < self.ticket.recipe.min_score for candidate in chosen)
        choice = Choice(tuple(candidate.number for candidate in chosen), self.num_made, unsatisfied)
        return Chosen(np.stack([candidate.image for candidate in chosen]), choice)


def _numbers_to_make(elections: Sequence[_Election], batch_images: int) -> list[int]:
    """How many candidates each group gets in a round: what is due, and in turn one more while calls are not full."""
    counts = [election.num_due for election in elections]
    spare = [election.num_spare for election in elections]
    rows = [_rows(election.ticket.recipe) for election in elections]
    used = sum(count * row for count, row in zip(counts, rows, strict=True))
    room = -used % batch_images
    while room >= min(rows):
        given = False
        for place, row in enumerate(rows):
            if spare[place] and room >= row:
                counts[place] += 1
                spare[place] -= 1
                room -= row
                given = True
        if not given:
            break
    return counts


def _rows(recipe: Recipe) -> int:
    """Rows of a call that an image takes: a guided one two."""
    return 2 if max(recipe.guidance_scales) > 1 else 1
