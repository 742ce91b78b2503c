"""The corpus: from pinned packages to captioned pictures, scenes and the held-out split."""
