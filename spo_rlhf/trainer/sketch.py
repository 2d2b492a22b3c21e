"""What is kept of hidden states: a few numbers each, by a random projection that is the same on every rank and in every step."""

from collections.abc import Sequence

import torch


class Sketch:
    """Projects hidden states of any size onto `features` numbers and keeps them until they are taken.

    The projection has independent normal entries of variance 1/H, drawn from the seed: distances survive it on the average
    (Johnson and Lindenstrauss). Where a state has no more numbers than that, it is kept as it is, padded with zeros.
    """

    def __init__(self, features: int, seed: int):
        self.features, self.seed = features, seed
        self.kept: list[torch.Tensor] = []
        self._matrix_HD: torch.Tensor | None = None

    def keep(self, hidden: Sequence[torch.Tensor]) -> None:
        """Hidden states (B, T, H) of a pass, each left as (B, T, D) on the CPU."""
        self.kept += [self.projected(one).cpu() for one in hidden]

    def projected(self, hidden: torch.Tensor) -> torch.Tensor:
        size = hidden.shape[-1]
        if size <= self.features:
            return torch.nn.functional.pad(hidden.float(), (0, self.features - size))
        return hidden.float() @ self._matrix(size, hidden.device)

    def _matrix(self, size: int, device: torch.device) -> torch.Tensor:
        """(H, D), made at the first call."""
        if (made := self._matrix_HD) is None:
            generator = torch.Generator().manual_seed(self.seed % 2**63)
            made = self._matrix_HD = (torch.randn(size, self.features, generator=generator) / size**0.5).to(device)
        return made

    def take(self) -> list[torch.Tensor]:
        """All that was kept since the last call."""
        kept, self.kept = self.kept, []
        return kept
