"""How much work a run does, and how a detector of given data is trained from labels: every constant outside of strategies."""

import math
from dataclasses import dataclass
from typing import Literal

from rl_det.data.augment import Augmentations
from rl_det.data.digit_scenes import CLASSES as DIGITS
from rl_det.data.splits import Splits

BudgetName = Literal["smoke", "short", "full"]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much work a run does. The same for all strategies of a run, so that they see as many images."""

    num_updates: int = 900
    """Batches of images, each of which is gone through `epochs_per_update` times."""
    epochs_per_update: int = 2
    """Gradient steps on a batch; a strategy that makes one step a batch makes so many times as many batches."""
    images_per_update: int = 48
    """Images of a batch."""
    max_passes: int = 30
    """Over the training images, epochs counted, each view an image of its own: a small data set is learned by heart in more."""
    num_validations: int = 12
    """Validations in a run."""
    enough_images: int = 1200
    """With fewer training images, each is seen in several views."""
    max_views: int = 6
    """Views of an image at most."""
    view_scale: tuple[float, float] = (0.85, 1.18)
    """Views are enlarged by a factor between these; every second one is mirrored too."""
    evaluated_candidates: int = 1000
    """Pairs of a proposal and a class of an image that NMS chooses from in the end, for every strategy."""
    validated_candidates: int = 256
    """The same between updates, where time counts."""
    supervised_steps: int = 1000
    """Batches of supervised training of the whole detector."""
    supervised_passes: int = 60
    """Over the training images at most, in supervised training of the whole detector."""
    supervised_validations: int = 20
    """Validations in it."""
    warm_start_share: float = 1.0
    """Of the recipe's steps that a warm start makes, where the detector is not trained yet."""
    num_draws: int = 200
    """Redrawn test sets behind the intervals of the table."""

    def __post_init__(self) -> None:
        for name in ("num_updates", "epochs_per_update", "images_per_update", "max_passes", "num_validations",
                     "max_views", "evaluated_candidates", "validated_candidates", "supervised_steps", "num_draws"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        if not 0 < self.warm_start_share <= 10:
            raise ValueError(f"warm_start_share must lie in (0, 10]; got {self.warm_start_share}; 1 is usual")

    def updates(self, num_images: int) -> int:
        """As many as the budget and the number of images allow."""
        passes_per_update = self.epochs_per_update * min(self.images_per_update, num_images) / num_images
        return min(self.num_updates, math.ceil(self.max_passes / passes_per_update))

    def num_views(self, num_images: int) -> int:
        """In how many views each training image is seen."""
        return min(self.max_views, math.ceil(self.enough_images / num_images))

    @property
    def views(self) -> Augmentations:
        """How views differ."""
        return Augmentations(scale=self.view_scale)


BUDGETS: dict[BudgetName, Budget] = {
    "smoke": Budget(
        num_updates=4, max_views=1, supervised_steps=6, supervised_validations=3, warm_start_share=0.1, num_draws=50
    ),
    "short": Budget(num_updates=300, supervised_steps=250, supervised_validations=10),
    "full": Budget(),
}
"""Within a minute, within five, and within a quarter of an hour on two CPU cores, on digit scenes."""


def budget_named(budget: BudgetName | Budget) -> Budget:
    """The budget of this name; ValueError for a name that is not known."""
    if isinstance(budget, Budget):
        return budget
    if budget not in BUDGETS:
        raise ValueError(f"budget must be one of {', '.join(BUDGETS)}, or a Budget; got {budget!r}")
    return BUDGETS[budget]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a detector of such data is trained from labels: first all of it, then its head alone, on encodings made once.

    The head's learning rate is also that at which strategies tune it. A head that has not converged would make every later
    strategy look good.
    """

    num_steps: int
    batch_size: int
    learning_rate: float
    flip: bool
    validate_every: int
    num_workers: int
    patience: int
    head_steps: int
    head_batch_size: int
    head_learning_rate: float
    head_validate_every: int
    head_images: int
    """Images on which the head alone is trained, at most; their encodings lie in memory."""

    def scaled(self, share: float) -> "Recipe":
        """With this share of the steps, validated as often."""
        steps, head_steps = (max(1, round(share * steps)) for steps in (self.num_steps, self.head_steps))
        every = max(1, round(share * self.validate_every))
        head_every = max(1, round(share * self.head_validate_every))
        return Recipe(
            **{
                **vars(self),
                "num_steps": steps,
                "head_steps": head_steps,
                "validate_every": every,
                "head_validate_every": head_every,
            }
        )


DIGIT_RECIPE = Recipe(
    num_steps=850,
    batch_size=16,
    learning_rate=2e-3,
    flip=False,
    validate_every=170,
    num_workers=1,
    patience=4,
    head_steps=800,
    head_batch_size=48,
    head_learning_rate=2e-3,
    head_validate_every=200,
    head_images=4000,
)
PHOTO_RECIPE = Recipe(
    num_steps=600,
    batch_size=8,
    learning_rate=1e-3,
    flip=True,
    validate_every=100,
    num_workers=0,
    patience=4,
    head_steps=200,
    head_batch_size=24,
    head_learning_rate=5e-4,
    head_validate_every=50,
    head_images=4000,
)


def recipe_for(data: Splits) -> Recipe:
    """That of digits, which must not be mirrored and come in thousands, or that of everything else."""
    return DIGIT_RECIPE if data.classes == DIGITS else PHOTO_RECIPE
