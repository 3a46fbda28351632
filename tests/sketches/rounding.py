"""The attacker's interface rounds its answers."""

from softmark.attacks.attack import Attack, AttackResult


class Rounding(Attack):
    access = "weights"

    def __init__(self, digits):
        self.digits = digits

    def apply(self, target, data, fit):
        return AttackResult(target)

    def serve(self, answer):
        return lambda images: answer(images).mul(10**self.digits).round() / 10**self.digits
