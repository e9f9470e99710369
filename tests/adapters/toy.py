"""The small problem that the contract is checked on."""

from mma.adapters.toy import Toy, toy

__all__ = ["Toy", "toy"]
