"""What the paper's DPO baseline needs beyond OpenRLHF's DPO."""

import torch

from spo_rlhf import upstream


class DPOPositiveLoss(upstream.DPOLoss):
    """DPO-positive (arXiv 2402.13228, equation 3): DPO that also keeps the chosen response as likely as it was.

    loss = -log sigmoid(beta * [log ratio(chosen) - log ratio(rejected) - penalty * max(0, -log ratio(chosen))])

    where log ratio = log p(policy) - log p(reference). `penalty` 0 is DPO.
    """

    def __init__(self, penalty: float, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.penalty = penalty

    def forward(
        self,
        policy_chosen_B: torch.Tensor,
        policy_rejected_B: torch.Tensor,
        reference_chosen_B: torch.Tensor,
        reference_rejected_B: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Log-probabilities of whole responses (B,) -> mean loss, rewards (B,) of chosen and of rejected responses."""
        lost_B = torch.relu(reference_chosen_B - policy_chosen_B)
        loss, _, rejected_reward_B = super().forward(
            policy_chosen_B - self.penalty * lost_B, policy_rejected_B, reference_chosen_B, reference_rejected_B
        )
        return loss, self.beta * (policy_chosen_B - reference_chosen_B).detach(), rejected_reward_B
