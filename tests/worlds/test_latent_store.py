"""Latents of drawn photos that are made when they are first asked for."""

import pytest
import torch

from lorasynth.errors import UsageError
from lorasynth.worlds.latent_store import LatentStore
from lorasynth.worlds.portraits.domain import DOMAIN
from lorasynth.worlds.vae import affine_encoder, build_vae, encode_affine

PERSONS, PHOTOS = [5, 6, 7, 8], [0, 3, 0, 1]


@pytest.fixture(scope="module")
def vae():
    return build_vae(DOMAIN.photos(list(range(40)), [0] * 40, 32))


def opened(vae, folder, persons=PERSONS):
    return LatentStore.open(DOMAIN, vae, 32, persons, PHOTOS[: len(persons)], folder)


def test_latents_are_those_of_the_drawn_photos(vae, tmp_path):
    found = opened(vae, tmp_path).latents(torch.tensor([2, 0, 2]))
    expected = encode_affine(*affine_encoder(vae), DOMAIN.photos([7, 5, 7], [0, 0, 0], 32))
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=2e-3)


def test_rows_are_made_once_and_only_those_asked_for(vae, tmp_path):
    store = opened(vae, tmp_path)
    first = store.latents(torch.tensor([1, 3]))
    assert store.made.tolist() == [0, 1, 0, 1]
    another = build_vae(DOMAIN.photos(list(range(60, 100)), [0] * 40, 32))  # what is there is read, not encoded again
    assert torch.equal(opened(another, tmp_path).latents(torch.tensor([1, 3])), first)


def test_row_is_the_same_in_any_company(vae, tmp_path):
    together = opened(vae, tmp_path / "a").latents(torch.arange(4))
    store = opened(vae, tmp_path / "b")
    alone = torch.cat([store.latents(torch.tensor([row])) for row in (3, 1, 0, 2)])
    assert torch.equal(alone, together[[3, 1, 0, 2]])


def test_store_of_other_photos_is_refused(vae, tmp_path):
    opened(vae, tmp_path)
    with pytest.raises(
        UsageError, match=r"latents.npy: expected float16 of shape \(3, 16, 4, 4\), got float16 of \(4,"
    ):
        opened(vae, tmp_path, PERSONS[:3])
