"""Training: batch plan, objective, the loop, and what a finished training leaves.

Nothing is imported here: reading the history of a training should not cost the import of a deep-learning framework.
"""
