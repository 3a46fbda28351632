"""What the pages say to somebody who never heard of watermarks: short sentences that translate."""

from __future__ import annotations

# What each part of a method assumes of an innocent model.
ASSUMPTIONS = {
    "csp": (
        "For each pair of classes the secret holds two random signs, + or -. A model that knows "
        "nothing of the secret agrees with them only by luck, as with coins. The chance that "
        "random signs agree with these answers as well as the committed ones do is computed over "
        "all possible signs, and bounded from above where they are more than a thousand."
    ),
    "usp": (
        "For each class and each other class the secret holds a random number; all of them "
        "together are a direction in space. A model that knows nothing of the secret points the "
        "same way only by luck. The chance that a random direction points as near to these "
        "answers as the committed one does is computed exactly."
    ),
    "margin": (
        "The last of the inputs are pictures that the secret drew, and for each of them it drew a "
        "class. A model that knows nothing of the secret answers that class only by luck. The "
        "chance that it would answer as many of them so is computed exactly."
    ),
}
# Each test, by the name that the evidence gives it.
TESTS = {
    "tails": "the whole secret: to which other classes each answer leans, beside the likeliest one",
    "pairs": "its part on what two classes show of each other (a new last layer keeps it)",
    "tails, beyond the unmarked model": "tails without what the model showed before it was marked",
    "pairs, beyond the unmarked model": "pairs without what the model showed before it was marked",
    "differences": "its part on which of two classes shows more: the customer's own",
    "mistakes": "the likeliest classes alone: which are confused more, or less, than expected",
    "triggers": "the answers to the pictures that the secret drew",
    "both": "tails and triggers together (Fisher's method)",
}
# What the effect of each kind of test is measured in.
EFFECTS = {
    "Signs": "agreement with the secret signs, weighted by how clearly the answers show each",
    "Direction": "cosine between the answers and the secret direction",
    "Binomial": "part of the trigger pictures that are answered as the secret says",
    "Both": "mean of both effects",
}
GLOSSARY = {
    "Mark": "a pattern that training put into a model's answers. It changes no usual answer.",
    "Key": "a secret file of the owner. The pattern follows from it.",
    "Commitment": "a number that fixes the key without showing it. It was published before.",
    "Probe": "an input, such as a picture, that the suspect is asked.",
    "Suspect": "the model of which the owner says that it derives from the marked one.",
    "p-value": "how often a model that knows nothing of the key would agree as well, by luck.",
    "Level": "how small the p-value must be for a claim.",
    "Trigger": "a probe that the key drew. Some methods have none.",
}
