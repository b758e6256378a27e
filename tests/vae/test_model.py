"""Before training, the VAE is the PCA that numpy's SVD gives."""

import numpy as np
import pytest
import torch

from lorasynth.errors import ModelError, ZooError
from lorasynth.storage.files import write_tensors
from lorasynth.vae import LoRAVAE
from lorasynth.vae.stem import Stem, principal_stem

SHAPES = pytest.mark.parametrize("shape", [(40, 15), (15, 40)])


def zoo(shape, seed=0):
    """Vectors of mean zero whose directions have very different sizes."""
    rng = np.random.default_rng(seed)
    sizes = np.geomspace(5, 0.2, shape[1])
    x = rng.normal(size=shape) * sizes @ np.linalg.qr(rng.normal(size=(shape[1], shape[1])))[0]
    return torch.tensor(x - x.mean(0), dtype=torch.float32)


def from_principal_components(x, num_components, latent_dim, **settings):
    return LoRAVAE.from_stem(x, principal_stem(x, num_components, [x.shape[1]], 10**6), latent_dim, **settings)


def basis_of(vae):
    """The stem's directions as rows."""
    return vae.stem.lift(torch.eye(vae.stem.num_components))


def svd_of(x, num_components):
    _, s, vh = np.linalg.svd(x.double().numpy(), full_matrices=False)
    return s[:num_components], vh[:num_components]


def trained(latent_dim=3):
    """A VAE whose every part does something."""
    vae = from_principal_components(zoo((40, 15)), 6, latent_dim, hidden_dim=16)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return vae.eval()


@SHAPES
@pytest.mark.parametrize("latent_dim", [1, 4, 8])
def test_it_begins_as_truncated_pca(shape, latent_dim):
    x = zoo(shape)
    vae = from_principal_components(x, 8, latent_dim, hidden_dim=16).eval()
    _, vh = svd_of(x, latent_dim)
    unseen = zoo(shape, seed=1)
    with torch.no_grad():
        for vectors in (x, unseen):
            expected = vectors.double().numpy() @ vh.T @ vh
            np.testing.assert_allclose(vae.decode(vae.encode(vectors)[0]).numpy(), expected, atol=2e-4)


@SHAPES
def test_no_linear_map_of_the_rank_reconstructs_better(shape):
    """Eckart-Young: what is lost is the sum of the squared singular values left out."""
    x = zoo(shape)
    vae = from_principal_components(x, 8, 4, hidden_dim=16).eval()
    lost = (x - vae.decode(vae.encode(x)[0])).square().sum().item()
    s = np.linalg.svd(x.numpy(), compute_uv=False)
    assert lost == pytest.approx(np.square(s[4:]).sum(), rel=1e-4)


@SHAPES
def test_stem_is_orthonormal_and_spans_leading_directions(shape):
    x = zoo(shape)
    basis = basis_of(from_principal_components(x, 8, 4, hidden_dim=16)).double().numpy()
    np.testing.assert_allclose(basis @ basis.T, np.eye(8), atol=1e-4)
    _, vh = svd_of(x, 8)
    np.testing.assert_allclose(basis.T @ basis, vh.T @ vh, atol=1e-4)


@SHAPES
def test_latents_of_the_training_split_are_white(shape):
    x = zoo(shape)
    mean, logvar = from_principal_components(x, 8, 5, hidden_dim=16).eval().encode(x)
    np.testing.assert_allclose(np.cov(mean.detach().numpy().T, bias=True), np.eye(5), atol=1e-3)
    np.testing.assert_allclose(mean.detach().numpy().mean(0), 0, atol=1e-4)
    assert (logvar.exp() < 0.1).all()


def test_coefficients_have_unit_size_and_lift_undoes_project():
    x = zoo((40, 15))
    vae = from_principal_components(x, 8, 4, hidden_dim=16)
    c = vae.project(x)
    assert np.square(c.numpy()).mean() == pytest.approx(1, rel=1e-4)
    torch.testing.assert_close(vae.project(vae.lift(c)), c, rtol=0, atol=1e-4)


def test_coefficient_errors_are_vector_errors_up_to_a_factor():
    x = zoo((40, 15))
    vae = from_principal_components(x, 8, 4, hidden_dim=16)
    one, two = torch.randn(2, 20, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close((vae.lift(one) - vae.lift(two)).norm(dim=1), vae.size * (one - two).norm(dim=1))


def test_correction_learns_though_it_starts_at_zero():
    x = zoo((40, 15))
    vae = from_principal_components(x, 8, 4, hidden_dim=16)
    vae.decode(vae.encode(x)[0]).square().sum().backward()
    for mlp in (vae.encoder.mlp, vae.decoder.mlp):
        assert (mlp[-1].weight == 0).all()
        assert mlp[-1].weight.grad.abs().max() > 0


def test_log_variance_stays_in_bounds():
    vae = trained()
    _, logvar = vae.encode(1e6 * zoo((40, 15)))
    assert (logvar.min().item(), logvar.max().item()) == (-10, 4)


def test_loading_undoes_saving_to_the_precision_of_the_file(tmp_path):
    vae = trained()
    vae.save(tmp_path / "vae.safetensors")
    again = LoRAVAE.load(tmp_path / "vae.safetensors")
    assert not again.training
    assert again.state_dict().keys() == vae.state_dict().keys()
    for name, tensor in again.state_dict().items():
        if name.startswith("stem."):
            stored = vae.state_dict()[name]
            assert (tensor - stored).abs().max() <= stored.abs().max() / 127 * 0.51
        else:
            assert torch.equal(tensor, vae.state_dict()[name].half().float()), name
    assert (again.encoder.mlp[2].p, again.encoder.mlp[0].out_features) == (0.1, 16)
    # What was read is written again as the same bytes, and does the same.
    again.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "vae.safetensors").read_bytes()
    x = zoo((40, 15))
    torch.testing.assert_close(again.decode(again.encode(x)[0]), vae.decode(vae.encode(x)[0]), rtol=0, atol=0.1)


def test_made_orthonormal_it_encodes_and_decodes_as_before():
    vae, x = trained(), zoo((40, 15), seed=1)
    z = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = (*vae.encode(x), vae.decode(z))
        assert not torch.allclose(basis_of(vae) @ basis_of(vae).T, torch.eye(6), atol=1e-2)
        vae.orthonormalize()
        assert torch.allclose(basis_of(vae) @ basis_of(vae).T, torch.eye(6), atol=1e-5)
        for a, b in zip((*vae.encode(x), vae.decode(z)), before, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=2e-3)


def test_latent_larger_than_the_components_or_empty_is_refused():
    for latent_dim in (0, 5):
        with pytest.raises(ZooError, match=f"expected a latent of 1 to 4 numbers .* got {latent_dim}"):
            LoRAVAE(Stem([torch.eye(10)], torch.eye(10)[:4]), latent_dim)


@pytest.mark.parametrize("shape", [(7, 30), (30, 7)])
def test_fewer_loras_or_numbers_than_components_are_refused(shape):
    with pytest.raises(ZooError, match=f"at least 9 LoRAs .* got {shape[0]} of {shape[1]}; make a larger zoo"):
        from_principal_components(zoo(shape), 8, 4)


def test_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "vae.safetensors"
    with pytest.raises(ModelError, match="not found"):
        LoRAVAE.load(path)
    path.write_bytes(b"PK\x03\x04 a zip")
    with pytest.raises(ModelError, match="expected a safetensors file"):
        LoRAVAE.load(path)
    tensors, header = trained().state_dict(), {"dropout": "0.1", "hidden_dim": "16"}
    for changed, also, said in (
        ({"weight": torch.zeros(2, 3)}, {}, "stem.across: expected a tensor of 1 or more dimensions, got nothing"),
        (tensors, {"dropout": "0.1"}, "header, hidden_dim: expected a number, got None"),
        (tensors, header | {"hidden_dim": "17"}, "header, hidden_dim: expected a whole number from 16 to 16, got 17"),
        (tensors, header | {"hidden_dim": "wide"}, "header, hidden_dim: expected a number, got 'wide'"),
        (tensors, header | {"dropout": "nan"}, "header, dropout: expected a number, got 'nan'"),
        (tensors | {"stem.across": torch.zeros(3, 5)}, header, "expected"),
        ({n: t for n, t in tensors.items() if n != "stem.local.0"}, header, "expected"),
        (tensors | {"extra": torch.zeros(3)}, header, r"extra: expected no such tensor, got \(3,\)"),
        (tensors | {"logvar.bias": tensors["logvar.bias"] * torch.nan}, header, "logvar.bias: expected finite numbers"),
    ):
        write_tensors(path, changed, also)
        with pytest.raises(ModelError, match=said):
            LoRAVAE.load(path)


def test_zoo_that_has_a_lora_twice_is_saved_and_read(tmp_path):
    """One direction of its span has no variance but rounding."""
    x = zoo((24, 60))
    x[1] = x[0]
    x -= x.mean(0)
    vae = from_principal_components(x, 23, 23, hidden_dim=16).eval()
    vae.save(tmp_path / "vae.safetensors")
    again = LoRAVAE.load(tmp_path / "vae.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(again.decode(again.encode(x)[0]), x, rtol=0, atol=0.05)
