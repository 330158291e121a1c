"""The turns of a generator and a critic in models that are no GAN: a translator, and an autoencoder with a prior."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningDataModule
from tiny_runs import Stop, differences, fit, last, sealed
from torch import Tensor, nn
from torch.utils.data import DataLoader

import zoo.model
from zoo.batch import Batch
from zoo.errors import DataError, TrainingError
from zoo.metrics import energy_distance
from zoo.metrics.objectives import distance
from zoo.model import GenerativeModel, Model
from zoo.model.game import Game
from zoo.model.latents import Latents
from zoo.nn.levels import from_unit, to_unit
from zoo.spec import DataSpec

GREY = DataSpec((1, 4, 4), 17)
PAIRS = DataSpec((1, 4, 4), 17, condition=GREY)


@pytest.fixture(autouse=True)
def _untouched(monkeypatch):
    """Neither the global random state nor the seed in the environment outlive a test."""
    with sealed(monkeypatch):
        yield


class Negatives(LightningDataModule):
    """Random patches, each given its negative."""

    spec = PAIRS

    def __init__(self, batch_size: int = 8, conditions: bool = True) -> None:
        super().__init__()
        self.batch_size, self.conditions = batch_size, conditions

    def _loader(self, n: int, size: int, seed: int) -> DataLoader:
        x = torch.randint(0, 17, (n, 1, 4, 4), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
        data = [(x[i], 16 - x[i], torch.tensor(i)) for i in range(n)]

        def collate(items: list[tuple[Tensor, ...]]) -> Batch:
            x, condition, index = map(torch.stack, zip(*items, strict=True))
            return Batch(x, condition=condition if self.conditions else None, index=index)

        return DataLoader(data, size, shuffle=False, collate_fn=collate)

    def train_dataloader(self) -> DataLoader:
        """40 pairs."""
        return self._loader(40, self.batch_size, 0)

    def val_dataloader(self) -> DataLoader:
        """10 pairs, in batches of unequal size."""
        return self._loader(10, 4, 1)


class Paired(nn.Module):
    """A critic of condition and image, which notes what it sees."""

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        middle = nn.BatchNorm1d(16) if norm else nn.Identity()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(32, 16), middle, nn.Tanh(), nn.Linear(16, 1))
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """(N, 2, 4, 4) to (N, 1)."""
        assert label is None
        self.seen.append(x.detach().clone())
        return self.layers(x)


class Translator(Game, Model):
    """What pix2pix is: images given images, a critic of pairs, and the distance of values."""

    def __init__(
        self,
        weight: float = 1.0,
        norm: bool = False,
        distance_name: str = "wasserstein",
        critic_steps: int = 1,
        lr: float = 0.02,
        beta1: float = 0.5,
        beta2: float = 0.9,
    ) -> None:
        super().__init__(distance(distance_name), critic_steps=critic_steps)
        self.save_hyperparameters()
        self.spec = PAIRS
        self.net, self.critic = nn.Conv2d(1, 1, 1), Paired(norm)
        self.indices: list[int] = []

    def translate(self, condition: Tensor) -> Tensor:
        """Images of images, uint8 (N, 1, 4, 4)."""
        with torch.no_grad():
            return from_unit(self.net(to_unit(condition, 17)), 17)

    def real(self, batch: Batch) -> Tensor:
        """Condition and image."""
        return torch.cat([to_unit(batch.condition, 17), super().real(batch)], 1)

    def fake(self, real: Tensor, batch: Batch) -> Tensor:
        """Condition and translation."""
        self.indices += batch.index.tolist()
        condition = to_unit(batch.condition, 17)
        return torch.cat([condition, self.net(condition)], 1)

    def extra_loss(self, real: Tensor, fake: Tensor, batch: Batch) -> Tensor:
        """|x - G(condition)|."""
        return self.hparams.weight * (real - fake)[:, 1].abs().mean()

    def spread(self, fake: Tensor) -> Tensor:
        """That of the translations: conditions differ anyway."""
        return super().spread(fake[:, 1:])


class Autoencoder(Game, Latents, GenerativeModel):
    """What WAE-GAN is: codes of points that the critic cannot tell from the prior."""

    def __init__(self, latent_dim: int = 2, lr: float = 0.02, beta1: float = 0.5, beta2: float = 0.9) -> None:
        super().__init__(distance("jensen_shannon"), penalty=1.0)
        self.save_hyperparameters()
        self.spec = DataSpec((2,), None)
        self.net = nn.ModuleDict({"encoder": nn.Linear(2, latent_dim), "decoder": nn.Linear(latent_dim, 2)})
        self.critic = Judge()

    def real(self, batch: Batch) -> Tensor:
        """Draws of the prior."""
        return torch.randn(batch.size, self.latent_size, device=self.device)

    def fake(self, real: Tensor, batch: Batch) -> Tensor:
        """Codes of the data."""
        return self.net["encoder"](batch.x)

    def extra_loss(self, real: Tensor, fake: Tensor, batch: Batch) -> Tensor:
        """The squared error of reconstruction."""
        return (self.generate(fake, None) - batch.x).square().mean()

    def generate(self, z: Tensor, label: Tensor | None) -> Tensor:
        """Codes to points."""
        return self.net["decoder"](z)


class Judge(nn.Module):
    """A critic of codes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """(N, 2) to (N, 1)."""
        return self.layers(z)


class Ellipse(LightningDataModule):
    """Points of a normal law that is neither at the origin nor round, as a stranger's loader gives them."""

    spec = DataSpec((2,), None)

    def train_dataloader(self) -> DataLoader:
        """512 points."""
        generator = torch.Generator().manual_seed(0)
        return DataLoader(torch.randn(512, 2, generator=generator) @ torch.tensor([[2.0, 1.0], [0.0, 0.5]]) + 3, 64)

    val_dataloader = train_dataloader


# -- a translator --------------------------------------------------------------------------------------------


def test_a_translator_learns_to_translate(tmp_path):
    model, data = Translator(), Negatives()
    x = next(iter(data.val_dataloader())).x
    before = (model.translate(16 - x).int() - x.int()).abs().float().mean()
    fit(tmp_path, model=model, data=data, max_steps=120)
    after = (model.translate(16 - x).int() - x.int()).abs().float().mean()
    assert before > 3
    assert after < 1
    assert not hasattr(model, "sample"), "it is no distribution"
    assert last(tmp_path)["global_step"] == 120


def test_the_critic_sees_pairs(tmp_path):
    model = Translator()
    fit(tmp_path, model=model, data=Negatives(), max_steps=1, limit_val_batches=0)
    together, alone = model.critic.seen  # the critic's step; the generator's
    assert (len(together), len(alone)) == (16, 8), "data are not needed for the generator of this distance"
    given = to_unit(next(iter(Negatives().train_dataloader())).condition, 17)
    for pairs in (together[:8], together[8:], alone):
        assert torch.equal(pairs[:, :1], given)
    torch.testing.assert_close(together[:8, 1], -given[:, 0])
    assert not torch.equal(together[8:, 1], together[:8, 1])
    assert model.indices == 2 * list(range(8)), "all of the batch is seen, in both passes"


@pytest.mark.parametrize("weight", [0.0, 3.0])
def test_the_generator_makes_the_sum_small(weight):
    model = Translator(weight, distance_name="hinge")
    model.manual_backward = lambda loss: loss.backward()
    batch = next(iter(Negatives().train_dataloader()))
    loss, _ = model.generator_pass(*batch)
    found = [parameter.grad.clone() for parameter in model.net.parameters()]
    assert all(parameter.grad is None for parameter in model.critic.parameters())
    condition = to_unit(batch.condition, 17)
    image = model.net(condition)
    own = -model.critic(torch.cat([condition, image], 1)).mean() + weight * (image + condition).abs().mean()
    torch.testing.assert_close(loss, own.detach())
    torch.testing.assert_close(found, list(torch.autograd.grad(own, list(model.net.parameters()))))


def test_a_critic_with_batch_normalization_sees_data_and_samples_apart(tmp_path):
    model = Translator(norm=True)
    assert model.apart
    assert not Translator().apart
    fit(tmp_path, model=model, data=Negatives(), max_steps=1, limit_val_batches=0)
    assert [len(seen) for seen in model.critic.seen] == [8, 8, 8]


def test_the_distance_of_a_split_is_its_mean_over_items(tmp_path):
    model, data = Translator(), Negatives()
    _, trainer = fit(tmp_path, model=model, data=data, max_steps=5)
    batches = list(data.val_dataloader())
    assert [batch.size for batch in batches] == [4, 4, 2]
    x, condition = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("x", "condition"))
    whole = Batch(x, condition=condition, index=torch.arange(10))
    with torch.no_grad():
        real = model.real(whole)
        value = model.critic(real).mean() - model.critic(model.fake(real, whole)).mean()
    torch.testing.assert_close(trainer.callback_metrics["val_distance"], value)


@pytest.mark.parametrize("critic_steps", [1, 2])
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path, critic_steps):
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    for folder, end in ((whole, None), (pieces, 5)):  # the end of an epoch, in whose middle such a loader begins anew
        torch.manual_seed(1)
        stop = [Stop(end)] if end else []
        fit(folder, *stop, model=Translator(critic_steps=critic_steps), data=Negatives(), max_steps=8)
    path = pieces / "checkpoints" / "last.ckpt"
    torch.manual_seed(2)
    fit(pieces, model=Translator(critic_steps=critic_steps), data=Negatives(), max_steps=8, ckpt_path=path)
    assert not list(differences(last(whole), last(pieces)))
    steps = [int(optimizer["state"][0]["step"]) for optimizer in last(whole)["optimizer_states"]]
    assert steps == [8, 8 * critic_steps]


def test_one_pair_at_a_time_has_no_spread(tmp_path):
    """pix2pix takes batches of one."""
    model = Translator()
    fit(tmp_path, model=model, data=Negatives(batch_size=1), max_steps=3)
    assert last(tmp_path)["global_step"] == 3


def test_translations_that_are_all_alike_stop_the_run(tmp_path):
    model = Translator()
    with torch.no_grad():
        model.net.weight.zero_()
    model.net.weight.requires_grad_(False)
    with pytest.raises(TrainingError, match="All samples of optimizer step 1 are alike"):
        fit(tmp_path, model=model, data=Negatives(), max_steps=3)


# -- an autoencoder ------------------------------------------------------------------------------------------


def test_codes_come_to_be_like_the_prior_and_back(tmp_path):
    model, data = Autoencoder(), Ellipse()
    x, prior = data.train_dataloader().dataset, torch.randn(500, 2)

    @torch.no_grad()
    def distances() -> tuple[float, float]:
        codes = model.net["encoder"](x)
        return float(energy_distance(codes, prior)), float((model.generate(codes, None) - x).square().mean())

    before = distances()
    fit(tmp_path, model=model, data=data, max_steps=600, limit_val_batches=0)
    after = distances()
    assert after[0] < before[0] / 5
    assert after[1] < before[1] / 20
    assert torch.equal(model.sample(3, seed=0), model.decode(model.latents(3, seed=0)))


def test_validation_draws_the_same_prior_each_time(tmp_path):
    model = Autoencoder(lr=0.0)
    values = []
    for steps in (1, 3):
        _, trainer = fit(tmp_path / str(steps), model=model, data=Ellipse(), max_steps=steps, val_check_interval=1)
        values.append(trainer.callback_metrics["val_distance"])
    assert torch.equal(*values)


# -- what is refused -----------------------------------------------------------------------------------------


def test_a_batch_without_its_condition_is_refused(tmp_path):
    with pytest.raises(DataError, match="Translator is given the condition of each datum, which this batch lacks"):
        fit(tmp_path, model=Translator(), data=Negatives(conditions=False), max_steps=1)


def test_float16_is_refused():
    model = Translator()
    model._trainer = SimpleNamespace(precision_plugin=SimpleNamespace(scaler=object()), datamodule=None)
    with pytest.raises(DataError, match="float16 would need a gradient scaler for each network"):
        model.setup("fit")
    model.setup("test")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"critic_steps": 0}, "critic_steps must be at least 1, not 0"),
        ({"generator_steps": 0}, "generator_steps must be at least 1, not 0"),
        ({"critic_steps": 2, "generator_steps": 2}, "Either critic_steps or generator_steps must be 1, not 2 and 2"),
        ({"clip": -1.0}, "clip must be 0 or positive, not -1.0"),
        ({"penalty": float("inf")}, "penalty must be 0 or positive, not inf"),
    ],
)
def test_turns_that_cannot_be_taken_are_refused(arguments, said):
    with pytest.raises(DataError, match=said):
        Game(distance("hinge"), **arguments)


class Views(nn.Module):
    """A critic of two views, linear in both: its slope is the norm of all weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 1, bias=False), nn.Linear(3, 1, bias=False)

    def forward(self, x: list[Tensor], label: Tensor | None = None) -> Tensor:
        """(N, 1, 4, 4) and (N, 3) to (N, 1)."""
        return self.first(x[0].flatten(1)) + self.second(x[1])


def test_the_slope_of_a_critic_of_several_views_is_that_in_all_of_them():
    game = Game(distance("wasserstein"), penalty=1.0)
    game.critic = Views()
    real, fake = ([torch.randn(5, 1, 4, 4), torch.randn(5, 3)] for _ in range(2))
    outputs = game.critic(real), game.critic(fake)
    slope = torch.cat([weight.flatten() for weight in game.critic.parameters()]).norm()
    torch.testing.assert_close(game.gradient_penalty(real, fake, None, *outputs), (slope - 1).square())


def test_a_game_without_samples_says_so():
    with pytest.raises(NotImplementedError, match=r"Game does not define fake\(\)"):
        Game(distance("hinge")).fake(None, Batch(torch.zeros(2, 1)))


def test_who_needs_no_game_imports_none():
    assert "game" not in Path(zoo.model.__file__).read_text()
