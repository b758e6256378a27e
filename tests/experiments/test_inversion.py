"""Fitting coefficients by the base's own loss: right directions, and a photo that is denoised better."""

import pytest
import torch

from claims.inversion import fit_coefficients, principal_directions
from lorasynth.base import denoising_loss
from lorasynth.lora.bank import attached


def test_principal_directions_are_those_of_the_svd():
    x = torch.randn(12, 40, generator=torch.Generator().manual_seed(0))
    x -= x.mean(0)
    _, S, Vh = torch.linalg.svd(x, full_matrices=False)
    found = principal_directions(x, 5)
    torch.testing.assert_close(found.norm(dim=1), S[:5] / 11**0.5)
    cosines = (torch.nn.functional.normalize(found, dim=1) * Vh[:5]).sum(1).abs()
    torch.testing.assert_close(cosines, torch.ones(5))
    assert len(principal_directions(x, 99)) == 11


@pytest.mark.integration
def test_photo_is_denoised_better_with_what_was_fitted_to_it(context):
    form, rows, base = context.canonicalizer, context.scored[:2], context.world.base
    photos = context.photo_itself(rows)
    basis = principal_directions(context.x[context.train], 8)
    fitted = fit_coefficients(context.world.base, form, basis, photos, steps=12, learning_rate=0.3)

    def loss(x):
        """Of noises that fitting has not seen."""
        g = torch.Generator().manual_seed(7)
        noise = torch.randn(64, *photos.latents.shape[2:], generator=g).repeat(2, 1, 1, 1)
        level = base.schedule.row(torch.arange(0, 1000, 1000 // 64)[:64].repeat(2))
        latents, prompts, _ = photos.batch(torch.tensor([[0], [1]]), torch.zeros(2, 64, dtype=torch.long))
        with torch.no_grad(), attached(base.denoiser, form.layout, form.invert(x)):
            return denoising_loss(base, latents, noise, level, prompts).mean().item()

    assert loss(fitted) < loss(torch.zeros_like(fitted)) - 1e-3
    # In the span of the basis, and nowhere else.
    inside = (fitted @ basis.T / basis.square().sum(1)) @ basis
    torch.testing.assert_close(inside, fitted, rtol=1e-3, atol=1e-3 * float(fitted.abs().max()))


@pytest.mark.integration
def test_nobody_feels_who_else_is_fitted(context):
    basis = principal_directions(context.x[context.train], 4)
    settings = {"steps": 3, "learning_rate": 0.1}
    both, alone = (
        fit_coefficients(context.world.base, context.canonicalizer, basis, context.photo_itself(rows), **settings)
        for rows in (context.scored[:2], context.scored[:1])
    )
    assert both[0].tolist() == pytest.approx(alone[0].tolist(), abs=1e-3)
