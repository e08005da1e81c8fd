"""TESLA's approximation of the derivative: two passes over the inner run, and no second derivative by theta.

Cui, Wang, Si and Hsieh, ICML 2023, arXiv 2211.10586. The first pass trains, and adds up G = sum of the g_i. The second
goes through the same steps with theta_i held fixed. With D = |theta_0 - target|^2 the outer loss is taken for

    |theta_0 - lr G - target|^2 / D,    so    d outer/dx_i = 2 d<v, g_i>/dx_i / D
                                              v = lr (target - theta_0) + lr^2 G = -lr (theta_N - target)
                                              d outer/dlr = -2 <G, theta_N - target> / D

v is the same for all steps: this is the adjoint with every Hessian product left out. So it is the derivative if each
theta_i is taken for a constant, and the true one for N = 1 only; else the error grows with N, lr and the curvature. The
paper calls it exact. Its code loses the factor 2, which is here.

The equations hold for any outer loss of theta_N, and with momentum: lambda = d outer/dtheta_N in the place of
2 (theta_N - target) / D, and each step's m as in the adjoint.
"""

from condense.unroll.adjoint import walk_back
from condense.unroll.types import InnerRun, Unrolled


def tesla(run: InnerRun) -> Unrolled:
    """The approximate derivatives, in the memory and with the work of `adjoint`."""
    return walk_back(run, curvature=False)
