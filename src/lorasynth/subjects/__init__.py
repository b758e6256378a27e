"""Subjects as training and scoring need them: photos as a base sees them, embeddings, and who serves which purpose."""

from lorasynth.subjects.protocol import GIVEN, SECOND, SIMILARITY, Draw, Extras, Recogniser, Subjects, mean_directions

__all__ = ["GIVEN", "SECOND", "SIMILARITY", "Draw", "Extras", "Recogniser", "Subjects", "mean_directions"]
