"""Outlines of plans, the levels of their queries and the branches that these evaluate, chosen on fine trajectories.

The network is evaluated along a few fine runs (:mod:`.recording`). From the inner products of what it predicted there
follows how well any outline could do, without the network (:mod:`.forecast`), given how predictions answer to errors of
the states (:mod:`.response`). The most promising outlines are rehearsed with the network (:mod:`.rehearsal`), which
gives their coefficients and measures these answers. :mod:`.insight` takes turns with both.
"""
