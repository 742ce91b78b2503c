"""Learning: the recipe of the starter model, styles of one's own, taste, and fine-tuning on it.

`dataset` makes the corpus, `stages` are the recipe, `preference` learns from votes. What lies here
beside them is what all share (loop, checkpoint, team, ...), LoRA, and the fine-tuning engine.
"""
