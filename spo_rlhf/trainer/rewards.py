"""On the controller: how many rewards had no answer, and when that ends the run."""

from spo_rlhf.errors import RunStopped
from spo_rlhf.rollout.reward import RewardCounts, too_many
from spo_rlhf.trainer.engine_pool import EnginePool
from spo_rlhf.trainer.events import Reporter


class RewardWatch:
    """Asks the engines. `max_failures`: share of rewards without an answer, of a step or since the start, that is allowed."""

    def __init__(self, engines: EnginePool, max_failures: float, reporter: Reporter):
        self.engines, self.max_failures, self.reporter = engines, max_failures, reporter
        self._counts: dict[
            str, RewardCounts
        ] = {}  # of each process of an engine; of one that died, as of the last look
        self._taken = RewardCounts()  # since the start, as of the last `take`

    def check(self) -> None:
        """Raise RunStopped where too many rewards had no answer."""
        total = self._total()
        for counts, when in ((total.add(self._taken, times=-1), "in this step"), (total, "since the start")):
            if too_many(counts, self.max_failures):
                self.report_rest()
                raise RunStopped(
                    f"{counts.timeouts} of {counts.rewards} rewards {when} took longer than --spo.reward_timeout and the "
                    f"processes of {counts.crashes} died: more than --spo.max_reward_failures {self.max_failures:g}. Mend "
                    f"the reward file, or raise one of the two"
                )

    def take(self) -> dict[str, int]:
        """Metrics: rewards since the last call."""
        total = self._total()
        new, self._taken = total.add(self._taken, times=-1), total
        return {
            "rollout/rewards": new.rewards,
            "rollout/reward_timeouts": new.timeouts,
            "rollout/reward_crashes": new.crashes,
        }

    def untold(self) -> dict[str, int]:
        """What the next `take` will tell, as of the last look, for a checkpoint."""
        return vars(self._known().add(self._taken, times=-1))

    def go_on_from(self, untold: dict[str, int]) -> None:
        """The next `take` also tells what `untold` was."""
        self._taken = self._known().add(RewardCounts(**untold), times=-1)

    def report_rest(self) -> None:
        """Tell the record of the rewards that no step will tell of."""
        self.reporter.send("rewards", metrics=self.take())

    def _total(self) -> RewardCounts:
        self._counts.update(self.engines.ask("reward_counts"))
        return self._known()

    def _known(self) -> RewardCounts:
        total = RewardCounts()
        for counts in self._counts.values():
            total = total.add(counts)
        return total
