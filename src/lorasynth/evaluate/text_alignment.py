"""Does a picture show what its prompt says? Cosines of both by the two towers of one CLIP model."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lorasynth.encoders.images import to_image
from lorasynth.encoders.naming import open_model
from lorasynth.encoders.towers import ImageTower, open_parts
from lorasynth.errors import ModelError
from lorasynth.storage.reading import read_json

_VOCABULARIES = (("tokenizer.json",), ("vocab.json", "merges.txt"))


class TextAlignment:
    """CLIP-T of DreamBooth (Ruiz et al., CVPR 2023, Section 5): the mean cosine of prompts and pictures.

    Why this metric: likeness alone is highest for a LoRA that draws one photo whatever is asked. Good is what the base alone
    has. Cosines of the published CLIP models lie between 0.2 and 0.35, so compare rows, not models.
    """

    def __init__(self, name: str):
        """Open a CLIP model.

        Args:
            name: a folder as transformers saves it, or a hub id; with "clip:" before it or without.

        Raises:
            UsageError: nothing lies there.
            ModelError: it is no CLIP model with both of its towers and its tokenizer.
        """
        tower = open_model(f"clip:{name.removeprefix('clip:')}")
        assert isinstance(tower, ImageTower)
        self.name, self._tower, folder = str(tower.record["name"]), tower, tower.folder
        if (found := read_json(folder / "config.json")["model_type"]) != "clip":
            raise ModelError(f"{folder}: expected CLIP with its text tower, got {found!r} alone; give the whole model")
        if not any(all((folder / file).is_file() for file in files) for files in _VOCABULARIES):
            raise ModelError(
                f"{folder}: expected CLIP's tokenizer.json, got none; take it from where the model is from"
            )
        self._model, self._tokenizer = open_parts(folder, "CLIPModel", "CLIPTokenizer")
        del self._model.vision_model
        words = self._model.config.text_config.vocab_size
        if len(self._tokenizer) > words:
            raise ModelError(
                f"{folder}: expected at most {words} words, got {len(self._tokenizer)}; get its own tokenizer"
            )

    def __call__(self, pictures: Float[Tensor, "N K 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " N"]:
        """The mean cosine of each person's K pictures, each with its own prompt."""
        embedded = self._tower.pictures([to_image(picture) for picture in pictures.flatten(0, 1)])
        return (embedded.unflatten(0, pictures.shape[:2]) * self.embed(prompts)).sum(2).mean(1).cpu()

    @torch.no_grad()
    def embed(self, prompts: Sequence[str]) -> Float[Tensor, "K D"]:
        """Unit embeddings of prompts, cut at as many tokens as the model takes."""
        most = self._model.config.text_config.max_position_embeddings
        tokens = self._tokenizer(list(prompts), padding=True, truncation=True, max_length=most, return_tensors="pt")
        tokens = tokens.to(self._model.device)
        states = self._model.text_model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
        return F.normalize(self._model.text_projection(states.pooler_output), dim=1)
