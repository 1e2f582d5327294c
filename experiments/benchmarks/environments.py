"""How fast are the environments and our PPO, beside Stable-Baselines3 with its `DummyVecEnv` and with other AP programs?

    python -m pip install -e '.[bench]'
    python experiments/benchmarks/environments.py --json

One process, one thread, medians of interleaved repeats in CPU time. Digit scenes, `tiny` and its cached encodings. What it
printed last, and where, is in experiments/benchmarks/README.md.

* `vector_over_sb3_dummy`: environment steps a second under random actions, the vector form over SB3's DummyVecEnv of as many
  `gymnasium.make(...)`, in the pool's AP, credit off; the least of the environments that SB3 knows to act in. Each of Dummy's
  environments resolves a pool of its own, as it must; the vector form has one for all.
* `vector_over_sb3_dummy_image_ap`: the same in the image's own AP, where Dummy's environments are spared their pools.
* `own_ppo_over_sb3_dummy_fastest_peer`: whole PPO, transitions a second. See `own_ppo` and `sb3_ppo` for what is the same.
* `reward_share`: of our PPO's loop, as ppo_finetune.py --policy rescore runs it: all between actions and rewards with credit.
* `credit`: what a step's reward and credit cost under each reward, over `pool_ap`'s, from a new scene on, for actions that
  change scores, boxes or both; `a function` counts detections. `--credit-only` measures nothing else.
* `sb3_adapter_over_dummy`: SB3's PPO on the adapter over SB3's PPO on DummyVecEnv, TunePostprocessing, our own F1.
"""

from one_thread import insist_on_one_thread

insist_on_one_thread()

import copy  # noqa: E402
import json  # noqa: E402
from collections.abc import Callable, Mapping  # noqa: E402
from dataclasses import dataclass, field, replace  # noqa: E402
from statistics import median  # noqa: E402
from time import process_time  # noqa: E402
from typing import Any  # noqa: E402

import gymnasium  # noqa: E402
import numpy as np  # noqa: E402
import rl_det_envs  # noqa: E402, F401  (registers the environments)
import torch  # noqa: E402
import tyro  # noqa: E402
from gymnasium.vector import AutoresetMode  # noqa: E402
from head_in_sb3 import HeadPolicy, HeadShifts, OnlyWhatTheHeadNeeds  # noqa: E402
from jaxtyping import Float64  # noqa: E402
from peers.peer import Images, Peer  # noqa: E402
from rich import print_json  # noqa: E402
from rl_det_envs.sb3 import DetectorVecEnv  # noqa: E402
from stable_baselines3 import PPO  # noqa: E402
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv  # noqa: E402

from rl_det.candidates import SHIFT_OF_ONE  # noqa: E402
from rl_det.data.digit_scenes import CLASSES, DigitScenes  # noqa: E402
from rl_det.detectors import Detector, build_detector  # noqa: E402
from rl_det.detectors.encodings import EncodedDataset, encode_dataset  # noqa: E402
from rl_det.detectors.torchvision.tiny import SHIPPED_WEIGHTS  # noqa: E402
from rl_det.losses.advantages import Advantage  # noqa: E402
from rl_det.policies.rescore import RescorePolicy  # noqa: E402
from rl_det.rewards import REWARDS, Edits, Reward, Step, reward_named  # noqa: E402
from rl_det.strategies import ppo  # noqa: E402
from rl_det.strategies.teaching import SupervisedLoss, taught  # noqa: E402
from rl_det.training.loop import Ending, fit  # noqa: E402
from rl_det.training.loop_config import LoopConfig  # noqa: E402

RESCORE, SELECT, TUNE, REFINE, ADJUST = (
    f"rl_det/{name}-v0"
    for name in ("RescoreDetections", "SelectDetections", "TunePostprocessing", "RefineBoxes", "AdjustDetections")
)
SIGMA = 0.5
SIZE = 0.2
"""The standard deviation of actions where the cost of credit is measured, in the action's unit."""
LEARNING_RATE = 3e-4
POOLS: dict[str, dict[str, Any]] = {"pool_ap": {}, "image_ap": {"pool_images": 1}}
"""Rewards, and what else Dummy's environments are given under each."""
ACTING, CONTEXT_CANDIDATES = 96, 160  # as in ppo_finetune.py


@dataclass(frozen=True, kw_only=True)
class Config:
    envs: int = 64
    """Sub-environments where environments are compared."""
    steps: int = 4
    """Of each of them, in a measurement."""
    images: int = 48
    """That PPO sees in an update."""
    samples: int = 8
    """Of each image."""
    epochs: int = 2
    updates: int = 2
    """Of PPO, in a measurement."""
    repeats: int = 5
    seed: int = 0
    credit_only: bool = False
    """Measure `credit` alone, which needs no other program."""
    json: bool = False
    """Print plain JSON."""


@dataclass(frozen=True)
class Fixture:
    """What all measurements share."""

    config: Config
    detector: Detector
    data: EncodedDataset

    def vector(self, env_id: str, num_envs: int, **options: Any) -> Any:
        return gymnasium.make_vec(
            env_id, num_envs=num_envs, vectorization_mode="vector_entry_point",
            **{"detector": self.detector, "dataset": self.data, **options},
        ).unwrapped  # fmt: skip

    def dummy(self, env_id: str, num_envs: int, **options: Any) -> VecEnv:
        given = {"detector": self.detector, "dataset": self.data, **options}
        return DummyVecEnv([lambda: gymnasium.make(env_id, **given)] * num_envs)


def interleaved(ways: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median CPU seconds of each way, in turns; the first turn does not count."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats + 1):
        for name, way in ways.items():
            start = process_time()
            way()
            times[name].append(process_time() - start)
    return {name: median(seconds[1:]) for name, seconds in times.items()}


def random_steps(envs: Any, config: Config) -> Callable[[], None]:
    """So many random actions of all sub-environments; both forms reset themselves."""
    space = envs.action_space if isinstance(envs, VecEnv) else envs.single_action_space
    space.seed(config.seed)
    actions = [np.stack([space.sample() for _ in range(envs.num_envs)]) for _ in range(config.steps)]
    envs.reset()

    def walk() -> None:
        for action in actions:
            envs.step(action)

    return walk


def environment_steps(f: Fixture) -> dict[str, Any]:
    """Steps a second of both forms of two environments, under the pool's AP and under each image's."""
    ways: dict[str, Callable[[], Any]] = {}
    for reward, of_dummy in POOLS.items():
        for env_id in (SELECT, TUNE):
            options = {"reward": reward, "credit": False}
            vector = f.vector(env_id, f.config.envs, **options, autoreset_mode=AutoresetMode.SAME_STEP)
            ways[f"vector, {env_id}, {reward}"] = random_steps(vector, f.config)
            ways[f"dummy, {env_id}, {reward}"] = random_steps(
                f.dummy(env_id, f.config.envs, **options, **of_dummy), f.config
            )
    seconds = interleaved(ways, f.config.repeats)
    least = {
        reward: min(
            seconds[f"dummy, {env_id}, {reward}"] / seconds[f"vector, {env_id}, {reward}"] for env_id in (SELECT, TUNE)
        )
        for reward in POOLS
    }
    return {
        "vector_over_sb3_dummy": least["pool_ap"],
        "vector_over_sb3_dummy_image_ap": least["image_ap"],
        "steps_per_second": {name: f.config.envs * f.config.steps / spent for name, spent in seconds.items()},
    }


@dataclass(frozen=True)
class PeerAp(Reward):
    """The AP of each image by another program; what it makes of an image's true boxes is kept."""

    peer: Peer
    prepared: dict[bytes, Images] = field(default_factory=dict)

    def __call__(self, before: Edits, after: Edits, *, ended: bool) -> Float64[np.ndarray, " R"]:
        key = after.truths.boxes.tobytes()
        if key not in self.prepared:
            self.prepared[key] = self.peer.prepare_images(after.truths, after.pool.num_classes)
        ap: Float64[np.ndarray, " R"] = np.nan_to_num(self.peer.image_ap(self.prepared[key], after.detections))
        return ap


def fastest_peer(f: Fixture) -> tuple[Peer, dict[str, float]]:
    """Of all ways of all peers, that which takes least for the AP of one image's candidates; and their microseconds."""
    envs = f.vector(RESCORE, 1, num_candidates=ACTING, context_candidates=CONTEXT_CANDIDATES)
    envs.reset(seed=f.config.seed)
    envs.step(np.zeros(envs.action_space.shape))
    step = envs._last
    from peers.ways import LENT, UNAIDED  # other programs, of the extra `bench`

    peers = {f"{peer.name}{suffix}": peer for suffix, group in (("", UNAIDED), (" lent", LENT)) for peer in group}
    ways = {
        name: lambda reward=PeerAp(peer): [reward(step.before, step.after, ended=True) for _ in range(5)]
        for name, peer in peers.items()
    }
    us = {name: 1e6 * seconds / 5 for name, seconds in interleaved(ways, f.config.repeats).items()}
    return peers[min(us, key=us.__getitem__)], us


def own_ppo(f: Fixture, images: int, samples: int, **options: Any) -> Callable[[], Any]:
    """Our PPO: the head as a policy on RescoreDetections, `images` x `samples` transitions an update, in one batch.

    The same as in `sb3_ppo`: the head, its encodings, candidates and context candidates, the Gaussian and its sigma,
    transitions an update, batch, epochs, clip, learning rate, norm of the gradient, no early end of an update, no supervised
    loss.
    Not the same: an image's samples share the head's passes; the reward is the pool's AP, with credit, unless `options` say
    otherwise (leave-one-out in place of credit); ratios are per candidate, and there is no value function; AdamW, its schedule,
    and the penalty on the mean shift.
    """
    detector = copy.deepcopy(f.detector)
    envs = f.vector(
        RESCORE, images * samples, detector=detector, samples_per_image=samples, pool_images=images,
        num_candidates=ACTING, context_candidates=CONTEXT_CANDIDATES, **options,
    )  # fmt: skip
    envs.reset(seed=f.config.seed)
    generator = torch.Generator().manual_seed(f.config.seed)
    policy = RescorePolicy(detector, sigma=SIGMA)
    return lambda: trained(f, policy, envs, generator)


def trained(
    f: Fixture, policy: RescorePolicy, envs: Any, generator: torch.Generator, supervised: SupervisedLoss | None = None
) -> Ending:
    """Our PPO for so many updates, by the loop that every strategy runs in."""
    advantage: Advantage = "counterfactual" if envs.gives_credit else "leave_one_out"
    config = ppo.PPO(num_epochs=f.config.epochs, target_kl=np.inf, advantage=advantage)
    learner = ppo.PpoLearner(policy, envs, config, generator=generator, validate=lambda: 0.0, supervised=supervised)
    loop = LoopConfig(num_updates=f.config.updates, learning_rate=LEARNING_RATE, max_grad_norm=config.max_grad_norm)
    return fit(learner, loop, name="ppo")


def sb3_ppo(f: Fixture, peer: Peer) -> Callable[[], Any]:
    """SB3's PPO on DummyVecEnv of the same environment under the peer's AP, with the head as its network (`head_in_sb3.py`).

    SB3 knows no samples of one image, so each environment shows `samples` images in turn: as many transitions as in
    `own_ppo`, but the head runs for each. The value function that SB3 wants is one linear layer.
    """
    detector = copy.deepcopy(f.detector)
    reward = PeerAp(peer)

    def make() -> gymnasium.Env[Any, Any]:
        return OnlyWhatTheHeadNeeds(
            gymnasium.make(
                RESCORE, detector=detector, dataset=f.data, reward=reward, credit=False, pool_images=1,
                num_candidates=ACTING, context_candidates=CONTEXT_CANDIDATES,
            )
        )  # fmt: skip

    num_transitions = f.config.images * f.config.samples
    model = PPO(
        HeadPolicy, DummyVecEnv([make] * f.config.images), n_steps=f.config.samples, batch_size=num_transitions,
        n_epochs=f.config.epochs, learning_rate=LEARNING_RATE, clip_range=ppo.PPO.clip, gamma=1.0,
        max_grad_norm=ppo.PPO.max_grad_norm, seed=f.config.seed, device="cpu",
        policy_kwargs={
            "net_arch": [], "ortho_init": False, "log_std_init": float(np.log(SIGMA / SHIFT_OF_ONE)),
            "features_extractor_class": HeadShifts,
            "features_extractor_kwargs": {"detector": detector, "data": f.data},
        },
    )  # fmt: skip
    return lambda: model.learn(num_transitions * f.config.updates)


def whole_ppo(f: Fixture) -> dict[str, Any]:
    """Transitions a second of whole PPO training, ours and SB3's."""
    peer, us = fastest_peer(f)
    images, samples = f.config.images, f.config.samples
    ways = {
        "own": own_ppo(f, images, samples),
        "own, image_ap, no credit": own_ppo(f, images, samples, reward="image_ap", credit=False),
        "own, each transition another image": own_ppo(f, images * samples, 1),
        "sb3 dummy, fastest peer": sb3_ppo(f, peer),
    }
    seconds = interleaved(ways, f.config.repeats)
    theirs = seconds["sb3 dummy, fastest peer"]
    return {
        "own_ppo_over_sb3_dummy_fastest_peer": theirs / seconds["own"],
        "own_ppo_image_ap_over_sb3_dummy_fastest_peer": theirs / seconds["own, image_ap, no credit"],
        "own_ppo_one_sample_over_sb3_dummy_fastest_peer": theirs / seconds["own, each transition another image"],
        "fastest_peer": min(us, key=us.__getitem__),
        "peers_us_for_one_image": us,
        "transitions_per_second": {
            name: images * samples * f.config.updates / spent for name, spent in seconds.items()
        },
    }


def reward_share(f: Fixture) -> dict[str, float]:
    """The share of our PPO's loop, supervised loss included, that passes between actions and rewards with credit."""
    detector, inside = copy.deepcopy(f.detector), [0.0]
    envs = f.vector(
        RESCORE, f.config.images * f.config.samples, detector=detector, samples_per_image=f.config.samples,
        num_candidates=ACTING, context_candidates=CONTEXT_CANDIDATES, pool_images=min(32, f.config.images),
    )  # fmt: skip
    envs.reset(seed=f.config.seed)
    outcome = envs.outcome

    def timed(*given: Any, **options: Any) -> Any:
        start = process_time()
        told = outcome(*given, **options)
        inside[0] += process_time() - start
        return told

    envs.outcome = timed
    policy = RescorePolicy(detector, sigma=SIGMA)
    generator, shares = torch.Generator().manual_seed(f.config.seed), []
    for _ in range(f.config.repeats + 1):
        inside[0], start = 0.0, process_time()
        trained(
            f, policy, envs, generator,
            taught(None, policy, f.data),
        )  # fmt: skip
        shares.append(inside[0] / (process_time() - start))
    return {"reward_share": median(shares[1:])}


def credit(f: Fixture) -> dict[str, Any]:
    """Milliseconds of one step's reward and credit, of `images` x `samples` transitions, and their ratio to `pool_ap`'s."""
    objects = np.bincount(torch.cat([t.labels for t in f.data.targets]), minlength=len(CLASSES) + 1)[1:]
    rewards = {name: reward_named(name, objects) for name in REWARDS}
    rewards["a function"] = reward_named(lambda found, target: float(len(found["labels"])), objects)
    told: dict[str, Any] = {"credit_over_pool_ap": {}, "credit_milliseconds": {}}
    for env_id, options in ((RESCORE, {}), (REFINE, {"num_steps": 1}), (ADJUST, {})):
        step = random_step(f, env_id, **options)
        ways = {
            name: lambda reward=reward: reward.credited(replace(step, scene=replace(step.scene)), ended=True)  # noqa: B023
            for name, reward in rewards.items()
        }
        seconds, factors = interleaved(ways, f.config.repeats), " and ".join(step.factors)
        told["credit_milliseconds"][factors] = {name: round(1000 * spent, 1) for name, spent in seconds.items()}
        told["credit_over_pool_ap"][factors] = {
            name: round(spent / seconds["pool_ap"], 2) for name, spent in seconds.items()
        }
    return told


def random_step(f: Fixture, env_id: str, **options: Any) -> Step:
    """A step of all sub-environments, as PPO makes it, by actions of PPO's size."""
    envs = f.vector(
        env_id, f.config.images * f.config.samples, samples_per_image=f.config.samples, pool_images=f.config.images,
        num_candidates=ACTING, context_candidates=CONTEXT_CANDIDATES, credit=False, **options,
    )  # fmt: skip
    envs.reset(seed=f.config.seed)
    generator = torch.Generator().manual_seed(f.config.seed)
    envs.step((SIZE * torch.randn(envs.action_space.shape, generator=generator)).clamp(-1, 1))
    step: Step = envs._last
    return step


def adapter(f: Fixture) -> dict[str, Any]:
    """SB3's PPO, its network, rollouts, batches and epochs those of sb3_postprocessing.py, on the adapter and on Dummy."""
    num_envs = f.config.envs
    both = {"adapter": DetectorVecEnv(f.vector(TUNE, num_envs)), "dummy": f.dummy(TUNE, num_envs, pool_images=1)}
    ways = {}
    for name, envs in both.items():
        model = PPO(
            "MlpPolicy", envs, n_steps=16, batch_size=4 * num_envs, n_epochs=4, seed=f.config.seed, device="cpu"
        )
        ways[name] = lambda model=model: model.learn(16 * num_envs)
    seconds = interleaved(ways, f.config.repeats)
    return {
        "sb3_adapter_over_dummy": seconds["dummy"] / seconds["adapter"],
        "sb3_steps_per_second": {name: 16 * num_envs / spent for name, spent in seconds.items()},
    }


def main(config: Config) -> None:
    torch.set_num_threads(1)
    detector = build_detector("tiny", num_classes=len(CLASSES), weights=SHIPPED_WEIGHTS)
    num_scenes = max(config.envs, config.images * config.samples)
    data = encode_dataset(detector, DigitScenes("train", num_scenes=num_scenes, seed=config.seed))
    few = EncodedDataset(data.encoded[: config.envs], data.targets[: config.envs])
    results = credit(Fixture(config, detector, data))
    if not config.credit_only:
        results |= {
            **environment_steps(Fixture(config, detector, few)),
            **whole_ppo(Fixture(config, detector, data)),
            **reward_share(Fixture(config, detector, data)),
            **adapter(Fixture(config, detector, few)),
        }
    if config.json:
        print(json.dumps(results))
    else:
        print_json(data=results)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
