"""Training: batch plan, objective, the loop, and what a finished training leaves."""

from bcls_core.training.evaluate import EVALUATION_ALGORITHM, EvaluateTraining, evaluate
from bcls_core.training.frozen import EncodeFrozenShard
from bcls_core.training.history import MODEL, History, read_history
from bcls_core.training.initial import BuildInitialStudent, initial_student
from bcls_core.training.loop import TrainingJob, train
from bcls_core.training.parallel import Workers
from bcls_core.training.plan import BatchPlan, batch_plan

__all__ = [
    "EVALUATION_ALGORITHM",
    "MODEL",
    "BatchPlan",
    "BuildInitialStudent",
    "EncodeFrozenShard",
    "EvaluateTraining",
    "History",
    "TrainingJob",
    "Workers",
    "batch_plan",
    "evaluate",
    "initial_student",
    "read_history",
    "train",
]
