"""The attacks: the contract, and one file each.

Each can be called without any config, on a module and tensors of your own:

    suspect = softmark.attacks.FineTune(epochs=5)(model, (inputs, labels))

Nothing is imported before it is used: the names below cost no torch.
"""

from importlib import import_module
from typing import Any

_NAMES = {
    "adaptive": ("Evade", "Overwrite"),
    "answers": (
        *("Abstain", "Calibrate", "Change", "DropRunnersUp", "Flatten", "Labels", "Noise"),
        *("Round", "Shuffle", "Subtract", "Swap", "Temper", "TopK"),
    ),
    "attention": ("AttentionDistillation",),
    "attack": ("Attack", "AttackResult", "Keep"),
    "boundary": ("CrossBorder",),
    "candidates": ("Candidate",),
    "collude": ("AnswerTogether", "AverageAnswers", "AverageWeights"),
    "connect": ("AverageIndependent", "Connect"),
    "datafree": ("DistillDataFree",),
    "dehydrate": ("Dehydrate",),
    "distill": (
        *("Distill", "DistillAugmented", "DistillAveraged", "DistillChanged", "DistillFew"),
        *("DistillLabelled", "DistillLabels", "DistillPlainly", "Student"),
    ),
    "fine_prune": ("FinePrune",),
    "finetune": ("FineTune", "ReTrain", "SelfDistill", "SmoothLabels", "TrainAdversarially"),
    "forge": ("Forge",),
    "heads": ("FitDiscriminant", "FitLogistic", "ServeNeighbours"),
    "highest_rate": ("HighestRate",),
    "independent": ("Independent",),
    "launder": ("Launder",),
    "neural_cleanse": ("NeuralCleanse",),
    "neurons": ("PruneNeurons",),
    "poisoned": ("Bias", "MisleadGradient", "ReverseSigmoid", "UniformNoise"),
    "outliers": ("PruneLipschitz", "PruneShifted"),
    "prune": ("Prune", "PruneFilters", "PruneInactive", "PruneLayers", "PruneToLimit"),
    "queries": ("DistillBoundary", "DistillMixtures", "DistillNoise", "DistillPhotographs"),
    "recover": ("DistillRecovered",),
    "refit": ("Refit",),
    "repairs": ("FineTuneFlat", "Forget", "ShiftFeatures"),
    "rescale": ("Obfuscate", "Rescale"),
    "rnp": ("PruneReconstructive",),
    "sau": ("UnlearnShared",),
    "search": ("Search",),
    "served": (
        *("Blur", "InputChange", "Inputs", "Jpeg", "Levels", "Median", "Mirror", "PixelNoise"),
        *("Serve", "ServeOwnTail", "ServeTogether", "Smoothing"),
    ),
    "smoothing": ("SmoothBySimilarity",),
    "surrogates": ("DistillEnsemble",),
    "unlearn": ("Unlearn",),
    "weights": (
        *("AddNoise", "AveragePath", "AverageStudent", "Quantise", "QuantiseAware"),
        *("Regularise", "ShiftWeights"),
    ),
}
_WHERE = {name: module for module, names in _NAMES.items() for name in names}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'softmark.attacks' has no attribute {name!r}")
    return getattr(import_module(f"softmark.attacks.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return __all__
