"""Pictures of subjects to learn from, behind one signature: a folder of photographs, or a drawn world."""

from lorasynth.gallery.gallery import PhotoRef, Role, Split, Use

__all__ = ["PhotoRef", "Role", "Split", "Use"]
