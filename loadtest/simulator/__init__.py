"""What would a cache of this size, under this policy, have saved on this log?

Steps: read a log (`loadtest.prompt_log`), embed its texts once (`embeddings`), find which lie near which once
(`neighbours`), then replay it (`replay`) for every policy, size and set-up (`setup`) of a comparison (`study`).
"""
