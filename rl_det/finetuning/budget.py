"""The budget of a run, and the recipe for training a detector from labels: every constant outside strategies."""

import math
from dataclasses import dataclass, fields, replace
from typing import Literal

from rl_det.data.augment import Augmentations, check_scale
from rl_det.data.digit_scenes import DigitScenes
from rl_det.data.splits import Splits
from rl_det.detectors.protocol import Part
from rl_det.errors import UserError
from rl_det.settings import at_least, check_settings, positive, within

BudgetName = Literal["smoke", "short", "full"]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The amount of work of a run. It is the same for all strategies of a run, so they see the same number of images."""

    num_updates: int = 900
    """The number of batches of images; each is passed `epochs_per_update` times."""
    epochs_per_update: int = 2
    """Gradient steps on a batch; a strategy with one step a batch gets this many times as many batches."""
    images_per_update: int = 48
    """Images of a batch."""
    max_passes: int = 30
    """The maximum passes over the training images, epochs included, each view counted as an image; more would memorise
    a small data set."""
    num_validations: int = 12
    """The maximum number of validations in a run."""
    enough_images: int = 1200
    """With fewer training images, each is seen in several views."""
    max_views: int = 6
    """The maximum number of views of an image."""
    view_scale: tuple[float, float] = (0.85, 1.18)
    """Views are enlarged by a factor between these; every second one is also mirrored."""
    evaluated_candidates: int = 1000
    """The candidates of an image from which NMS chooses in the final evaluation, for every strategy."""
    validated_candidates: int = 256
    """The same for validations between updates, where time matters."""
    supervised_steps: int = 1000
    """The number of batches of supervised training of the whole detector."""
    supervised_passes: int = 60
    """The maximum passes over the training images in supervised training of the whole detector."""
    supervised_validations: int = 20
    """The maximum number of validations in supervised training of the whole detector."""
    warm_start_share: float = 1.0
    """The share of the recipe's steps that a warm start makes, if the detector is not trained yet."""
    num_draws: int = 200
    """The number of redrawn test sets for the intervals of the table."""
    fit_evaluations: int = 400
    """How many settings of post-processing each of a row's fits tries; 0: there are no rows with fitted
    post-processing."""

    def __post_init__(self) -> None:
        counts = [f.name for f in fields(self) if f.type is int]
        rules = dict.fromkeys(counts, at_least(1)) | {"fit_evaluations": at_least(0)}
        check_settings(self, warm_start_share=within("(0, 10]"), **rules)
        check_scale("view_scale", self.view_scale, usual="0.85 1.18")

    def updates(self, num_images: int) -> int:
        """The number of updates that the budget allows for this many images."""
        passes_per_update = self.epochs_per_update * min(self.images_per_update, num_images) / num_images
        return min(self.num_updates, math.ceil(self.max_passes / passes_per_update))

    def num_views(self, num_images: int) -> int:
        """The number of views of each training image."""
        return min(self.max_views, math.ceil(self.enough_images / num_images))

    @property
    def views(self) -> Augmentations:
        """The augmentations that make the views."""
        return Augmentations(scale=self.view_scale)


BUDGETS: dict[BudgetName, Budget] = {
    "smoke": Budget(
        num_updates=4,
        images_per_update=8,
        num_validations=2,
        max_views=1,
        supervised_steps=6,
        supervised_validations=3,
        warm_start_share=0.005,
        num_draws=50,
        fit_evaluations=40,
    ),
    "short": Budget(num_updates=300, supervised_steps=250, supervised_validations=10),
    "full": Budget(),
}
"""About half a minute, six minutes and a quarter of an hour on two CPU cores, on digit scenes."""


def budget_named(budget: BudgetName | Budget) -> Budget:
    """The budget of this name; ValueError for an unknown name."""
    if isinstance(budget, Budget):
        return budget
    if budget not in BUDGETS:
        raise UserError(f"budget must be one of {', '.join(BUDGETS)}, or a Budget; got {budget!r}")
    return BUDGETS[budget]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train a detector of such data from labels: first all of it, then its head alone, on cached encodings.

    Strategies tune the head at the head's learning rate given here, and all of a detector at a quarter of its rate. A head
    that has not converged would make every later strategy look good.
    """

    num_steps: int
    """The steps in which all of the detector is trained."""
    batch_size: int
    """The images of such a step."""
    learning_rate: float
    """AdamW's peak rate in them."""
    flip: bool
    """Mirror half of the images, left to right."""
    validate_every: int
    """The steps between two validations."""
    num_workers: int
    """The processes that decode images for them."""
    patience: int
    """The validations without progress after which they end."""
    head_steps: int
    """The steps in which the head alone is trained, afterwards."""
    head_batch_size: int
    """The images of such a step."""
    head_learning_rate: float
    """AdamW's peak rate in them, and in strategies without a rate of their own that train no more than the head."""
    head_validate_every: int
    """The steps between two validations of the head."""
    head_images: int
    """The maximum number of images on which the head alone is trained; their encodings are kept in memory."""

    def __post_init__(self) -> None:
        counts = [f.name for f in fields(self) if f.type is int]
        rules = dict.fromkeys(counts, at_least(1)) | {"num_workers": at_least(0)}
        check_settings(self, learning_rate=positive(usual="2e-3"), head_learning_rate=positive(usual="2e-3"), **rules)

    def rate_for(self, part: Part) -> float:
        """AdamW's peak rate for strategies that train this part and have no rate of their own."""
        return self.learning_rate / 4 if part == "all" else self.head_learning_rate

    def scaled(self, share: float) -> "Recipe":
        """The recipe with this share of its steps, and as many validations, but none within ten steps of another."""
        counts = {name: max(1, round(share * getattr(self, name))) for name in ("num_steps", "head_steps")}
        every = {
            name: max(10, round(share * getattr(self, name))) for name in ("validate_every", "head_validate_every")
        }
        return replace(self, **counts, **every)


def in_batches_of(size: int | None, budget: Budget, recipe: Recipe) -> tuple[Budget, Recipe]:
    """Budget and recipe with this number of images in every batch; None: as they are. Raises ValueError below 1."""
    if size is None:
        return budget, recipe
    if size < 1:
        raise UserError(f"batch_size must be at least 1; got {size}; the budget's own (None) is usual")
    return replace(budget, images_per_update=size), replace(recipe, batch_size=size, head_batch_size=size)


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
    """The recipe for digits, which must not be mirrored and come in thousands; or the one for all other data."""
    return DIGIT_RECIPE if isinstance(data.train, DigitScenes) else PHOTO_RECIPE
