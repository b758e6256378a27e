import pytest
import torch
import torch.nn.functional as F

from lorasynth.encoders import Encoder, pool
from lorasynth.errors import PhotoError


def unit(rows: int, dim: int = 16) -> torch.Tensor:
    return F.normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(rows)), dim=1)


def test_one_photo_is_pooled_to_itself():
    embedding = unit(1)
    torch.testing.assert_close(pool(embedding), embedding[0])


def test_the_pooled_vector_is_the_unit_vector_with_the_largest_summed_cosine():
    embeddings = unit(5)
    pooled = pool(embeddings)
    torch.testing.assert_close(pooled.norm(), torch.tensor(1.0))
    assert (embeddings @ pooled).sum() > (embeddings @ unit(2000).T).sum(dim=0).max()


def test_the_order_of_photos_does_not_matter():
    embeddings = unit(4)
    torch.testing.assert_close(pool(embeddings), pool(embeddings.flip(0)))


def test_no_photo_is_an_error():
    with pytest.raises(PhotoError, match="at least one photo to pool, got none"):
        pool(torch.zeros(0, 4))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_embedding_that_is_not_finite_is_named(value):
    embeddings = unit(3)
    embeddings[1, 2] = value
    with pytest.raises(PhotoError, match="photo 1 is not finite"):
        pool(embeddings)


def test_photos_that_cancel_out_are_an_error():
    embedding = unit(1)
    with pytest.raises(PhotoError, match="expected photos of one person, got 2 embeddings"):
        pool(torch.cat([embedding, -embedding]))


def test_any_class_with_the_four_members_is_an_encoder():
    class Constant:
        name, embedding_dim, image_size = "constant", 4, 64

        def embed(self, images):
            return torch.ones(len(images), 4) / 2

    assert isinstance(Constant(), Encoder)
    assert not isinstance(object(), Encoder)
