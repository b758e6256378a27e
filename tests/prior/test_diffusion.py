"""The diffusion prior against its equations and a sampling loop written out with diffusers' scheduler."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler

from lorasynth.errors import ModelError
from lorasynth.prior import CONDITIONING, Denoiser, DiffusionPrior, RegressionPrior, RidgePrior
from lorasynth.storage.files import read_tensors, write_tensors

Z, D = 4, 6


def prior(conditioning="adalora", awake=True):
    """A prior in evaluation mode; ``awake``: every part of its denoiser does something, as after training."""
    torch.manual_seed(0)
    made = DiffusionPrior(Denoiser(Z, D, width=16, depth=2, conditioning=conditioning)).eval()
    with torch.no_grad():
        made.spread.copy_(torch.tensor([0.5, 1.0, 2.0, 0.1]))
        if awake:
            for parameter in made.denoiser.parameters():
                parameter += 0.2 * torch.randn(parameter.shape)
    return made


def embeddings(n=5, seed=0):
    return F.normalize(torch.randn(n, D, generator=torch.Generator().manual_seed(seed)), dim=1)


@torch.no_grad()
def sampled(made, e, seed, steps, guidance=None):
    """The sampler by its parts: diffusers' DDIM, a loop, and guidance only where it is asked for."""
    ddim = DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", rescale_betas_zero_snr=True,
        timestep_spacing="trailing", clip_sample=False,
    )  # fmt: skip
    ddim.set_timesteps(steps)
    x = torch.randn(len(e), Z, generator=torch.Generator().manual_seed(seed))
    for t in ddim.timesteps:
        v = made.denoiser(x, t.repeat(len(e)), e)
        if guidance is not None:
            without = made.denoiser(x, t.repeat(len(e)), e, torch.ones(len(e), dtype=torch.bool))
            v = (1 - guidance) * without + guidance * v
        x = ddim.step(v, t, x).prev_sample
    return made.centre(e) + made.spread * x


# --- Schedule and loss ------------------------------------------------------------------------------------------------


def test_schedule_is_cosine_rescaled_to_no_signal_at_end():
    """Nichol & Dhariwal's alpha-bar (betas capped at 0.999), then Lin et al.'s rescaling, in numpy."""
    edges = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    signal = np.sqrt(np.cumprod(1 - np.minimum(1 - edges[1:] / edges[:-1], 0.999)))
    signal = (signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])
    got = prior().schedule.alphas_cumprod
    np.testing.assert_allclose(got.sqrt().numpy(), signal, atol=2e-4)
    assert got[-1] == 0


def test_loss_is_the_error_of_v_by_the_schedules_own_alphas():
    """v = alpha noise - sigma x (Salimans & Ho); the noise is found again from what the denoiser was shown."""
    made, e = prior(), embeddings(64)
    z = torch.randn(64, Z, generator=torch.Generator().manual_seed(3))
    dropped = torch.arange(64) % 3 == 0
    shown = []
    handle = made.denoiser.register_forward_hook(lambda _, given, v: shown.append((*given, v)))
    loss = made.loss(z, e, dropped, torch.Generator().manual_seed(4))
    handle.remove()
    x_t, t, e_shown, dropped_shown, v = shown[0]
    assert torch.equal(e_shown, e)
    assert torch.equal(dropped_shown, dropped)
    alpha = made.schedule.alphas_cumprod[t].sqrt()[:, None]
    sigma = (1 - made.schedule.alphas_cumprod[t]).sqrt()[:, None]
    x = (z - e @ made.centre.weight.T - made.centre.bias) / made.spread
    noise = (x_t - alpha * x) / sigma
    assert abs(noise.std().item() - 1) < 0.2
    torch.testing.assert_close(loss, (v - (alpha * noise - sigma * x)).square().mean(), rtol=1e-4, atol=1e-5)


def test_timesteps_are_spread_over_the_whole_schedule():
    made, e = prior(), embeddings(2000)
    shown = []
    made.denoiser.register_forward_hook(lambda _, given, v: shown.append(given[1]))
    made.loss(torch.zeros(2000, Z), e, torch.zeros(2000, dtype=torch.bool), torch.Generator().manual_seed(0))
    counts = np.bincount(shown[0].numpy() // 100, minlength=10)
    assert counts.sum() == 2000
    assert (np.abs(counts - 200) < 70).all()  # five standard deviations of chance


def test_gradients_go_to_the_denoiser_and_not_to_the_centre():
    made = prior()
    made.loss(torch.zeros(5, Z), embeddings(), torch.zeros(5, dtype=torch.bool), torch.Generator()).backward()
    assert made.centre.weight.grad is None
    assert made.denoiser.leave.weight.grad.abs().max() > 0


# --- Sampling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 8, 20])
def test_sample_is_that_of_a_loop_over_diffusers_ddim(steps):
    made, e = prior(), embeddings()
    got = made.predict(e, seed=5, num_inference_steps=steps)
    torch.testing.assert_close(got, sampled(made, e, 5, steps), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("guidance", [0.0, 1.0, 1.5, 4.0])
def test_guidance_is_the_published_mixture_and_1_is_none(guidance):
    made, e = prior(), embeddings()
    got = made.predict(e, seed=5, guidance_scale=guidance, num_inference_steps=8)
    torch.testing.assert_close(got, sampled(made, e, 5, 8, guidance), rtol=1e-4, atol=1e-4)
    conditional = sampled(made, e, 5, 8)
    assert torch.allclose(got, conditional, rtol=1e-4, atol=1e-4) == (guidance == 1)


def test_without_guidance_an_embedding_only_moves_the_centre():
    made, one, two = prior(), embeddings(), embeddings(seed=1)
    spread = [made.predict(e, seed=5, guidance_scale=0.0) - made.centre(e).detach() for e in (one, two)]
    torch.testing.assert_close(*spread, rtol=0, atol=1e-5)


def test_at_temperature_0_linear_data_come_back_exactly():
    """Data that are linear in the embedding, ridge as the centre: nothing is left for the denoiser."""
    g = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(Z, D, generator=g), torch.randn(Z, generator=g)
    known, unseen = embeddings(50), embeddings(20, seed=9)
    ridge = RidgePrior.fit(known, known @ weight.T + bias, lam=1e-9)
    made = prior(awake=False)
    with torch.no_grad():
        made.centre.weight.copy_(ridge.weight)
        made.centre.bias.copy_(ridge.bias)
    for guidance in (1.0, 3.0):
        got = made.predict(unseen, temperature=0.0, guidance_scale=guidance)
        torch.testing.assert_close(got, unseen @ weight.T + bias, rtol=0, atol=1e-4)


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_where_v_is_zero_ddim_shrinks_the_noise_by_cosines(temperature):
    """With v = 0, x is a rotation's shadow: each step multiplies by the cosine of the angle between its two noise levels."""
    made, e = prior(awake=False), embeddings()
    alphas = made.schedule.alphas_cumprod.sqrt()[[999, 799, 599, 399, 199]].tolist()
    angles = [*(math.acos(a) for a in alphas), 0.0]
    factor = math.prod(math.cos(a - b) for a, b in pairwise(angles))
    noise = torch.randn(5, Z, generator=torch.Generator().manual_seed(2))
    got = made.predict(e, seed=2, num_inference_steps=5, temperature=temperature)
    expected = made.centre(e).detach() + temperature * factor * made.spread * noise
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)


def test_seed_decides_the_sample_and_nothing_else_does():
    made, e = prior(), embeddings()
    first = made.predict(e, seed=1)
    torch.manual_seed(77)
    made.predict(e, seed=2, num_inference_steps=3)  # leaves the scheduler with other timesteps
    state = torch.get_rng_state()
    assert torch.equal(made.predict(e, seed=1), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert (made.predict(e, seed=2) - first).abs().amax(1).min() > 1e-3


def test_at_temperature_0_the_seed_does_not_matter():
    made, e = prior(), embeddings()
    assert torch.equal(made.predict(e, seed=1, temperature=0.0), made.predict(e, seed=2, temperature=0.0))


def test_embedding_decides_the_person():
    made, e = prior(), embeddings(2)
    same = e[:1].expand(2, -1)
    one, other = (made.predict(x, seed=1, temperature=0.0) for x in (same, e))
    torch.testing.assert_close(one[0], one[1])
    assert (other[0] - other[1]).abs().max() > 1e-2


# --- What is predicted ------------------------------------------------------------------------------------------------


class Knowing(Denoiser):
    """A denoiser that knows the one x there is, and says it as it is asked to."""

    def __init__(self, says, x):
        super().__init__(Z, D, width=8, depth=1)
        self.says, self.x = says, x

    def forward(self, z_t, t, embedding, dropped=None):
        from lorasynth.prior.schedule import CosineDDIM

        signal2 = CosineDDIM(self.says).alphas_cumprod[t][:, None]
        alpha, sigma = signal2.sqrt(), (1 - signal2).sqrt()
        noise = (z_t - alpha * self.x) / sigma
        return {"sample": self.x.expand_as(z_t), "epsilon": noise, "v_prediction": alpha * noise - sigma * self.x}[
            self.says
        ]


@pytest.mark.parametrize("says", ["v_prediction", "sample", "epsilon"])
def test_who_knows_the_answer_has_no_loss_and_samples_it(says):
    x = torch.tensor([0.5, -1.0, 2.0, 0.0])
    made = DiffusionPrior(Knowing(says, x), prediction_type=says)
    e = embeddings(64)
    loss = made.loss(x.expand(64, -1), e, torch.zeros(64, dtype=torch.bool), torch.Generator().manual_seed(0))
    assert loss.item() < 1e-6
    torch.testing.assert_close(made.predict(e, num_inference_steps=10), x.expand(64, -1), rtol=0, atol=2e-2)


def test_only_noise_keeps_a_signal_at_the_end():
    ends = {says: DiffusionPrior(Denoiser(Z, D, 16, 1), None, says).schedule for says in ("sample", "epsilon")}
    assert ends["sample"].alphas_cumprod[-1] == 0
    assert 0 < ends["epsilon"].alphas_cumprod[-1] < 1e-6


@pytest.mark.parametrize("says", ["v_prediction", "sample", "epsilon"])
def test_file_says_what_is_predicted_and_an_older_one_means_v(tmp_path, says):
    path = tmp_path / "prior.safetensors"
    DiffusionPrior(Denoiser(Z, D, 16, 1), None, says).save(path)
    assert DiffusionPrior.load(path).prediction_type == says
    tensors, header = read_tensors(path)
    del header["prediction_type"]
    write_tensors(path, tensors, header)
    assert DiffusionPrior.load(path).prediction_type == "v_prediction"


# --- Files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("conditioning", CONDITIONING)
def test_loading_undoes_saving_to_half_precision(tmp_path, conditioning):
    made, e = prior(conditioning), embeddings()
    made.save(tmp_path / "prior.safetensors")
    again = DiffusionPrior.load(tmp_path / "prior.safetensors")
    assert not again.training
    assert type(again.denoiser.blocks[0]) is CONDITIONING[conditioning]
    assert again.state_dict().keys() == made.state_dict().keys()
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, made.state_dict()[name].half().float()), name
    torch.testing.assert_close(again.predict(e), made.predict(e), rtol=0, atol=0.05)
    # What was read is written again as the same bytes.
    again.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "prior.safetensors").read_bytes()


def test_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "prior.safetensors"
    with pytest.raises(ModelError, match="not found"):
        DiffusionPrior.load(path)
    path.write_bytes(b"not safetensors at all")
    with pytest.raises(ModelError, match="expected a safetensors file"):
        DiffusionPrior.load(path)
    RidgePrior(torch.zeros(Z, D), torch.zeros(Z)).save(path)
    with pytest.raises(ModelError, match="spread: expected a tensor of 1 or more dimensions, got nothing"):
        DiffusionPrior.load(path)
    prior().save(path)
    tensors, header = read_tensors(path)
    for changed, also, said in (
        (tensors, {n: v for n, v in header.items() if n != "depth"}, "header, depth: expected a number, got None"),
        (tensors, header | {"depth": "3"}, "header, depth: expected a whole number from .*, got 3"),
        (tensors, header | {"width": "wide"}, "header, width: expected a number, got 'wide'"),
        (tensors, header | {"conditioning": "adanorm"}, "denoiser.blocks.0.*: expected a tensor, got nothing"),
        (tensors, header | {"conditioning": "magic"}, "header, conditioning: expected adalora, .*, got 'magic'"),
        (tensors | {"centre.weight": torch.zeros(Z)}, header, r"weight: expected shape \(Z, D\), got"),
        (tensors, header | {"centre": "Denoiser"}, "header, centre: expected 'NearestPrior' or .*, got 'Denoiser'"),
        (
            tensors,
            header | {"prediction_type": "noise"},
            "prediction_type: expected None or 'v_prediction' or .* got 'noise'",
        ),
        (
            {n: t for n, t in tensors.items() if n != "spread"},
            header,
            "spread: expected a tensor of 1 or more dimensions",
        ),
    ):
        write_tensors(path, changed, also)
        with pytest.raises(ModelError, match=said):
            DiffusionPrior.load(path)


def test_regression_as_centre_is_kept_and_saved_with_the_prior(tmp_path):
    torch.manual_seed(0)
    centre = RegressionPrior(D, Z, 8)
    made = DiffusionPrior(Denoiser(Z, D, width=16, depth=1), centre)
    made.train()
    e = torch.nn.functional.normalize(torch.randn(6, D), dim=1)
    # Training mode drops nothing in the centre, and its weights get no gradient.
    assert torch.equal(made.centre(e), made.centre(e))
    assert not any(p.requires_grad for p in made.centre.parameters())
    made.eval().save(tmp_path / "prior.safetensors")
    again = DiffusionPrior.load(tmp_path / "prior.safetensors")
    assert isinstance(again.centre, RegressionPrior)
    torch.testing.assert_close(again.predict(e, seed=1), made.predict(e, seed=1), rtol=0, atol=0.02)
