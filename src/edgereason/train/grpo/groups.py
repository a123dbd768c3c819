"""Groups of responses to learn from: drawn, judged, rewarded, and drawn anew where they tell nothing.

::

    problem, bucket ─→ opening + hint ─ responses ─ judged ─ rewarded ─┬─ rewards differ ─→ group ─ G of them
                                            ↑                          │
                                 another problem, a few times ←────────┘ all alike: no advantage

A response that did not come to its end is wrong: nothing says what it would have answered. Which bucket a
group gets, and how its responses draw, follows from the seed, the step and the problem alone.

Where drawing costs less than learning, more are drawn than are learned from: those whose rewards differ most.

Source: paper section 3 (groups without spread are dropped). Deviation: they are replaced, a bounded number
of times, so that an update keeps its size. The choice within a group is that of "Not All Rollouts are Useful"
(arXiv 2504.13818, max-variance down-sampling); the paper learns from all.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import pvariance
from typing import Final

from edgereason.core.answers import extract, grade
from edgereason.core.chat import split_thinking
from edgereason.errors import TrainingError
from edgereason.train.grpo.reward import Outcome, RewardConfig, reward
from edgereason.train.grpo.rollout import Drawn, RolloutEngine, Vocabulary, Want

_SEEDS: Final = 2**31 - 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A question that is learned from, with its right answer; `prompt` are the ids of its prompt."""

    id: str
    text: str
    reference: str
    prompt: tuple[int, ...]

    @property
    def sha256(self) -> str:
        """Hash of what is asked and of the right answer."""
        return hashlib.sha256(repr((self.prompt, self.reference)).encode()).hexdigest()


def is_right(problem: Problem, text: str) -> bool:
    """Whether what was said closes its thinking and then answers right."""
    _, answer = split_thinking(text)
    return answer is not None and grade(extract(answer, question=problem.text), problem.reference)


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedResponse:
    """One response of a group, and what it is worth.

    Attributes:
        is_within: whether it came to its end within (1+m)B.
    """

    drawn: Drawn
    outcome: Outcome
    reward: float
    is_within: bool


def most_unlike(responses: Sequence[JudgedResponse], count: int) -> tuple[JudgedResponse, ...]:
    """So many of the responses, with the greatest variance of rewards that they can have.

    Those are always some that are worth the most and others that are worth the least.
    """
    if count >= len(responses):
        return tuple(responses)
    ranked = sorted(responses, key=lambda response: response.reward)
    choices = (ranked[: count - best] + ranked[len(ranked) - best :] for best in range(count + 1))
    return tuple(max(choices, key=lambda chosen: pvariance(response.reward for response in chosen)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Responses to one problem under one budget.

    Attributes:
        forced: opening and hint, which every response begins with.
        responses: all of them.
        learned: those of them that are learned from.
    """

    problem: Problem
    bucket: int
    forced: tuple[int, ...]
    responses: tuple[JudgedResponse, ...]
    learned: tuple[JudgedResponse, ...]

    @property
    def has_spread(self) -> bool:
        """Whether some response is worth more than another: else there is no advantage to learn from."""
        rewards = [response.reward for response in self.responses]
        return max(rewards) > min(rewards)


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """What was drawn for an update.

    Attributes:
        kept: as many as were asked for; those without spread among them teach nothing.
        dropped: that were replaced, or would have been.
    """

    kept: tuple[Group, ...]
    dropped: tuple[Group, ...]

    @classmethod
    def of_all(cls, parts: Iterable[Groups]) -> Groups:
        """What several processes drew."""
        parts = list(parts)
        return cls(
            kept=tuple(group for part in parts for group in part.kept),
            dropped=tuple(group for part in parts for group in part.dropped),
        )

    @property
    def drawn(self) -> tuple[Group, ...]:
        """Every group: what the policy does, without choosing."""
        return tuple({id(group): group for group in (*self.dropped, *self.kept)}.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSampler:
    """Draws groups.

    Attributes:
        problems: by id; all that may be drawn.
        opening: ids that turn the adapter on.
        hints: ids of every bucket's hint.
        rewards: how responses are rewarded.
        count: responses that are drawn for a group.
        learned: G, how many of them are learned from; None for all.
        redraws: how often groups without spread are replaced.
        seed: of everything that is drawn.
        judge: says whether what was said behind the hint answers a problem right.
    """

    problems: Mapping[str, Problem]
    opening: tuple[int, ...]
    hints: Mapping[int, tuple[int, ...]]
    vocabulary: Vocabulary
    rewards: RewardConfig
    count: int
    learned: int | None = None
    redraws: int = 2
    seed: int = 0
    judge: Callable[[Problem, str], bool] = is_right

    def sample(self, ids: Sequence[str], step: int, rollouts: RolloutEngine) -> Groups:
        """Groups for an update.

        Args:
            ids: of the problems whose turn it is.
            step: of the training; the same step deals the same problems, buckets and seeds.
            rollouts: draws.

        Raises:
            TrainingError: a reward could not be found; it names the response.
        """
        kept: list[Group] = []
        dropped: list[Group] = []
        wanted = list(ids)
        for attempt in range(self.redraws + 1):
            at = (step, attempt)
            asked = [(one, self._random(*at, one).choice(sorted(self.hints))) for one in wanted]
            drawn = self.draw(asked, at, rollouts)
            dull = [group for group in drawn if not group.has_spread]
            kept += [group for group in drawn if group.has_spread]
            dropped += dull
            if not dull or attempt == self.redraws:
                break
            wanted = self._others(len(dull), {g.problem.id for g in kept + dropped}, (*at, *wanted))
        kept += dropped[len(dropped) - (len(ids) - len(kept)) :]  # the last ones, which nothing replaced
        return Groups(kept=tuple(kept), dropped=tuple(dropped))

    def draw(
        self, asked: Sequence[tuple[str, int]], at: tuple[object, ...], rollouts: RolloutEngine
    ) -> list[Group]:
        """A group for every problem and bucket asked for.

        Args:
            asked: id of a problem, and a bucket.
            at: where the training stands; seeds follow from it.
            rollouts: draws.

        Raises:
            TrainingError: a reward could not be found; it names the response.
        """
        wants = [
            Want(
                prompt=self.problems[problem_id].prompt,
                forced=self.opening + self.hints[bucket],
                cap_tokens=self.rewards.cap_tokens(bucket),
                count=self.count,
                seed=self._random(*at, problem_id, bucket).randrange(_SEEDS),
            )
            for problem_id, bucket in asked
        ]
        return [
            self._group(self.problems[problem_id], bucket, want, drawn)
            for (problem_id, bucket), want, drawn in zip(asked, wants, rollouts(wants), strict=True)
        ]

    def _group(self, problem: Problem, bucket: int, want: Want, drawn: Sequence[Drawn]) -> Group:
        responses = tuple(self._judged(problem, bucket, one) for one in drawn)
        return Group(
            problem=problem,
            bucket=bucket,
            forced=want.forced,
            responses=responses,
            learned=most_unlike(responses, self.learned or self.count),
        )

    def _judged(self, problem: Problem, bucket: int, drawn: Drawn) -> JudgedResponse:
        text = self.vocabulary.text(drawn.ids)
        try:
            outcome = self._outcome(problem, drawn, text)
            is_within = drawn.is_whole and drawn.num_tokens <= self.rewards.most_tokens(bucket)
            worth = reward(outcome, bucket, self.rewards)
            return JudgedResponse(drawn=drawn, outcome=outcome, reward=worth, is_within=is_within)
        except Exception as error:
            raise TrainingError(
                f"the reward of a response to {problem.id} can't be found ({type(error).__name__}: {error}); "
                f"it ends in {text[-120:]!r}: mend what judges it and go on from the last checkpoint"
            ) from error

    def _outcome(self, problem: Problem, drawn: Drawn, text: str) -> Outcome:
        thinking_tokens = min(self.vocabulary.thinking_tokens(drawn.ids), drawn.num_tokens)
        return Outcome(
            is_right=drawn.is_whole and self.judge(problem, text),
            thinking_tokens=thinking_tokens,
            answer_tokens=drawn.num_tokens - thinking_tokens,
        )

    def _others(self, count: int, but: set[str], at: tuple[object, ...]) -> list[str]:
        """Problems that have not been drawn for this update, as long as there are any; all different."""
        fresh = [problem_id for problem_id in self.problems if problem_id not in but]
        again = [problem_id for problem_id in self.problems if problem_id in but]
        source = self._random(*at, "others")
        chosen = source.sample(fresh, min(count, len(fresh)))
        return chosen + source.sample(again, min(count - len(chosen), len(again)))

    def _random(self, *parts: object) -> random.Random:
        digest = hashlib.sha256(repr((self.seed, *parts)).encode()).digest()
        return random.Random(digest[:8])
