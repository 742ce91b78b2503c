"""The autoencoder's adversarial term: a critic of patches, and how much its verdict weighs.

The critic is a small PatchGAN (Isola et al. 2017): for every patch of 34 x 34 pixels one number,
large where it takes the patch for a picture's and small for a reconstruction's. It learns with the
hinge loss while the autoencoder learns to be taken for real, with the weight of Esser et al. 2021
(equation 7, "VQGAN"), which gives both terms gradients of equal length at the decoder's last layer.

Critic and autoencoder take their steps together from one backward pass: the verdict that the
autoencoder learns from is given by a frozen copy, and the critic sees reconstructions as they are.
So one optimizer holds both, and a checkpoint of the one is a checkpoint of the other.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from studio.training.team import Team

STRONGEST = 1e4  # the adaptive weight at most, as in the paper's code


class PatchCritic(nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1] -> verdicts (B, 1, H/4 - 2, W/4 - 2).

    Group instead of batch normalisation: what is said of a picture does not depend on the others,
    so processes that train together come to what one alone would.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1, bias=False),
            nn.GroupNorm(8, 2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 4 * width, 4, stride=1, padding=1, bias=False),
            nn.GroupNorm(8, 4 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(4 * width, 1, 4, stride=1, padding=1),
        )

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the verdicts."""
        return self.layers(pictures)

    def frozen(self, pictures: Tensor) -> Tensor:
        """Return the same verdicts, from which nothing is learned about the critic itself."""
        weights = {name: value.detach() for name, value in self.named_parameters()}
        return torch.func.functional_call(self, weights, (pictures,))


def adversarial_losses(
    critic: PatchCritic, rebuilt: Tensor, pictures: Tensor
) -> tuple[Tensor, Tensor]:
    """Return what the autoencoder minimises, -E[D(x')], and what the critic does; () in fp32 each.

    rebuilt, pictures: (B, 3, H, W). The first teaches nothing to the critic, the second nothing to
    the autoencoder.
    """
    fooling = -critic.frozen(rebuilt).float().mean()
    learning = hinge_loss(critic(pictures).float(), critic(rebuilt.detach()).float())
    return fooling, learning


def hinge_loss(real: Tensor, rebuilt: Tensor) -> Tensor:
    """Return what the critic minimises, of its verdicts on pictures and on reconstructions.

    (E[max(0, 1 - D(x))] + E[max(0, 1 + D(x'))]) / 2, Lim & Ye 2017; () from any shapes.
    """
    return ((1 - real).relu().mean() + (1 + rebuilt).relu().mean()) / 2


def adaptive_weight(rebuilding: Tensor, fooling: Tensor, last: Tensor, team: Team) -> Tensor:
    """Return |d rebuilding / d last| / |d fooling / d last|: Esser et al. 2021, equation 7.

    rebuilding, fooling: () losses of this process's part, adding up to the batch's in a team; last:
    the weights of the decoder's last layer. The result () is a constant to the backward pass.
    """
    norms = [
        team.total(torch.autograd.grad(loss, last, retain_graph=True)[0].float()).norm()
        for loss in (rebuilding, fooling)
    ]
    return (norms[0] / (norms[1] + 1e-4)).clamp(max=STRONGEST).detach()
