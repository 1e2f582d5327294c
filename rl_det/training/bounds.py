"""Watch metrics for values beyond the bounds of healthy training; nothing stops, but the ending tells of it."""

from collections.abc import Mapping

from rl_det.progress import tell


class Watch:
    """Counts, for each metric with a bound, the updates in which its absolute value was above it, and the furthest value."""

    def __init__(self, bounds: Mapping[str, float]) -> None:
        self.bounds = bounds
        self.beyond: dict[str, tuple[int, float]] = {}

    def see(self, run: str, update: int, metrics: Mapping[str, float]) -> None:
        """Count the metrics of an update that are beyond their bounds, and tell of the first of each."""
        for name, bound in self.bounds.items():
            value = abs(metrics.get(name, 0.0))
            if not value > bound:
                continue
            count, furthest = self.beyond.get(name, (0, 0.0))
            self.beyond[name] = (count + 1, max(furthest, value))
            if not count:
                tell(
                    f"{run}: {name} is out of bounds in update {update}: {value:.3g}, healthy runs stay below {bound:.3g}; "
                    "training goes on, and docs/metrics.md says what to do"
                )

    def told(self, num_updates: int) -> str:
        """What was beyond its bound in a run of so many updates, in words; an empty string if nothing was."""
        return "; ".join(
            f"{name} above {self.bounds[name]:.3g} in {count} of {num_updates} updates, at most {furthest:.3g}"
            for name, (count, furthest) in self.beyond.items()
        )
