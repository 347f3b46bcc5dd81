"""Small algebra of low-rank matrices: their singular values without ever writing them out."""

import torch

EXTRA = 16  # columns a randomised search looks at beyond the wanted rank
POWERS = 6  # of the matrix with itself, which make the wanted directions stand out


def svd_of_product(
    up: torch.Tensor, down: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(U, S, V) with U (out, k), S (k,), V (k, in) and U diag(S) V = up @ down, in float64.

    Works on the factors, so a (10240, 1280) product of rank 32 costs as little as a 32 x 32 one.
    """
    q_up, r_up = torch.linalg.qr(up.double())
    q_down, r_down = torch.linalg.qr(down.double().T)
    u, s, v = torch.linalg.svd(r_up @ r_down.T, full_matrices=False)
    return q_up @ u, s, v @ q_down.T


def balanced(
    u: torch.Tensor, s: torch.Tensor, v: torch.Tensor, rank: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(up (out, rank), down (rank, in)) of the largest `rank` values, both of the same size.

    Equal sizes lose least when they are written in 16 bit.
    """
    root = s[:rank].clamp(min=0).sqrt()
    return u[:, :rank] * root, root[:, None] * v[:rank]


def truncated_svd(
    matrix: torch.Tensor, rank: int, random: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The largest `rank` singular values and vectors of a dense (out, in) matrix.

    Exact for small matrices; for large ones the randomised range finder with power iterations
    (Halko et al., arXiv 0909.4061, algorithm 4.4), exact as well where the matrix has no higher
    rank than asked for.
    """
    matrix = matrix.float() if matrix.dtype.itemsize < 4 else matrix
    width = min(rank + EXTRA, *matrix.shape)
    if min(matrix.shape) <= max(256, 2 * width):
        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        return u[:, :rank], s[:rank], v[:rank]
    start = torch.randn(matrix.shape[1], width, generator=random).to(matrix)
    basis = torch.linalg.qr(matrix @ start)[0]
    for _ in range(POWERS):
        basis = torch.linalg.qr(matrix.T @ basis)[0]
        basis = torch.linalg.qr(matrix @ basis)[0]
    u, s, v = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
    return (basis @ u)[:, :rank], s[:rank], v[:rank]


def rank_for_energy(values: torch.Tensor, share: float) -> int:
    """The smallest rank whose singular values hold at least `share` of the squared sum."""
    energy = values.double().square().cumsum(0)
    if not len(values) or energy[-1] == 0:
        return 1
    enough = energy >= share * energy[-1] * (1 - 1e-12)
    return int(enough.nonzero()[0]) + 1
