"""Pictures of subjects to learn from, behind one signature: a folder of photographs, or a drawn world."""

from lorasynth.gallery.gallery import Gallery, PhotoRef, Role, Split, Use

__all__ = ["Gallery", "PhotoRef", "Role", "Split", "Use"]
